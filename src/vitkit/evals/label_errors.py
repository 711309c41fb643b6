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
STEPS = 25  # of the fit; on CIFAR-10 the ranking gains less than half a point from the last six
LEAST_STEPS = 8  # where very many images, features and classes would make more of them too slow
WORK = 3e12  # multiplications and additions of the fit that leave it all its steps
TEMPERED = 20_000  # images that the temperature is fitted on
PENALTY = 50.0  # of half the squared weights of standardised features
PENALTY_OF_FEW = 0.005  # the same for each image, of few images
PIECE = 4096  # rows of features that are float32 at a time
LISTED = 0.1  # part of the images that the ranking lists at least
TEMPERATURES = np.geomspace(0.1, 10, 41)


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
    """Probabilities (n, O) float32 of every image from a logistic probe that was fitted without it.

    The probes of all folds are fitted side by side, by accelerated steps with a fixed bound on the curvature (Boehning, Annals of
    the Institute of Statistical Mathematics 44, 1992), which needs one factorisation per fold; the step's length of momentum is
    Nesterov's. The temperature is that of the lowest out-of-fold loss.

    Args:
        features: (n, D), of any float type; never copied as a whole.
        labels: class indices.
        classes: number of classes, O.
        seed: of the folds.
    """
    targets = torch.as_tensor(np.asarray(labels))
    fold = torch.from_numpy(stratified_folds(labels, FOLDS, seed))
    rows = _Rows(features, *_statistics(features))
    penalty = min(PENALTY, PENALTY_OF_FEW * len(features))
    factors = _factors(rows, fold, penalty)
    weights = torch.zeros(FOLDS, rows.width, classes)
    ahead = weights.clone()
    work = 4 * FOLDS * len(features) * rows.width * classes
    for step in range(max(LEAST_STEPS, min(STEPS, int(WORK / work)))):
        slopes = _slopes(rows, targets, fold, ahead)
        moved = torch.stack([
            ahead[f] + torch.cholesky_solve(slopes[f] - penalty * ahead[f], factors[f]) for f in range(FOLDS)
        ])  # fmt: skip
        ahead = moved + step / (step + 3) * (moved - weights)
        weights = moved
    scores = torch.empty(len(features), classes)
    for part in rows.parts():
        every = (rows[part] @ _side_by_side(weights)).view(-1, FOLDS, classes)
        scores[part] = every[torch.arange(len(every)), fold[part]]
    return _probabilities(scores, targets).numpy()


class _Rows:
    """Standardised features in float32 with a last one that is always 1, a part at a time."""

    def __init__(self, features: Tensor, mean: Tensor, scale: Tensor) -> None:
        self.features, self.mean, self.scale = features, mean, scale
        self.width = len(mean) + 1

    def parts(self) -> list[slice]:
        n = len(self.features)
        return [slice(start, min(n, start + PIECE)) for start in range(0, n, PIECE)]

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        rows = (self.features[part].float() - self.mean) * self.scale
        return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def _factors(rows: _Rows, fold: Tensor, penalty: float) -> list[Tensor]:
    """Cholesky factors (D + 1, D + 1) of the bound on each fold's curvature: half of its rows' products, plus the penalty."""
    sums = [torch.zeros(rows.width, rows.width) for _ in range(FOLDS)]
    for number, products in enumerate(sums):
        places = (fold == number).nonzero()[:, 0]
        for start in range(0, len(places), PIECE):
            piece = rows[places[start : start + PIECE]]
            products.addmm_(piece.T, piece)
    total = sum(sums[1:], sums[0])
    factors = []
    for products in sums:
        bound = 0.5 * (total - products)
        bound.diagonal().add_(penalty)
        factors.append(torch.linalg.cholesky(bound))
    return factors


def _side_by_side(weights: Tensor) -> Tensor:
    """(F, D, O) to (D, F * O)."""
    return weights.permute(1, 0, 2).reshape(weights.shape[1], -1)


def _slopes(rows: _Rows, targets: Tensor, fold: Tensor, weights: Tensor) -> Tensor:
    """Slopes (F, D, O) of each fold's log-likelihood over the rows of the other folds."""
    folds, width, classes = weights.shape
    slopes = torch.zeros(width, folds * classes)
    for part in rows.parts():
        own = rows[part]
        scores = (own @ _side_by_side(weights)).view(-1, folds, classes)
        rest = torch.nn.functional.one_hot(targets[part], classes)[:, None] - scores.softmax(-1)
        rest[torch.arange(len(own)), fold[part]] = 0  # no probe learns from the fold that it judges
        slopes.addmm_(own.T, rest.view(len(own), -1))
    return slopes.view(width, folds, classes).permute(1, 0, 2)


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


def _probabilities(scores: Tensor, targets: Tensor) -> Tensor:
    """Scores to probabilities, at the temperature of the lowest loss on the given labels."""
    few = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))[:TEMPERED]
    some, wanted = scores[few].double(), targets[few]
    losses = [float(torch.nn.functional.cross_entropy(some / t, wanted)) for t in TEMPERATURES]
    return scores.div_(float(TEMPERATURES[int(np.argmin(losses))])).softmax(1)


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
    counted, best, suggested, other = 0, np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n)
    for start in range(0, n, PIECE):  # a copy of all probabilities of very many images and classes would be large
        part = slice(start, min(n, start + PIECE))
        p, own, line = probabilities[part].copy(), given_labels[part], np.arange(part.stop - start)
        confident = np.where((p >= thresholds) & (counts > 0), p, -1)
        counted += int(((confident.argmax(1) != own) & (confident.max(1) >= 0)).sum())
        best[part] = p.argmax(1)
        p[line, own] = -1
        suggested[part] = p.argmax(1)
        other[part] = p.max(1)
    surest = np.argsort(-probabilities.max(1), kind="stable")[: max(50, n // 10)]
    rate = float((best[surest] != given_labels[surest]).mean())
    estimated = min(counted, round(rate * n))
    wrong = np.flatnonzero(other > given)
    order = wrong[np.argsort(given[wrong], kind="stable")][: max(estimated, int(np.ceil(LISTED * n)))]
    return LabelErrors(
        order.tolist(), suggested[order].tolist(), given[order].tolist(), other[order].tolist(),
        min(estimated, len(order)), float((best == given_labels).mean()),
    )  # fmt: skip
