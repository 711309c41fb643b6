"""Temperature scaling: one number that makes confidence match accuracy. Source: arXiv 1706.04599, section 4.2."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = ["fit_multilabel_temperature", "fit_temperature"]

RANGE = (0.2, 5.0)
PRIOR = math.log(2)  # standard deviation of log T before any image is seen: a factor of two is ordinary


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The most probable temperature in `RANGE` for logits (n, O) and labels (n,).

    Negative log-likelihood plus a weak prior around 1: a few images that are all right would else ask for T = 0, total
    certainty. The prior weighs as much as a handful of images and is gone among hundreds.
    """
    rows = np.arange(len(labels))
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)

    def loss(log_t: float) -> float:
        scaled = centred / math.exp(log_t)
        likelihood = float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]).sum())
        return likelihood + (log_t / PRIOR) ** 2 / 2

    return _minimise(loss)


def fit_multilabel_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The same for the sigmoid cross-entropy of logits (n, O) and targets (n, O) of 0 and 1, an image's mean over classes."""
    wrong_way = np.where(targets > 0.5, -1.0, 1.0) * logits.astype(np.float64)  # above 0: on the wrong side

    def loss(log_t: float) -> float:
        likelihood = float(np.logaddexp(0, wrong_way / math.exp(log_t)).mean(axis=1).sum())
        return likelihood + (log_t / PRIOR) ** 2 / 2

    return _minimise(loss)


def _minimise(loss: Callable[[float], float]) -> float:
    """Golden-section search for the T in `RANGE` with the lowest ``loss(log T)``, which falls and then rises."""
    low, high = math.log(RANGE[0]), math.log(RANGE[1])
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    for _ in range(40):
        if loss_a < loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - ratio * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + ratio * (high - low)
            loss_b = loss(b)
    return math.exp((low + high) / 2)
