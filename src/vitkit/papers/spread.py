"""What a few seeds tell: mean and spread of a cell, and the difference of two cells against its spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Difference", "Summary", "difference", "summary"]

# Student's t by degrees of freedom, 97.5 %; from there on by `_t`. Source: NIST/SEMATECH e-Handbook, section 1.3.6.7.2.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Summary(NamedTuple):
    """A cell over its seeds."""

    mean: float
    sd: float | None  # sample standard deviation; None of one seed
    values: tuple[float, ...]  # by seed

    def shown(self) -> str:
        """In percent: ``43.2 ± 0.4``."""
        return f"{100 * self.mean:.1f}" + ("" if self.sd is None else f" ± {100 * self.sd:.1f}")


class Difference(NamedTuple):
    """One cell less another, seed by seed."""

    mean: float
    low: float  # 95 % interval; unbounded of one seed, which tells nothing of the spread
    high: float

    @property
    def side(self) -> int:
        """1 where the interval is above 0, -1 below, 0 where it holds 0."""
        return int(self.low > 0) - int(self.high < 0)

    def within(self, margin: float) -> bool:
        """Is the whole interval less than ``margin`` away from 0?"""
        return -margin < self.low and self.high < margin

    def beyond(self, margin: float) -> bool:
        """Is the whole interval at least ``margin`` away from 0?"""
        return self.low >= margin or self.high <= -margin

    def shown(self) -> str:
        """In points of percent: ``+3.1 [+2.0, +4.2]``."""
        ends = "one seed" if math.isinf(self.low) else f"{100 * self.low:+.1f}, {100 * self.high:+.1f}"
        return f"{100 * self.mean:+.1f} [{ends}]"


def summary(values: Mapping[int, float]) -> Summary:
    """Of values by seed; at least one."""
    ordered = tuple(values[seed] for seed in sorted(values))
    sd = statistics.stdev(ordered) if len(ordered) > 1 else None
    return Summary(statistics.fmean(ordered), sd, ordered)


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Difference:
    """``a`` less ``b`` over the seeds that both have (at least one), with Student's t interval of the paired differences.

    Equal seeds see the same images in the same order, which the difference of a pair does not contain.
    """
    paired = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    mean, free = statistics.fmean(paired), len(paired) - 1
    reach = _t(free) * statistics.stdev(paired) / math.sqrt(len(paired)) if free else math.inf
    return Difference(mean, mean - reach, mean + reach)


def _t(free: int) -> float:
    """Cornish and Fisher's expansion beyond the table; right to 1e-3 there."""
    if free <= len(T):
        return T[free - 1]
    z = 1.959963984540054
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / free + second / free**2 + third / free**3
