"""Sentences say what the numbers say, and call a pattern the paper's only where it is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from vitkit.analysis.filters import Filters
from vitkit.analysis.findings import (
    distance_finding,
    entropy_finding,
    filter_finding,
    layer_finding,
    norm_finding,
    position_finding,
    rank_correlation,
)
from vitkit.analysis.positions import Structure
from vitkit.analysis.survey import Surveyed
from vitkit.analysis.tokens import Norms


def surveyed(**changes: Any) -> Surveyed:
    zeros = np.zeros(5)
    norms = Norms(zeros, zeros, zeros, np.zeros((5, 1)), zeros, zeros)
    grow = np.array([[10.0, 70], [30, 60], [50, 90], [100, 110]])
    return Surveyed(8, grow, grow, grow / 40, 116.5, 3.0, np.eye(5), 8, norms)._replace(**changes)


def filters_of(explained: list[float], frequency: list[float]) -> Filters:
    return Filters(np.zeros((len(explained), 2, 2, 3)), np.array(explained), np.array(frequency), 0.4)


def test_filters() -> None:
    smooth = filter_finding(filters_of([0.6, 0.1], [0.1, 0.5]))
    assert smooth.holds
    assert "first 2 components hold 70 %" in smooth.text
    assert (
        "1 of them vary at most half as fast as noise, 1 faster than noise: a few smooth basis functions" in smooth.text
    )
    assert not filter_finding(filters_of([0.2, 0.2], [0.1, 0.1])).holds  # of too many dimensions
    rough = filter_finding(filters_of([0.5, 0.2], [0.5, 0.1]))
    assert not rough.holds
    assert "not the few smooth" in rough.text
    pixels = filter_finding(filters_of([0.6, 0.4], [0.0, 0.0])._replace(noise=0.0))
    assert pixels.holds is None
    assert pixels.text.endswith("A patch is one pixel, so that filters have no spatial frequency.")


@pytest.mark.parametrize(
    ("structure", "holds", "words"),
    [
        (Structure(0.6, 0.3, 0.2), True, "as the paper describes"),
        (Structure(0.6, 0.3, 0.0), False, "no structure of rows and columns"),
        (Structure(0.0, 0.3, 0.3), False, "near patches are not more alike"),
        (Structure(-0.1, 0.0, 0.0), False, "neither nearness nor rows and columns"),
        (Structure(None, 0.0, 0.0), None, "too small"),
        (Structure(0.5, None, 0.2), None, "too small"),
    ],
)
def test_positions(structure: Structure, holds: bool | None, words: str) -> None:
    found = position_finding(structure)
    assert found.holds is holds
    assert words in found.text


def test_distance() -> None:
    found = distance_finding(surveyed())
    assert found.holds
    assert "42 pixels in the first half of the layers and 88 in the second" in found.text
    assert "1 head looks at half of that or farther and 1 head looks nearer, from 10 to 70 pixels" in found.text
    falling = distance_finding(surveyed(distance=surveyed().distance[::-1]))
    assert falling.holds is False
    assert "does not grow with depth" in falling.text
    level = distance_finding(surveyed(distance=100 + 0.01 * surveyed().distance))  # the order alone is no growth
    assert level.holds is False
    assert "does not grow with depth" in level.text
    single = distance_finding(surveyed(distance=np.array([[10.0, 20, 30]])))
    assert single.holds is None
    assert "no growth to tell of" in single.text
    assert "0 heads look at half" in single.text


def test_entropy_layers_and_norms() -> None:
    assert "most focused in layer 0" in entropy_finding(surveyed()).text
    assert "most spread in layer 3 (88 %)" in entropy_finding(surveyed()).text
    cka = np.ones((3, 3))
    cka[0, 1] = cka[1, 0] = 0.4
    cka[0, 2] = cka[2, 0] = 0.3
    assert "by 0.70 (linear CKA, mean); block 0 changes them most (0.40)" in layer_finding(cka).text
    assert layer_finding(cka).text.endswith("what leaves the last: 0.30.")
    assert "cannot be compared" in layer_finding(np.full((3, 3), np.nan)).text
    norms = surveyed().norms
    assert "No patch token stands out" in norm_finding(surveyed()).text
    found = norm_finding(
        surveyed(norms=norms._replace(outliers=np.array([0, 0, 0.03, 0, 0.02]), images=np.full(5, 0.5)))
    )
    assert found.text.startswith(
        "After the last block 2.00 % of the patch tokens stand out from those of their image, in 50 %"
    )
    assert "most do after 2 blocks (3.00 %)" in found.text


def test_rank_correlation() -> None:
    values = np.array([3.0, 1, 4, 1, 5, 9, 2, 6])
    assert rank_correlation(values) == pytest.approx(spearmanr(values, np.arange(8)).statistic)
    assert rank_correlation(np.arange(4.0)) == pytest.approx(1)
    assert rank_correlation(np.ones(4)) is None
    assert rank_correlation(np.ones(1)) is None
