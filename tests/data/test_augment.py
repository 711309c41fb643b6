"""Random views: drawn from the generator passed in alone, of the stated range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from vitkit.config import UserError
from vitkit.data.augment import Augment, augment_image, crop_box
from vitkit.data.pixels import Preprocess, fit_image

EVERYTHING = Augment(crop_area=0.4, flip=True, jitter=0.3, shift=0.2)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ramps(width: int, height: int) -> Image.Image:
    """Red rises from left to right, green from top to bottom, both over the whole range."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def views(image: Image.Image, record: Preprocess, augment: Augment, count: int) -> list[np.ndarray]:
    return [augment_image(image, record, augment, np.random.default_rng(seed)) for seed in range(count)]


def test_a_view_is_a_function_of_the_generator_alone() -> None:
    record = Preprocess((24, 24))
    first, again = (views(noise(40, 30), record, EVERYTHING, 3) for _ in range(2))
    np.random.seed(0)  # the global generators have no say
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("augment", [Augment(), Augment(crop_area=0.1), Augment(shift=0.5), EVERYTHING])
def test_every_view_has_the_size_of_the_record(fit: str, augment: Augment) -> None:
    for size in ((40, 30), (1, 50), (9, 9)):
        for view in views(noise(*size), Preprocess((16, 28), fit=fit), augment, 3):
            assert view.shape == (16, 28, 3)
            assert view.dtype == np.uint8


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_without_changes_a_view_is_what_evaluation_sees(fit: str) -> None:
    record = Preprocess((16, 28), fit=fit, crop_fraction=0.875)
    image = noise(40, 30)
    assert np.array_equal(augment_image(image, record, Augment(), np.random.default_rng(0)), fit_image(image, record))


def test_crop_boxes_lie_inside_and_have_the_stated_area_and_aspect() -> None:
    rng = np.random.default_rng(0)
    augment = Augment(crop_area=0.2, crop_aspect=1.5)
    areas = []
    for _ in range(500):
        left, top, right, bottom = crop_box(rng, (300, 200), 1.25, augment)
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        areas.append((right - left) * (bottom - top) / (300 * 200))
        aspect = (right - left) / (bottom - top) / 1.25
        assert 1 / 1.5 - 1e-9 <= aspect <= 1.5 + 1e-9
    assert min(areas) >= 0.2 - 1e-9
    assert min(areas) < 0.25
    assert 0.8 < max(areas) <= 1


def test_where_no_crop_fits_the_largest_in_the_centre_is_taken() -> None:
    box = crop_box(np.random.default_rng(0), (1000, 10), 1.0, Augment(crop_area=0.9, crop_aspect=1.0))
    assert box == (495, 0, 505, 10)


def test_a_view_is_mirrored_in_half_of_the_cases_and_only_when_asked() -> None:
    record = Preprocess((8, 8))
    image = noise(8, 8)
    plain = np.asarray(image)
    mirrored = [np.array_equal(view, plain[:, ::-1]) for view in views(image, record, Augment(flip=True), 60)]
    assert all(
        flipped or np.array_equal(view, plain)
        for flipped, view in zip(mirrored, views(image, record, Augment(flip=True), 60), strict=True)
    )
    assert 15 < sum(mirrored) < 45
    for augment in (Augment(shift=0.1), Augment(crop_area=0.5), Augment(jitter=0.1)):
        for view in views(ramps(32, 32), record, augment, 20):
            assert view[:, 0, 0].mean() < view[:, -1, 0].mean()  # red still rises to the right


def test_a_shift_moves_by_up_to_its_part_and_repeats_the_edge() -> None:
    image = Image.new("RGB", (40, 40), (90, 90, 90))
    image.paste((255, 255, 255), (18, 18, 22, 22))
    moves = []
    for view in views(image, Preprocess((40, 40)), Augment(shift=0.25), 40):
        light = view[..., 0].astype(float) - 90
        rows, columns = (light.sum(axis) @ (np.arange(40) + 0.5) / light.sum() - 20 for axis in (1, 0))
        moves.append((rows, columns))
        assert light.min() >= 0  # nothing black comes in
    extent = np.abs(moves).max(axis=0)
    assert (extent <= 10 + 0.1).all()
    assert (extent > 6).all()
    assert len({round(row, 2) for row, _ in moves}) > 30


def test_jitter_changes_colours_and_not_the_place_of_things() -> None:
    view = augment_image(ramps(32, 32), Preprocess((32, 32)), Augment(jitter=0.4), np.random.default_rng(3))
    plain = np.asarray(ramps(32, 32))
    assert not np.array_equal(view, plain)
    assert np.corrcoef(view[..., 0].ravel(), plain[..., 0].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_crops_follow_the_fit(fit: str) -> None:
    """A 2:1 image and a square model: fit=crop cuts squares of pixels, fit=squash cuts 2:1 pieces and squashes them."""
    record = Preprocess((32, 32), fit=fit)
    for view in views(ramps(400, 200), record, Augment(crop_area=0.1, crop_aspect=1.0), 10):
        across, down = (np.ptp(view[..., channel].astype(int)) for channel in (0, 1))
        expected = 0.5 if fit == "crop" else 1.0  # part of the width seen per part of the height seen
        assert math.isclose(across / down, expected, rel_tol=0.1)


def test_padded_crops_come_from_the_padded_image() -> None:
    record = Preprocess((32, 32), fit="pad", mean=(1.0, 1.0, 1.0))
    image = Image.new("RGB", (64, 16))  # black, padded with white above and below
    shares = [(view == 255).mean() for view in views(image, record, Augment(crop_area=0.5), 10)]
    assert all(0.3 < share < 0.95 for share in shares)


@pytest.mark.parametrize(
    "wrong", [{"crop_area": 0}, {"crop_area": 1.2}, {"crop_aspect": 0.5}, {"jitter": 1}, {"shift": -0.1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Augment(**wrong)  # type: ignore[arg-type]
