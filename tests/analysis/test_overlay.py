"""Pictures of maps: the right place, the right proportions, an order that survives in gray."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared import shared_data
from vitkit.analysis.overlay import (
    DIMMED,
    MOST,
    STOPS,
    colours,
    covered,
    displayed,
    jpeg,
    open_view,
    overlay,
    peak,
    png,
    spread,
)
from vitkit.data.bands import Bands
from vitkit.data.pixels import ImageError, Preprocess
from vitkit.data.seen import Box
from vitkit.models.vit import ViTConfig

GRAY = np.array((0.299, 0.587, 0.114))
CONFIG = ViTConfig(
    embed_dim=16, depth=1, num_heads=2, mlp_dim=16, patch_size=(8, 8), image_size=(32, 32), num_classes=2
)


def test_lightness_rises_with_the_heat() -> None:
    gray = colours(np.linspace(0, 1, 201)) @ GRAY
    assert (np.diff(gray) > 0).all()
    assert gray[0] < 30
    assert gray[-1] > 225
    assert colours(np.array([-1.0, 0.0, 1.0, 2.0])).tolist() == [[*STOPS[0]], [*STOPS[0]], [*STOPS[-1]], [*STOPS[-1]]]


def test_a_map_is_interpolated_between_the_middles_of_its_cells() -> None:
    values = np.array([[0.0, 1.0], [2.0, 4.0]])
    heat, covered_box = spread(values, Box(0, 0, 8, 8), (8, 8))
    assert covered_box == (0, 0, 8, 8)
    assert heat.shape == (8, 8)
    at = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)  # written out: pixel middles in cells
    expected = [[(1 - y) * ((1 - x) * 0 + x * 1) + y * ((1 - x) * 2 + x * 4) for x in at] for y in at]
    np.testing.assert_allclose(heat, expected, atol=1e-6)


@pytest.mark.parametrize(
    "box", [Box(10, 20, 50, 40), Box(-30, -5, 90, 75), Box(0, 0, 64, 64), Box(3.4, 9.9, 4.2, 10.3)]
)
def test_the_hottest_pixel_lies_where_the_hottest_cell_does(box: Box) -> None:
    for row in range(4):
        for column in range(5):
            values = np.zeros((4, 5), np.float32)
            values[row, column] = 3
            x, y = peak(values, box)
            heat, (left, top, right, bottom) = spread(values, box, (64, 64))
            assert heat.shape == (bottom - top, right - left)
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 64
            if left <= x < right and top <= y < bottom and min(heat.shape) > 8:
                found_y, found_x = np.unravel_index(int(heat.argmax()), heat.shape)
                assert abs(found_x + left + 0.5 - x) <= (box.right - box.left) / 10 + 1
                assert abs(found_y + top + 0.5 - y) <= (box.bottom - box.top) / 8 + 1


def test_what_is_not_seen_is_dimmed_and_the_rest_outlined() -> None:
    image = Image.new("RGB", (100, 60), (200, 200, 200))
    values = np.ones((2, 2))
    done = np.asarray(overlay(image, values, Box(20, 0, 80, 60)), float)
    assert done.shape == (60, 100, 3)
    np.testing.assert_allclose(done[:, :20], round(200 * DIMMED), atol=1)
    np.testing.assert_allclose(done[:, 80:], round(200 * DIMMED), atol=1)
    assert (done[:, 20] == 255).all()
    assert (done[:, 79] == 255).all()
    assert (done[5:-5, 30:70] @ GRAY > 150).all()
    whole = np.asarray(overlay(image, values, Box(-20, 0, 120, 60)))  # padded: all is seen, no line
    assert (whole == whole[0, 0]).all()


def test_a_hot_black_place_is_lighter_than_a_cold_white_one() -> None:
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8).repeat(20, 1).repeat(20, 0)[..., None], 3, 2))
    done = np.asarray(overlay(image, np.array([[1.0, 0.0]]), Box(0, 0, 40, 20)).convert("L"), float)
    assert done[:, :8].min() > done[:, -8:].max() + 30


def test_a_map_of_zeros_is_drawn_as_nothing() -> None:
    done = np.asarray(overlay(Image.new("RGB", (8, 8), (9, 9, 9)), np.zeros((2, 2)), Box(0, 0, 8, 8)))
    assert done.max() < 60


@pytest.mark.parametrize(
    ("size", "expected"),
    [((3200, 1000), (1600, 500)), ((500, 400), (500, 400)), ((32, 20), (320, 200)), ((1, 400), (1, 400)), ((1, 1), (336, 336)),
     ((9000, 2), (1600, 1))],
)  # fmt: skip
def test_pictures_keep_their_proportions(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert displayed(Image.new("RGB", size)).size == expected
    assert max(expected) <= MOST


def test_other_channels_than_three_become_visible() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 2, 5):
        values = rng.normal(1000, 50, (400, 400, channels)).astype(np.float32)
        shown = np.asarray(displayed(Bands.of(values)))
        assert shown.shape == (400, 400, 3)
        assert shown.min() == 0
        assert shown.max() == 255
        assert (np.ptp(shown.astype(int), axis=2) == 0).all() == (channels < 3)
    assert np.asarray(displayed(Bands.of(np.full((400, 400, 2), 7, np.float32)))).max() == 0


def test_an_image_is_opened_for_the_model_and_for_the_eye() -> None:
    record = Preprocess((32, 32))
    view = open_view(Image.new("RGB", (60, 40), (10, 200, 30)), record, CONFIG)
    assert view.pixels.shape == (3, 32, 32)
    assert view.size == (40, 60)
    assert view.seen == (10, 0, 50, 40)
    assert view.seen_share == pytest.approx(2 / 3)
    assert view.shown.size == (300, 200)
    assert view.over(np.ones((4, 4))).size == (300, 200)
    with pytest.raises(ImageError, match="0x0"):
        open_view(Image.new("RGB", (0, 0)), record, CONFIG)


def test_dropped_edges_count_as_not_seen_and_stems_count_in_pixels() -> None:
    small = ViTConfig(embed_dim=16, depth=1, num_heads=2, mlp_dim=16, patch_size=(12, 10), image_size=(32, 32))
    assert covered(small) == (24, 30)
    hybrid = ViTConfig(
        embed_dim=16, depth=1, num_heads=2, mlp_dim=16, patch_size=(1, 1), image_size=(70, 64), stem=(1, 1)
    )
    assert hybrid.grid == (9, 8)
    assert covered(hybrid) == (72, 64)
    view = open_view(Image.new("RGB", (32, 32)), Preprocess((32, 32)), small)
    assert view.seen == (0, 0, 30, 24)


@pytest.mark.parametrize("number", range(2, 9))
def test_pictures_are_upright(number: int) -> None:
    folder = shared_data("odd_images", "files")
    record = Preprocess((32, 32))
    plain = open_view(folder / "hopper.jpg", record, CONFIG)
    turned = open_view(folder / f"hopper_orientation_{number}.jpg", record, CONFIG)
    assert turned.size == plain.size
    a, b = (np.asarray(view.shown.resize((32, 32)), float) for view in (plain, turned))
    assert np.abs(a - b).mean() < 6


def test_files_of_pictures(tmp_path: Path) -> None:
    image = Image.new("RGB", (900, 300), (1, 2, 3))
    assert Image.open(io.BytesIO(png(image))).size == (900, 300)
    assert Image.open(io.BytesIO(jpeg(image, 300))).size == (300, 100)
    assert image.size == (900, 300)
