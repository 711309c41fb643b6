"""Likely label errors: images that a probe, which never saw them, takes for another class.

Out-of-fold probabilities, class thresholds and the count are those of confident learning (arXiv 1911.00068, section 3). The list is
in the order of the probability of the given label, lowest first. It is a ranking to look at, never a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitkit.data.subsets import stratified_folds

__all__ = ["LabelErrors", "label_errors", "out_of_fold"]

FOLDS = 5
PENALTY = 0.1  # of the ridge, times the mean square of the features
PIECE = 4096  # rows of features that are float32 at a time
LISTED = 0.1  # part of the images that the ranking lists at least
TEMPERATURES = np.geomspace(0.01, 1, 25)


@dataclass(frozen=True)
class LabelErrors:
    """The most suspicious images, worst first."""

    places: Sequence[int]
    suggested: Sequence[int]  # the class that the probe takes each for
    given: Sequence[float]  # out-of-fold probability of the given label
    other: Sequence[float]  # and of the suggested one
    estimated: int  # images that are likely wrong, see `label_errors`
    accuracy: float  # of the probe, out of fold, on the given labels


def out_of_fold(features: Tensor, labels: Sequence[int], classes: int, *, seed: int = 0) -> np.ndarray:
    """Probabilities (n, O) float64 of every image from a ridge classifier that was fitted without it.

    Args:
        features: (n, D), of any float type; never copied as a whole.
        labels: class indices.
        classes: number of classes, O.
        seed: of the folds.
    """
    targets = torch.as_tensor(np.asarray(labels))
    mean, scale = _statistics(features)
    fold = torch.from_numpy(stratified_folds(labels, FOLDS, seed))
    parts = [(fold == number).nonzero()[:, 0] for number in range(FOLDS)]
    sums = [_products(features, targets, classes, part, mean, scale) for part in parts]
    gram, cross = sum(g for g, _ in sums), sum(c for _, c in sums)
    scores = torch.empty(len(features), classes)
    for part, (own_gram, own_cross) in zip(parts, sums, strict=True):
        rest = gram - own_gram
        rest.diagonal().add_(PENALTY * rest.diagonal().mean() + 1e-3)
        weight = torch.linalg.solve(rest, cross - own_cross)
        for piece in _pieces(part):
            scores[piece] = _rows(features, piece, mean, scale) @ weight
    return _probabilities(scores.double(), targets).numpy()


def _pieces(places: Tensor) -> list[Tensor]:
    return [places[start : start + PIECE] for start in range(0, len(places), PIECE)]


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    total, square = torch.zeros(features.shape[1]).double(), torch.zeros(features.shape[1]).double()
    for start in range(0, len(features), PIECE):
        piece = features[start : start + PIECE]
        total += piece.double().sum(0)
    mean = total / len(features)
    for start in range(0, len(features), PIECE):
        piece = features[start : start + PIECE]
        square += (piece.double() - mean).square().sum(0)
    spread = (square / len(features)).sqrt()
    scale = torch.where(spread > 1e-6 * (1 + mean.abs()), 1 / spread, 0)  # a constant feature stays zero
    return mean.float(), scale.float()


def _rows(features: Tensor, places: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardised features with a last one that is always 1."""
    rows = (features[places].float() - mean) * scale
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def _products(
    features: Tensor, targets: Tensor, classes: int, part: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    gram, cross = torch.zeros(len(mean) + 1, len(mean) + 1), torch.zeros(len(mean) + 1, classes)
    for piece in _pieces(part):
        rows = _rows(features, piece, mean, scale)
        gram.addmm_(rows.T, rows)
        cross.addmm_(rows.T, torch.nn.functional.one_hot(targets[piece], classes).float())
    return gram, cross


def _probabilities(scores: Tensor, targets: Tensor) -> Tensor:
    """Ridge scores to probabilities, at the temperature of the lowest loss on the given labels."""
    rows = torch.arange(len(targets))
    losses = [-float((scores / t).log_softmax(1)[rows, targets].mean()) for t in TEMPERATURES]
    return (scores / TEMPERATURES[int(np.argmin(losses))]).softmax(1)


def label_errors(probabilities: np.ndarray, labels: Sequence[int]) -> LabelErrors:
    """Rank images by out-of-fold probabilities (n, O) and count the likely errors.

    Confident learning counts an image where another class is above that class's threshold, its mean probability over the
    images that bear its label, and the most probable such class is not the given one. Where the probe is weak that counts
    its own mistakes, too. So the estimate is at most the rate of other labels among the tenth of the images that the probe is
    surest of, where it hardly errs, times all images. The ranking is at least a tenth of the images long, and holds those only
    that the probe takes for another class.
    """
    given_labels = np.asarray(labels)
    n, classes = probabilities.shape
    rows = np.arange(n)
    given = probabilities[rows, given_labels]
    counts = np.bincount(given_labels, minlength=classes)
    thresholds = np.bincount(given_labels, weights=given, minlength=classes) / np.maximum(counts, 1)
    confident = np.where((probabilities >= thresholds) & (counts > 0), probabilities, -1)
    counted = int(((confident.argmax(1) != given_labels) & (confident.max(1) >= 0)).sum())
    surest = np.argsort(-probabilities.max(1), kind="stable")[: max(50, n // 10)]
    rate = float((probabilities[surest].argmax(1) != given_labels[surest]).mean())
    estimated = min(counted, round(rate * n))
    others = probabilities.copy()
    others[rows, given_labels] = -1
    suggested = others.argmax(1)
    wrong = np.flatnonzero(others[rows, suggested] > given)
    order = wrong[np.argsort(given[wrong], kind="stable")][: max(estimated, int(np.ceil(LISTED * n)))]
    return LabelErrors(
        order.tolist(), suggested[order].tolist(), given[order].tolist(), others[order, suggested[order]].tolist(),
        min(estimated, len(order)), float((probabilities.argmax(1) == given_labels).mean()),
    )  # fmt: skip
