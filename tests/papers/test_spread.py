"""Means, spreads and intervals of a few seeds."""

from __future__ import annotations

import math

import pytest

from vitkit.papers.spread import Difference, _t, difference, summary


def test_a_summary_is_of_the_sample() -> None:
    found = summary({2: 0.5, 0: 0.3, 1: 0.4})
    assert found.values == (0.3, 0.4, 0.5)
    assert found.mean == pytest.approx(0.4)
    assert found.sd == pytest.approx(0.1)
    assert found.shown() == "40.0 ± 10.0"
    assert summary({0: 0.25}) == (0.25, None, (0.25,))
    assert summary({0: 0.25}).shown() == "25.0"


def test_a_difference_is_paired_by_seed() -> None:
    found = difference({0: 0.5, 1: 0.6, 2: 0.7, 3: 0.9}, {2: 0.6, 1: 0.58, 0: 0.44})
    # 0.06, 0.02, 0.1: mean 0.06, sd 0.04, and 4.303 * 0.04 / sqrt(3) = 0.09937
    assert found == pytest.approx((0.06, -0.03937, 0.15937), abs=1e-5)
    assert found.side == 0
    assert found.shown() == "+6.0 [-3.9, +15.9]"


def test_one_seed_decides_nothing() -> None:
    found = difference({0: 0.9}, {0: 0.1})
    assert found.mean == pytest.approx(0.8)
    assert (found.low, found.high, found.side) == (-math.inf, math.inf, 0)
    assert not found.within(5)
    assert not found.beyond(0.1)
    assert found.shown() == "+80.0 [one seed]"


@pytest.mark.parametrize(
    ("interval", "side", "within", "beyond"),
    [((0.01, 0.03), 1, True, False), ((-0.03, -0.01), -1, True, False), ((-0.01, 0.06), 0, False, False),
     ((0.05, 0.09), 1, False, True), ((-0.09, -0.05), -1, False, True), ((0.0, 0.02), 0, True, False)],
)  # fmt: skip
def test_sides_and_margins(interval: tuple[float, float], side: int, within: bool, beyond: bool) -> None:
    found = Difference(sum(interval) / 2, *interval)
    assert (found.side, found.within(0.05), found.beyond(0.05)) == (side, within, beyond)


def test_student_s_t() -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="the published values need scipy")
    for free in (*range(1, 30), 60, 200):
        assert _t(free) == pytest.approx(scipy_stats.t.ppf(0.975, free), abs=1e-3), free
