"""The paired comparison against scipy, a published table and counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from vitkit.config import UserError
from vitkit.evals.compare import Paired, compare_answers, exact_mcnemar, paired_interval, verdict


@pytest.mark.parametrize("pair", [(12, 3), (3, 12), (0, 1), (0, 6), (5, 5), (40, 60), (510, 612), (0, 0)])
def test_the_exact_test_is_scipys(pair: tuple[int, int]) -> None:
    wanted = binomtest(pair[0], sum(pair), 0.5).pvalue if sum(pair) else 1.0
    assert exact_mcnemar(*pair) == pytest.approx(wanted, rel=1e-12)


def test_the_exact_test_of_many_images_is_quick_and_finite() -> None:
    assert exact_mcnemar(24_000, 26_000) == pytest.approx(binomtest(24_000, 50_000, 0.5).pvalue, rel=1e-9)
    assert 0 < exact_mcnemar(10, 1000) < 1e-200


@pytest.mark.parametrize(
    ("table", "interval"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, table III, method 10
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        ((18, 12, 2, 18), (0.0562, 0.3290)),
        ((36, 14, 0, 0), (0.1528, 0.4167)),
        ((35, 14, 0, 1), (0.1461, 0.4175)),
        ((18, 14, 0, 18), (0.1441, 0.3963)),
        ((2, 97, 1, 0), (0.8721, 0.9854)),
        ((1, 97, 1, 1), (0.8736, 0.9850)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
        ((30, 0, 0, 24), (-0.0358, 0.0358)),
    ],
)
def test_the_interval_is_the_published_one(table: tuple[int, int, int, int], interval: tuple[float, float]) -> None:
    assert paired_interval(*table) == pytest.approx(interval, abs=1e-4)


def test_the_interval_covers_the_true_difference() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.15, 0.08, 0.17])
    covered = 0
    for table in rng.multinomial(120, shares, 2000):
        low, high = paired_interval(*table.tolist())
        covered += low <= 0.15 - 0.08 <= high
    assert 0.935 < covered / 2000 < 0.975


def compared(rights: list[tuple[int, int]], nll: np.ndarray | None = None, differing: int | None = None) -> Paired:
    right = np.array(rights, bool).T.reshape(2, -1)
    values = np.zeros(right.shape) if nll is None else nll
    return compare_answers(right, values, int((right[0] != right[1]).sum()) if differing is None else differing)


def test_counts_and_swapping_the_models() -> None:
    found = compared([(1, 1), (1, 0), (1, 0), (0, 1), (0, 0)])
    other = compared([(1, 1), (0, 1), (0, 1), (1, 0), (0, 0)])
    assert (found.both, found.only_a, found.only_b, found.neither, found.n) == (1, 2, 1, 1, 5)
    assert found.right == (3, 2)
    assert found.accuracy(0)[0] == 0.6
    assert found.difference == pytest.approx(0.2)
    assert other.difference == -found.difference
    assert other.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert other.p == found.p == 1.0


def test_equal_models_all_wrong_and_one_image() -> None:
    equal = compared([(1, 1), (0, 0)] * 5)
    assert (equal.p, equal.difference) == (1.0, 0.0)
    assert equal.interval[0] == pytest.approx(-equal.interval[1])
    wrong = compared([(0, 0)] * 7, differing=3)
    assert (wrong.p, wrong.right, wrong.difference) == (1.0, (0, 0), 0.0)
    assert (
        verdict(wrong)
        == "no difference can be shown: 0 against 0 of the 3 disagreements, both wrong in the other 3, p = 1"
    )
    one = compared([(1, 0)])
    assert (one.n, one.p, one.difference, one.nll_interval) == (1, 1.0, 1.0, None)
    assert one.interval[0] < 0 <= one.interval[1] <= 1


def test_the_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    rng = np.random.default_rng(1)
    nll = np.abs(rng.normal(1, 0.5, (2, 400)))
    found = compared([(1, 1)] * 400, nll)
    again = compared([(1, 1)] * 400, nll)
    assert found.nll_interval == again.nll_interval
    gap = nll[0] - nll[1]
    half = 1.96 * gap.std() / math.sqrt(400)
    assert found.nll_interval == pytest.approx((gap.mean() - half, gap.mean() + half), abs=0.1 * half)


def test_the_verdict_in_plain_words() -> None:
    better = compared([(1, 0)] * 12 + [(0, 1)] * 3 + [(1, 1)] * 9, differing=20)
    assert verdict(better) == "A is better: 12 against 3 of the 20 disagreements, both wrong in the other 5, p = 0.035"
    assert verdict(compared([(0, 1)] * 9)) == "B is better: 9 against 0 of the 9 disagreements, p = 0.0039"
    assert verdict(compared([(0, 1)] * 90)).endswith("p < 0.0001")
    assert verdict(compared([(1, 0), (0, 1), (0, 1)])).startswith("no difference can be shown: 2 against 1 of the 3 ")
    assert verdict(compared([(1, 1)])) == "no difference can be shown: both give the same answer to all 1 images"


def test_nothing_and_damaged_figures_are_refused() -> None:
    with pytest.raises(UserError, match="no images"):
        compared([])
    with pytest.raises(UserError, match="not finite"):
        compared([(1, 1)], np.array([[np.inf], [0.0]]))


def test_a_border_case_is_told_as_one() -> None:
    found = compared([(1, 0)] * 9 + [(0, 1)] * 20 + [(1, 1)] * 228 + [(0, 0)] * 15)
    assert found.interval[1] < 0
    assert verdict(found).endswith(
        "p = 0.061; a border case: the interval just leaves out 0, the exact test is stricter"
    )
