"""Pictures in their data: what is on the axes is what was given, and files are the same at every run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.unfused import drawn
from vitkit.analysis.draw import SEQUENTIAL, drawing
from vitkit.analysis.figures import (
    draw_distance,
    draw_entropy,
    draw_filters,
    draw_layers,
    draw_outliers,
    draw_similarity,
    draw_token_norms,
    filter_mosaic,
    similarity_mosaic,
)
from vitkit.analysis.filters import Filters, filter_components, scaled_tiles
from vitkit.analysis.positions import Similarity, position_similarity
from vitkit.config import UserError

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")


def filters_of(count: int, channels: int) -> Filters:
    components = np.random.default_rng(0).normal(size=(count, 4, 4, channels))
    return Filters(components, np.full(count, 1 / count), np.full(count, 0.1), 0.38)


def test_filters_stand_in_rows_of_seven() -> None:
    filters = filters_of(28, 3)
    picture = filter_mosaic(filters)
    tiles = scaled_tiles(filters.components)
    assert picture.shape == (4 * 4 + 3, 7 * 4 + 6, 3)
    assert (picture[4] == 1).all()  # white between them
    for number in (0, 6, 7, 27):
        top, left = number // 7 * 5, number % 7 * 5
        assert (picture[top : top + 4, left : left + 4] == tiles[number]).all()


@pytest.mark.parametrize(("channels", "shape"), [(1, (9, 34)), (2, (19, 26)), (5, (49, 20)), (9, (49, 36))])
def test_other_channels_are_gray_pictures_side_by_side(channels: int, shape: tuple[int, int]) -> None:
    filters = filters_of(10, channels)
    picture = filter_mosaic(filters)
    assert picture.shape == (*shape, 3)
    assert (picture[..., 0] == picture[..., 1]).all()
    last = scaled_tiles(filters.components)[0, :, :, channels - 1]
    left = 4 * (channels - 1)
    assert (picture[:4, left : left + 4, 0] == last).all()


def test_the_grid_of_grids_has_each_map_at_its_patch() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (3, 2, 6, 4))
    picture = similarity_mosaic(Similarity(values, (0, 2, 4), (0, 2)))
    assert picture.shape == (3 * 6 + 2, 2 * 4 + 1)
    assert (picture[14:20, 5:9] == values[2, 1]).all()
    assert np.isnan(picture[6]).all()
    with drawing(4, 4) as page:
        draw_similarity(page.one, Similarity(values, (0, 2, 4), (0, 2)))
        (image,) = page.one.images
        assert np.array_equal(image.get_array().filled(np.nan), picture, equal_nan=True)
        assert image.get_clim() == (-1, 1)
        assert [label.get_text() for label in page.one.get_yticklabels()] == ["1", "3", "5"]
        assert list(page.one.get_yticks()) == [2.5, 9.5, 16.5]
        assert [label.get_text() for label in page.one.get_xticklabels()] == ["1", "3"]


def test_every_head_has_its_dot() -> None:
    distance = np.array([[10.0, 40], [30, 50], [90, 100]])
    with drawing(4, 3) as page:
        draw_distance(page.one, distance, 116.5)
        (dots,) = page.one.collections
        assert dots.get_offsets().tolist() == [[0, 10], [0, 40], [1, 30], [1, 50], [2, 90], [2, 100]]
        mean, uniform = page.one.lines
        assert mean.get_ydata().tolist() == [25, 40, 95]
        assert list(uniform.get_ydata()) == [116.5, 116.5]
        assert page.one.get_ylim()[1] > 116.5
        assert "pixels" in page.one.get_ylabel()
    with drawing(4, 3) as page:
        draw_entropy(page.one, distance / 116)
        assert page.one.lines[1].get_ydata()[0] == 1
        draw_distance(page.one, distance)


def test_layers_norms_and_outliers() -> None:
    cka = np.array([[1, 0.5, np.nan], [0.5, 1, np.nan], [np.nan] * 3])
    with drawing(4, 3) as page:
        draw_layers(page.one, cka)
        shown = page.one.images[0]
        assert np.array_equal(shown.get_array().filled(np.nan), cka, equal_nan=True)
        assert shown.get_clim() == (0, 1)
    with drawing(8, 3, columns=2) as page:
        lines = [("greatest", np.array([5.0, 90])), ("median", np.array([1.0, 2]))]
        draw_token_norms(page.axes[0, 0], lines)
        assert {line.get_label(): line.get_ydata().tolist() for line in page.axes[0, 0].lines} == {
            "greatest": [5, 90], "median": [1, 2],
        }  # fmt: skip
        assert page.axes[0, 0].get_yscale() == "log"
        assert [label.get_text() for label in page.axes[0, 0].get_yticklabels()] == [
            "1",
            "2",
            "5",
            "10",
            "20",
            "50",
            "100",
            "200",
            "500",
        ]
        styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in page.axes[0, 0].lines}
        assert len({style[1] for style in styles}) == len({style[2] for style in styles}) == 2  # not by colour alone
        draw_outliers(page.axes[0, 1], np.array([0, 0.25]))
        assert [bar.get_height() for bar in page.axes[0, 1].patches] == [0, 25]
    with drawing(4, 3) as page:
        draw_outliers(page.one, np.zeros(3))
        assert [text.get_text() for text in page.one.texts] == ["none"]


def test_files_are_the_same_at_every_run_and_vector(tmp_path: Path) -> None:
    model = drawn()
    for run in ("a", "b"):
        with drawing(8, 4, columns=2) as page:
            draw_filters(page.axes[0, 0], filter_components(model))
            draw_similarity(page.axes[0, 1], position_similarity(model))
            page.save(tmp_path / run)
    for suffix in (".svg", ".png"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_the_colour_map_is_readable_in_gray() -> None:
    from matplotlib import colormaps

    lightness = colormaps[SEQUENTIAL](np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_without_matplotlib_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"matplotlib, which is not installed.*vitkit\[figures\]"), drawing(1, 1):
        pass
