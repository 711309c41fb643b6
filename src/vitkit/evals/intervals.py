"""95 % intervals of the metrics that are no plain rate: a seeded bootstrap over images, DeLong's variance for areas under curves.

Sums are of whole numbers or in the order of the images, so that the same answers give the same digits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vitkit.evals.classify import ECE_BINS, Scores, wilson

__all__ = ["Mean", "area_interval", "intervals_of", "mean_interval", "mean_of"]

Array = np.ndarray
Interval = tuple[float, float]
RESAMPLES = 1000
Z = 1.959963984540054
T_FEW = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445}  # Student's t at 0.975, of so many degrees of freedom


class Mean(NamedTuple):
    """A mean over images and its 95 % interval, None of one image."""

    value: float
    low: float | None
    high: float | None


def mean_of(values: Array) -> Mean:
    """Mean of the values (n,) of n images with Student's interval, which is as wide as few images make it.

    A bootstrap would be too narrow for the few images that a quick check takes.
    """
    n, value = len(values), float(values.mean())
    if n < 2:
        return Mean(value, None, None)
    half = _student(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Mean(value, value - half, value + half)


def _student(freedom: int) -> float:
    """The 0.975 quantile of Student's t, to 4e-4. Source: Abramowitz and Stegun, formula 26.7.5."""
    if freedom in T_FEW:
        return T_FEW[freedom]
    z, v = Z, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def intervals_of(probabilities: Array, labels: Array, scores: Scores) -> dict[str, Interval]:
    """The 95 % interval of every metric of `scores`, of probabilities (n, O) and labels (n,).

    top1 and top5: Wilson; balanced_accuracy too, of as many equal images as vary like its weighted ones. macro_auroc:
    `area_interval`. The others: percentiles of a bootstrap over images, moved so that the draws' mean lies on the value, since a
    draw that holds images twice is biased (most of all in ece); a draw leaves out the classes of which it holds no image, as
    macro_f1 does, whose interval is therefore too narrow where classes have one or two images; where it is 0 or 1, all images being
    wrong or right, it has that of balanced_accuracy.
    """
    n, values = scores.n, scores.values
    found = {name: wilson(round(values[name] * n), n) for name in ("top1", "top5")}
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    alike = len(counts) ** 2 / float((1 / counts).sum())
    found["balanced_accuracy"] = wilson(values["balanced_accuracy"] * alike, alike)
    found |= _bootstrap(probabilities, labels, values)
    if values["macro_f1"] in (0.0, 1.0):  # all wrong or all right, and so is every draw of them
        found["macro_f1"] = found["balanced_accuracy"]
    if "macro_auroc" in values:
        found["macro_auroc"] = area_interval(probabilities, labels)
    return found


def area_interval(probabilities: Array, labels: Array) -> Interval:
    """Of the mean over classes of the one-against-rest area under the ROC curve, from DeLong's structural components.

    An image's components in all classes are added before they are squared, so that classes are not taken for independent.
    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837-845.
    """
    n, O = probabilities.shape
    total, mean, classes = np.zeros(n), 0.0, 0
    for k in range(O):
        own = labels == k
        up, down = int(own.sum()), int((~own).sum())
        if not (up and down):
            continue
        p = probabilities[:, k]
        above = _share_below(np.sort(p[~own]), p[own])  # of each positive: negatives below it
        below = 1 - _share_below(np.sort(p[own]), p[~own])  # of each negative: positives above it
        area = float(above.mean())
        total[own] += (above - area) / np.sqrt(up * max(up - 1, 1))
        total[~own] += (below - area) / np.sqrt(down * max(down - 1, 1))
        mean, classes = mean + area, classes + 1
    assert classes
    mean, error = mean / classes, float(np.sqrt(np.square(total / classes).sum()))
    return max(0.0, mean - Z * error), min(1.0, mean + Z * error)


def _share_below(ordered: Array, values: Array) -> Array:
    """For each value the part of ``ordered`` that is smaller, ties as half."""
    left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (left + right) / (2 * len(ordered))


def mean_interval(hits: Array) -> tuple[float, Interval]:
    """Mean accuracy over draws of training images, and its interval: ``hits`` (S, n) bool, a row for each draw.

    A bootstrap over both: images are drawn with replacement, and so are the S draws. Deterministic. Where all are right, or all
    wrong, every resample is too and says nothing: the Wilson interval of the n images.
    """
    S, n = hits.shape
    if hits.all() or not hits.any():
        mean = float(hits[0, 0])
        return mean, wilson(mean * n, n)
    rng = np.random.default_rng([S, n, RESAMPLES])
    results = []
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, n, n), minlength=n)
        right = np.where(hits, weights, 0).sum(1)  # (S,) whole numbers
        results.append(right[rng.integers(0, S, S)].sum() / (S * n))
    low, high = np.quantile(results, (0.025, 0.975))
    mean = float(hits.sum() / hits.size)
    return mean, (min(float(low), mean), max(float(high), mean))


def _bootstrap(probabilities: Array, labels: Array, values: Mapping[str, float]) -> dict[str, Interval]:
    n, O = probabilities.shape
    rng = np.random.default_rng([n, O, RESAMPLES])
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    hit = predicted == labels
    loss = -np.log(np.maximum(probabilities[np.arange(n), labels], np.finfo(np.float64).tiny))
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gap = confidence - hit  # its sum over a bin, over n, is the bin's part of the error
    found: dict[str, list[float]] = {"macro_f1": [], "nll": [], "ece": []}
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        truth, guessed, right = (
            np.bincount(what, w, O) for what, w in ((labels, weights), (predicted, weights), (labels, weights * hit))
        )
        present = truth > 0
        found["macro_f1"].append((2 * right[present] / (truth + guessed)[present]).mean())
        found["nll"].append(float((weights * loss).sum()) / n)
        found["ece"].append(float(np.abs(np.bincount(bins, weights * gap, ECE_BINS)).sum()) / n)
    result = {}
    for name, draws in found.items():
        value = values[name]
        low, high = np.quantile(draws, (0.025, 0.975)) + (value - np.mean(draws))
        most = np.inf if name == "nll" else 1.0
        result[name] = (min(max(0.0, float(low)), value), max(min(most, float(high)), value))
    return result
