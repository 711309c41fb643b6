"""Classification metrics from probabilities and labels. numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitkit.config import UserError, did_you_mean
from vitkit.evals.multilabel import roc_areas

__all__ = ["METRICS", "Bin", "Scores", "calibration_error", "reliability", "score", "wilson"]

Array = np.ndarray
METRICS = ("top1", "balanced_accuracy", "macro_f1", "nll")  # what a run can select by; nll is the one to minimise
ECE_BINS = 15  # equal-width bins of confidence; arXiv 1706.04599


@dataclass(frozen=True)
class Scores:
    """Metrics over n images. Rates are fractions."""

    n: int
    # top1, top5, balanced_accuracy (the mean over classes of their accuracies), macro_f1, macro_auroc (one against the rest,
    # where there are two classes of images), nll, ece
    values: Mapping[str, float]
    confusion: Array  # (O, O) counts, row true, column predicted
    recall: Array  # (O,), nan for a class without images
    precision: Array  # (O,), nan for a class never predicted
    top1_interval: tuple[float, float]  # Wilson, 95 %

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """95 % intervals of the metrics that have one."""
        return {"top1": self.top1_interval}

    def floor(self, metric: str) -> float:
        """Lower end of a rate's 95 % Wilson interval; the NLL, which is no rate, has none: the value itself."""
        if metric == "nll":
            return -self.values["nll"]
        return wilson(round(self.values[metric] * self.n), self.n)[0]

    def selection_key(self, metric: str) -> tuple[float, float]:
        """Sorts better scores higher: by the metric, then by the lower NLL.

        Raises:
            UserError: unknown metric.
        """
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric!r}.{did_you_mean(metric, METRICS)} Known: {', '.join(METRICS)}.")
        nll = -self.values["nll"]
        return (nll if metric == "nll" else self.values[metric], nll)


def wilson(hits: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of ``hits`` in ``n``, by default of 95 %; (0, 1) for n = 0.

    ``n`` is no whole number where images weigh differently: that of equal images which would vary as much.

    Source: E. B. Wilson, JASA 22 (1927) 209-212.
    """
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, p)), min(1.0, max(high, p))  # at 0 and 1 rounding would leave the rate outside


def score(probabilities: Array, labels: Array) -> Scores:
    """Score probabilities (n, O) against labels (n,); the lower class index wins a tie.

    Means over classes leave out those without images.

    Raises:
        UserError: no image, a label that is no class, or probabilities that are not numbers.
    """
    n, O = probabilities.shape
    if n == 0:
        raise UserError("there are no images to score.")
    if len(labels) != n:
        raise UserError(f"{n} images were scored and there are {len(labels)} labels.")
    if not 0 <= labels.min() <= labels.max() < O:
        wrong = labels[(labels < 0) | (labels >= O)][0]
        raise UserError(f"an image has the label {wrong}; the model has {O} classes, 0 to {O - 1}.")
    if not np.isfinite(probabilities).all():
        raise UserError("the model's outputs are not finite numbers; its weights are damaged or its training diverged.")
    predicted = probabilities.argmax(axis=1)
    hit = predicted == labels
    own = probabilities[np.arange(n), labels]
    tied_before = (probabilities == own[:, None]) & (np.arange(O) < labels[:, None])
    rank = (probabilities > own[:, None]).sum(axis=1) + tied_before.sum(axis=1)
    confusion = np.zeros((O, O), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    truth, guessed, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / truth, right / guessed
    present = truth > 0
    f1 = 2 * right / np.maximum(truth + guessed, 1)
    areas = roc_areas(probabilities, labels[:, None] == np.arange(O)) if present.sum() > 1 else np.array([np.nan])
    values = {
        "top1": float(hit.mean()),
        "top5": float((rank < 5).mean()),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        **({"macro_auroc": float(np.nanmean(areas))} if present.sum() > 1 else {}),
        "nll": float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()),
        "ece": calibration_error(reliability(probabilities.max(axis=1), hit)),
    }
    return Scores(n, values, confusion, recall, precision, wilson(int(hit.sum()), n))


class Bin(NamedTuple):
    """Images of like confidence."""

    n: int
    confidence: float  # mean
    accuracy: float


def reliability(confidence: Array, hit: Array) -> list[Bin]:
    """Confidence (n,) against whether the prediction was right (n,), in `ECE_BINS` equal bins; empty bins are left out."""
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    members = [bins == b for b in range(ECE_BINS)]
    return [Bin(int(m.sum()), float(confidence[m].mean()), float(hit[m].mean())) for m in members if m.any()]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over bins, weighted by their counts."""
    return sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / sum(b.n for b in bins)
