"""Multi-label metrics from probabilities and targets of 0 and 1, and the thresholds that turn one into the other. numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitkit.config import UserError, did_you_mean

__all__ = ["METRICS", "MultiScores", "average_precision", "choose_thresholds", "roc_areas", "score_multilabel"]

Array = np.ndarray
Cuts = tuple[float, ...] | np.ndarray  # thresholds
METRICS = ("map", "micro_f1", "macro_f1", "nll")  # what a run can select by; nll is the one to minimise
FEW = 10  # positives below which a class is too small to have a threshold of its own
RESAMPLES = 500  # of the bootstrap
CHUNK = 4_000_000  # numbers that the bootstrap handles at once


@dataclass(frozen=True)
class MultiScores:
    """Metrics over n images. Rates are fractions; per class (O,), nan where there is nothing to measure."""

    n: int
    values: Mapping[str, float]  # map, micro_f1, macro_f1, exact_match, macro_auroc (where there is one), nll
    intervals: Mapping[str, tuple[float, float]]  # 95 %, of a seeded bootstrap over images
    thresholds: tuple[float, ...]  # (O,) a class is predicted at this probability or above
    positives: Array
    average_precision: Array
    auroc: Array
    precision: Array  # nan for a class never predicted
    recall: Array  # nan for a class without images
    f1: Array  # nan for a class without images
    missed: Array  # (O, O) images with class i, which was missed, and class j, which was wrongly predicted

    def floor(self, metric: str) -> float:
        """Lower end of a rate's 95 % interval; the NLL has none: the value itself."""
        return -self.values["nll"] if metric == "nll" else self.intervals[metric][0]

    def selection_key(self, metric: str) -> tuple[float, float]:
        """Sorts better scores higher: by the metric, then by the lower NLL.

        Raises:
            UserError: unknown metric.
        """
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric!r}.{did_you_mean(metric, METRICS)} Known: {', '.join(METRICS)}.")
        nll = -self.values["nll"]
        return (nll if metric == "nll" else self.values[metric], nll)


