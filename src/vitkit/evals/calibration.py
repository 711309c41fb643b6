"""Temperature scaling: one number that makes confidence match accuracy. Source: arXiv 1706.04599, section 4.2."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["fit_temperature"]

RANGE = (0.2, 5.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in `RANGE` with the lowest mean negative log-likelihood of logits (n, O): golden-section search.

    The loss is unimodal in log T, so the search finds its minimum.
    """
    rows = np.arange(len(labels))
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)

    def nll(log_t: float) -> float:
        scaled = centred / math.exp(log_t)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]).mean())

    low, high = math.log(RANGE[0]), math.log(RANGE[1])
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    loss_a, loss_b = nll(a), nll(b)
    for _ in range(40):
        if loss_a < loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - ratio * (high - low)
            loss_a = nll(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + ratio * (high - low)
            loss_b = nll(b)
    return math.exp((low + high) / 2)
