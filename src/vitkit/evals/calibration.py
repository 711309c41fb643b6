"""Temperature scaling: one number that makes confidence match accuracy. Source: arXiv 1706.04599, section 4.2."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = ["fit_multilabel_temperature", "fit_temperature"]

RANGE = (0.2, 5.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in `RANGE` with the lowest mean negative log-likelihood of logits (n, O) for labels (n,)."""
    rows = np.arange(len(labels))
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)

    def nll(log_t: float) -> float:
        scaled = centred / math.exp(log_t)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]).mean())

    return _minimise(nll)


def fit_multilabel_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature in `RANGE` with the lowest mean sigmoid cross-entropy of logits (n, O) for targets (n, O) of 0 and 1."""
    wrong_way = np.where(targets > 0.5, -1.0, 1.0) * logits.astype(np.float64)  # above 0: on the wrong side

    def nll(log_t: float) -> float:
        return float(np.logaddexp(0, wrong_way / math.exp(log_t)).mean())

    return _minimise(nll)


def _minimise(nll: Callable[[float], float]) -> float:
    """Golden-section search for the T in `RANGE` with the lowest ``nll(log T)``.

    Both losses are convex in 1 / T, hence unimodal in log T, so the search finds the minimum.
    """
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
