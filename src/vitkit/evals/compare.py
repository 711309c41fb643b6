"""Two classifiers on the same images: the paired difference with its interval, and an exact test of it. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.evals.classify import wilson

__all__ = ["SIGNIFICANT", "Answer", "Paired", "compare_answers", "exact_mcnemar", "paired_interval", "verdict"]

Array = np.ndarray
RESAMPLES = 2000  # of the bootstrap
SEED = 0  # of its draws: equal answers give equal intervals
SIGNIFICANT = 0.05  # two-sided; the level of the 95 % intervals


class Answer(NamedTuple):
    """What a model said to one image."""

    predicted: int  # its class
    probability: float  # of that class
    right: bool
    nll: float  # minus the logarithm of the label's probability


@dataclass(frozen=True)
class Paired:
    """Counts over n images, and what follows. Rates are fractions; differences are A less B."""

    both: int  # images that both get right
    only_a: int
    only_b: int
    neither: int
    differing: int  # images that get another answer from each, right or wrong
    p: float  # exact McNemar test, two-sided
    difference: float  # of accuracy
    interval: tuple[float, float]  # 95 %, of the difference
    nll: tuple[float, float]  # mean, of A and of B
    nll_interval: tuple[float, float] | None  # 95 %, of the difference of the means; None for a single image

    @property
    def n(self) -> int:
        """Images."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def right(self) -> tuple[int, int]:
        """Images that A, and that B, gets right."""
        return self.both + self.only_a, self.both + self.only_b

    def accuracy(self, which: int) -> tuple[float, float, float]:
        """Accuracy of A (0) or B (1), with its 95 % Wilson interval."""
        return self.right[which] / self.n, *wilson(self.right[which], self.n)


def compare_answers(right: Array, nll: Array, differing: int) -> Paired:
    """Compare answers of A and B.

    Args:
        right: (2, n) bool, whether A and B are right.
        nll: (2, n), of the label.
        differing: images that get another answer from each.

    Raises:
        UserError: no image, or figures that are not finite.
    """
    if right.shape[1] == 0:
        raise UserError("there are no images to compare the models on.")
    if not np.isfinite(nll).all():
        raise UserError("the models' outputs are not finite numbers; weights are damaged or their training diverged.")
    a, b = right.astype(bool)
    both, only_a, only_b, neither = (int(found.sum()) for found in (a & b, a & ~b, ~a & b, ~a & ~b))
    n = right.shape[1]
    means = nll.mean(axis=1)
    return Paired(
        both, only_a, only_b, neither, differing, exact_mcnemar(only_a, only_b), (only_a - only_b) / n,
        paired_interval(both, only_a, only_b, neither), (float(means[0]), float(means[1])), _bootstrap(nll[0] - nll[1]),
    )  # fmt: skip


def exact_mcnemar(only_a: int, only_b: int) -> float:
    """Probability that a fair coin parts the images which only one model gets right as unevenly, or more; 1 without any.

    Exact in whole numbers. Source: Q. McNemar, Psychometrika 12 (1947) 153-157, with the binomial distribution.
    """
    n, few = only_a + only_b, min(only_a, only_b)
    term = total = 1
    for k in range(few):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def paired_interval(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """95 % interval of the difference of two rates on the same images.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10: Wilson intervals joined by the correlation.
    """
    n = both + only_a + only_b + neither
    first, second = (both + only_a) / n, (both + only_b) / n
    low_1, high_1 = wilson(both + only_a, n)
    low_2, high_2 = wilson(both + only_b, n)
    spread = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    product = both * neither - only_a * only_b
    phi = (max(product - n / 2, 0.0) if product > 0 else float(product)) / math.sqrt(spread) if spread else 0.0

    def join(mine: float, other: float) -> float:
        return math.sqrt(max(mine * mine - 2 * phi * mine * other + other * other, 0.0))

    difference = first - second
    low = difference - join(first - low_1, high_2 - second)
    high = difference + join(high_1 - first, second - low_2)
    return max(-1.0, low), min(1.0, high)


def _bootstrap(values: Array) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of values (n,) over resampled images."""
    n = len(values)
    if n < 2:
        return None
    rng = np.random.default_rng(SEED)
    means = np.array([values[rng.integers(0, n, n)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def verdict(found: Paired, names: tuple[str, str] = ("A", "B")) -> str:
    """One line in plain words."""
    if not found.differing:
        return f"no difference can be shown: both give the same answer to all {found.n} images"
    better, worse = max(found.only_a, found.only_b), min(found.only_a, found.only_b)
    rest = found.differing - better - worse
    counts = f"{better} against {worse} of the {found.differing} disagreements"
    if rest:
        counts += f", both wrong in the other {rest}"
    chance = "p < 0.0001" if found.p < 1e-4 else f"p = {found.p:.2g}"
    if found.p >= SIGNIFICANT:
        low, high = found.interval
        border = (
            "; a border case: the interval just leaves out 0, the exact test is stricter" if low > 0 or high < 0 else ""
        )
        return f"no difference can be shown: {counts}, {chance}{border}"
    return f"{names[found.only_b > found.only_a]} is better: {counts}, {chance}"
