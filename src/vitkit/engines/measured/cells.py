"""What a benchmark finds of an engine, and which engine it recommends. Figures only: nothing here runs a model. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitkit.answers import MULTI

__all__ = [
    "ALIKE",
    "CLOSE",
    "ENOUGH",
    "Agreement",
    "Cell",
    "Choice",
    "agreement",
    "nearest_rank",
    "recommend",
    "summary",
]

Array = np.ndarray[Any, Any]
CLOSE = 1e-3  # largest difference of logits with which an engine in fp32 computes the same
ALIKE = 0.99  # share of equal answers with which reduced precision does
ENOUGH = 100  # images that this is told from
FASTER = 1.02  # what is no more than so much faster is not preferred to what stands earlier in the list of engines


class Agreement(NamedTuple):
    """Outputs of an engine beside those of plain PyTorch in fp32, on the same images."""

    images: int
    real: bool  # images that were given; else random numbers
    same: float  # share of equal answers
    difference: float  # the largest of logits, absolute; infinite where an output is not a number
    relative: float  # norm of the difference over the norm of fp32's logits

    def passes(self, precision: str) -> bool:
        """May this engine be recommended?"""
        if precision == "fp32":
            return self.difference <= CLOSE
        return self.real and self.images >= ENOUGH and self.same >= ALIKE and math.isfinite(self.difference)

    def refusal(self, precision: str) -> str:
        """Why not, in half a sentence; empty where it may."""
        if self.passes(precision):
            return ""
        if not math.isfinite(self.difference):
            return "its outputs are not all numbers"
        if precision == "fp32":
            return f"its logits differ by {self.difference:.1e} (at most {CLOSE:.0e})"
        if not self.real:
            return f"agreement in {precision} is told from real images only: --images DATA"
        if self.images < ENOUGH:
            return f"{self.images} images are too few to tell agreement ({ENOUGH} are needed)"
        return f"it gives {100 * self.same:.1f} % of the answers of fp32 (at least {100 * ALIKE:.0f} %)"


class Cell(NamedTuple):
    """One engine in one precision at one batch size."""

    engine: str
    precision: str
    batch: int
    library: str
    ours: bool  # False: a wrapped runtime computes
    threads: int
    images_per_second: float  # median of rounds
    p50_ms: float  # of a call with the whole batch
    p99_ms: float  # nearest rank: with fewer than 100 calls the slowest
    calls: int
    rounds: int
    memory_mb: float | None  # most that the engine's process took, loading included
    device_memory_mb: float | None
    share_of_peak: float | None  # of the machine's fastest matrix product in this precision
    speedup: float | None  # over plain PyTorch in fp32 at this batch size, round by round, the median
    ready_seconds: float  # from the bundle on disk to an engine
    notes: tuple[str, ...]


class Choice(NamedTuple):
    """The engine that is recommended."""

    engine: str
    precision: str
    speedup: float  # over plain PyTorch in fp32, geometric mean over batch sizes
    why: str


def agreement(task: str, thresholds: Sequence[float], plain: Array, other: Array, real: bool) -> Agreement:
    """Compare logits (n, ..., O), of plain fp32 and of an engine.

    Answers are equal where the most probable class is the same; of a multi-label model, where the same classes reach their
    ``thresholds`` (probabilities).
    """
    if plain.shape != other.shape:
        raise ValueError(f"logits of {other.shape} beside logits of {plain.shape}")
    plain, other = plain.astype(np.float64), other.astype(np.float64)
    if task == MULTI:
        cuts = np.asarray(thresholds)
        with np.errstate(divide="ignore"):
            needed = np.log(cuts) - np.log1p(-cuts)  # the logit of each threshold
        equal = ((plain >= needed) == (other >= needed)).all(-1)
    else:
        equal = plain.argmax(-1) == other.argmax(-1)
    if not (np.isfinite(plain).all() and np.isfinite(other).all()):
        return Agreement(len(plain), real, float(equal.mean()), math.inf, math.inf)
    gap, size = np.linalg.norm(other - plain), np.linalg.norm(plain)
    relative = float(gap / size) if size else (0.0 if not gap else math.inf)
    return Agreement(len(plain), real, float(equal.mean()), float(np.abs(other - plain).max(initial=0.0)), relative)


def nearest_rank(values: Sequence[float], fraction: float) -> float:
    """The smallest value that so large a fraction of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def summary(batch: int, rounds: Sequence[Sequence[float]]) -> tuple[float, float, float, int]:
    """(images/s, p50 ms, p99 ms, calls) of rounds of seconds per call: the median over rounds of images over time."""
    rates = [batch * len(times) / sum(times) for times in rounds]
    calls = [seconds for times in rounds for seconds in times]
    return statistics.median(rates), 1e3 * nearest_rank(calls, 0.5), 1e3 * nearest_rank(calls, 0.99), len(calls)


def recommend(
    cells: Sequence[Cell], agreements: Mapping[tuple[str, str], Agreement], asked: Sequence[str]
) -> tuple[Choice | None, list[str]]:
    """The fastest engine that computes the same, and why others that are faster are not it.

    Args:
        asked: reduced precisions that may be recommended, because the user named them.
    """
    gains: dict[tuple[str, str], dict[int, float]] = {}
    for cell in cells:
        if cell.speedup:
            gains.setdefault((cell.engine, cell.precision), {})[cell.batch] = cell.speedup
    common = (
        set.intersection(*map(set, gains.values())) if gains else set()
    )  # batch sizes that everything was measured at
    speeds = {
        pair: math.exp(statistics.fmean(math.log(gain) for batch, gain in mine.items() if batch in (common or mine)))
        for pair, mine in gains.items()
    }
    best: tuple[str, str] | None = None
    passed, refused = [], []
    for pair in speeds:
        engine, precision = pair
        if precision != "fp32" and precision not in asked:
            refused.append((pair, f"reduced precision only where it is named: --precisions {precision}"))
        elif pair not in agreements:
            refused.append((pair, "its outputs could not be compared with those of fp32"))
        elif reason := agreements[pair].refusal(precision):
            refused.append((pair, reason))
        else:
            passed.append(pair)
            if best is None or speeds[pair] > FASTER * speeds[best]:
                best = pair
    if best is None:
        return None, [f"{' '.join(pair)}: {reason}" for pair, reason in refused]
    engine, precision = best
    found = agreements[best]
    close = (
        f"logits within {found.difference:.1e} of plain PyTorch"
        if precision == "fp32"
        else f"{100 * found.same:.1f} % of fp32's answers on {found.images} images"
    )
    why = f"fastest of {len(passed)} that compute the same, {speeds[best]:.2f} times plain PyTorch in fp32; {close}"
    if best == ("eager", "fp32"):
        why = "nothing that computes the same is faster here" if len(speeds) > 1 else "there is no other engine here"
    notes = [
        f"{' '.join(pair)} is {speeds[pair]:.2f} times as fast as plain PyTorch, but {reason}"
        for pair, reason in refused
        if speeds[pair] > speeds[best]
    ]
    return Choice(engine, precision, speeds[best], why), notes
