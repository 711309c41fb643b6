"""Few-shot linear regression on frozen features, as big_vision measures it: regularised least squares on k images of each class.

Source: big_vision `evaluators/fewshot_lsr`; the golden vectors of its solution are in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.config import UserError
from vitkit.engines.threads import each_alone

__all__ = [
    "BIAS",
    "DRAWS",
    "PENALTY",
    "SHOTS",
    "Draw",
    "Support",
    "draw_support",
    "fewshot_scores",
    "measure_fewshot",
    "usable_shots",
]

SHOTS = (1, 5, 10, 25)  # images of each class
DRAWS = 3  # of the images to learn from: seeds 0, 1, 2
PENALTY = 1024.0  # 2 ** 10
BIAS = 100.0  # a constant feature so large that it is hardly penalised


class Support(NamedTuple):
    """The images that one fit learns from: ``shots`` of each class drawn by ``seed``."""

    shots: int
    seed: int
    places: np.ndarray  # among the training images


class Draw(NamedTuple):
    """One fit: ``shots`` images of each class drawn by ``seed``."""

    shots: int
    seed: int
    hits: np.ndarray  # (n,) bool, of the test images


def draw_support(labels: np.ndarray, classes: int, shots: Sequence[int], seed: int) -> dict[int, np.ndarray]:
    """Places of the images to learn from for each number of shots: the first of one permutation of each class.

    Fewer shots are part of more. A class without so many images gives all it has.

    Args:
        labels: (n,) of the training images, in the order of the data.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(labels == label)) for label in range(classes)]
    return {count: np.concatenate([order[:count] for order in orders]) for count in shots}


def usable_shots(labels: np.ndarray, present: np.ndarray, shots: Sequence[int]) -> tuple[list[int], int, int]:
    """(the numbers of shots that every class of ``present`` has images for, images of the smallest of them, which it is)."""
    counts = np.bincount(labels, minlength=int(present.max()) + 1)[present]
    least = int(counts.min())
    return [count for count in shots if count <= least], least, int(present[counts.argmin()])


def fewshot_scores(x: Tensor, y: Tensor, classes: int, x_test: Tensor) -> Tensor:
    """Scores (m, O) of test features (m, D), of the regression on features (n, D) and labels (n,). float32.

    Features are standardised by the training images' mean and standard deviation; targets are +1 of the own class, else -1.

    Raises:
        UserError: features so large that standardised ones are not finite.
    """
    mean, std = x.mean(0), x.std(0, unbiased=False) + 1e-5
    own, new = (F.pad((each - mean) / std, (0, 1), value=BIAS) for each in (x, x_test))
    if not (own.isfinite().all() and new.isfinite().all()):
        raise UserError(
            "the model's features are too large for float32; its weights are damaged or its training diverged."
        )
    targets = 2.0 * F.one_hot(y, classes).to(x.dtype) - 1.0
    # (x'x + penalty)^-1 x'y, or where there are fewer images than features the equal x'(xx' + penalty)^-1 y
    primal = own.shape[0] >= own.shape[1]
    values, vectors = torch.linalg.eigh(own.T @ own if primal else own @ own.T)
    left, right = (vectors, vectors.T @ (own.T @ targets)) if primal else (own.T @ vectors, vectors.T @ targets)
    return new @ ((left / (values + PENALTY)) @ right)


def measure_fewshot(
    x: Tensor, labels: np.ndarray, x_test: Tensor, test_labels: np.ndarray, classes: int, supports: Sequence[Support]
) -> list[Draw]:
    """Fit and score each support, in order; the lower class wins a tie.

    Args:
        x, labels: (n, D) and (n,) of the training images that ``supports`` name.
        x_test, test_labels: (m, D) and (m,).

    Raises:
        UserError: as `fewshot_scores`.
    """

    def fit(support: Support) -> Draw:
        y = torch.from_numpy(labels[support.places])
        scores = fewshot_scores(x[torch.from_numpy(support.places)], y, classes, x_test)
        return Draw(support.shots, support.seed, scores.numpy().argmax(1) == test_labels)

    return each_alone(fit, supports)
