"""Temperature scaling: one number that makes confidence match accuracy. Source: arXiv 1706.04599, section 4.2."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["fit_temperature"]

RANGE = (0.2, 5.0)
PRIOR = math.log(2)  # standard deviation of log T before any image is seen: a factor of two is ordinary


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The most probable temperature in `RANGE` for logits (n, O) and labels (n,), by golden-section search in log T.

    Negative log-likelihood plus a weak prior around 1: a few images that are all right would else ask for T = 0, total
    certainty. The prior weighs as much as a handful of images and is gone among hundreds.
    """
    rows = np.arange(len(labels))
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)

    def loss(log_t: float) -> float:
        scaled = centred / math.exp(log_t)
        likelihood = float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]).sum())
        return likelihood + (log_t / PRIOR) ** 2 / 2

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