def score_multilabel(probabilities: Array, targets: Array, thresholds: Cuts | None = None) -> MultiScores:
    """Score probabilities (n, O) against targets (n, O) of 0 and 1.

    Classes without a positive image have no average precision and no F1: means over classes leave them out.

    Args:
        probabilities: of each class, in [0, 1].
        targets: 1 where the image has the class.
        thresholds: (O,) the model's own, or (n, O) where images have models of their own; None chooses them on these
            images, which makes every F1 optimistic.

    Raises:
        UserError: no image, no image with any class, or probabilities that are not numbers.
    """
    n, O = probabilities.shape
    if n == 0:
        raise UserError("there are no images to score.")
    if not np.isfinite(probabilities).all():
        raise UserError("the model's outputs are not finite numbers; its weights are damaged or its training diverged.")
    truth = targets > 0.5
    if not truth.any():
        raise UserError(f"none of the {n} images has any of the {O} classes; there is nothing to measure.")
    chosen = np.array(choose_thresholds(probabilities, truth) if thresholds is None else thresholds)
    predicted = probabilities >= chosen
    right, guessed, positives = (truth & predicted).sum(0), predicted.sum(0), truth.sum(0)
    precisions = average_precision(probabilities, truth)
    areas = roc_areas(probabilities, truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = right / guessed, right / positives
        f1 = np.where(positives > 0, 2 * right / (positives + guessed), np.nan)
    wrong, missed = (predicted & ~truth).astype(np.int64), (truth & ~predicted).astype(np.int64)
    values = {
        "map": float(np.nanmean(precisions)),
        "micro_f1": float(2 * right.sum() / (positives.sum() + guessed.sum())),
        "macro_f1": float(np.nanmean(f1)),
        "exact_match": float((truth == predicted).all(1).mean()),
        **({} if np.isnan(areas).all() else {"macro_auroc": float(np.nanmean(areas))}),
        "nll": _nll(probabilities, truth),
    }
    intervals = _bootstrap(probabilities, truth, predicted, values)
    used = tuple(np.broadcast_to(chosen, (n, O)).mean(0).tolist())
    return MultiScores(
        n, values, intervals, used, positives, precisions, areas, precision, recall, f1, missed.T @ wrong
    )


def average_precision(probabilities: Array, truth: Array) -> Array:
    """Average precision of each class (O,): the sum over distinct probabilities of (recall gained) x precision.

    Images of equal probability are counted together, without interpolation. nan for a class without positives.
    """
    weights = np.ones((1, len(truth)))
    return np.array([_average_precision(p, t, weights)[0] for p, t in zip(probabilities.T, truth.T, strict=True)])


def _average_precision(probability: Array, truth: Array, weights: Array) -> Array:
    """Average precision (R,) of one class, images (n,), under each row of image weights (R, n)."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)  # the last image of each probability
    weights = weights[:, order]
    hits = np.cumsum(weights * truth[order], axis=1)[:, ends]
    count = np.cumsum(weights, axis=1)[:, ends]
    gained = np.diff(hits, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (gained * hits / np.maximum(count, 1e-300)).sum(1) / hits[:, -1]


def roc_areas(probabilities: Array, truth: Array) -> Array:
    """Area under the ROC curve of each class (O,): how often a positive is above a negative, ties as half.

    nan for a class without positives or without negatives.
    """
    areas = np.full(truth.shape[1], np.nan)
    for k, (probability, own) in enumerate(zip(probabilities.T, truth.T, strict=True)):
        up, down = int(own.sum()), int((~own).sum())
        if up and down:
            _, place, counts = np.unique(probability, return_inverse=True, return_counts=True)
            ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # mean rank of the tied, from 1
            areas[k] = (ranks[own].sum() - up * (up + 1) / 2) / (up * down)
    return areas


def choose_thresholds(probabilities: Array, truth: Array) -> tuple[float, ...]:
    """The threshold of each class (O,) with the best F1 on these images.

    A class with fewer than `FEW` positives takes the threshold that is best for the F1 of all decisions together; without
    any positive that is 0.5. Only the order of the probabilities decides which images are cut off, so a temperature
    changes the numbers and not the answers.
    """
    common = _best_cut(probabilities.ravel(), truth.ravel())
    return tuple(
        _best_cut(probability, own) if own.sum() >= FEW else common
        for probability, own in zip(probabilities.T, truth.T, strict=True)
    )


def _best_cut(probability: Array, truth: Array) -> float:
    """Half-way between the two probabilities that the best F1 separates; the higher cut wins a tie."""
    if not truth.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(order) - 1)
    f1 = 2 * np.cumsum(truth[order])[ends] / (ends + 1 + truth.sum())
    last = ends[int(f1.argmax())]
    accepted, below = float(ranked[last]), float(ranked[last + 1]) if last + 1 < len(ranked) else 0.0
    middle = (accepted + below) / 2
    return middle if below < middle else accepted


def _nll(probabilities: Array, truth: Array) -> float:
    """Negative log-likelihood of a decision: the mean over images and classes."""
    own = np.where(truth, probabilities, 1 - probabilities)
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def _bootstrap(
    probabilities: Array, truth: Array, predicted: Array, values: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """95 % intervals from `RESAMPLES` draws of n images with replacement, always the same draws for n images.

    They are the draws' percentiles, moved so that the draws' mean lies on the value: a draw holds some images twice, which
    raises average precision a little, and over many classes by more than the interval is wide. A draw without positives of
    a class leaves the class out of its means, as the metrics do.
    """
    n, O = truth.shape
    rng = np.random.default_rng([n, RESAMPLES])
    hit, right = (truth == predicted).all(1), (truth & predicted).astype(np.float64)
    both = truth.astype(np.float64) + predicted
    found: dict[str, list[Array]] = {"map": [], "micro_f1": [], "macro_f1": [], "exact_match": []}
    size = max(1, CHUNK // n)
    for start in range(0, RESAMPLES, size):
        draws = rng.integers(0, n, (min(size, RESAMPLES - start), n))
        weights = np.stack([np.bincount(draw, minlength=n) for draw in draws]).astype(np.float64)
        present = weights @ truth > 0
        precisions = np.stack([_average_precision(probabilities[:, k], truth[:, k], weights) for k in range(O)], 1)
        hits, sums = weights @ right, weights @ both
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = 2 * hits / sums
            kept = present.sum(1)
            found["map"].append(np.where(present, precisions, 0).sum(1) / kept)
            found["macro_f1"].append(np.where(present, f1, 0).sum(1) / kept)
            found["micro_f1"].append(2 * hits.sum(1) / sums.sum(1))
        found["exact_match"].append(weights @ hit / n)
    intervals = {}
    for name, parts in found.items():
        results = np.concatenate(parts)
        results = results[np.isfinite(results)]  # a draw without any positive image has no mAP
        low, high = np.quantile(results, (0.025, 0.975)) + (values[name] - results.mean())
        intervals[name] = (min(max(0.0, float(low)), values[name]), max(min(1.0, float(high)), values[name]))
    return intervals
