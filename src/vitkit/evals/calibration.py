"""Temperature scaling: numbers that make confidence match accuracy. Source: arXiv 1706.04599, section 4.2."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fit_bias_and_temperature", "fit_multilabel_temperature", "fit_temperature"]

RANGE = (0.2, 5.0)
LEAST_OF_CLASS = 20  # images, from which a class gets a shift of its own
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


def fit_bias_and_temperature(
    logits: np.ndarray, labels: np.ndarray, class_weights: Sequence[float] | None = None
) -> tuple[np.ndarray, float]:
    """(shift of the logits (O,), temperature): probabilities are softmax((logits + shift) / temperature).

    Bias-corrected temperature scaling, arXiv 1901.06852: beside the temperature one number per class, which mends that a model
    prefers classes more than their frequency (or their cost) asks for, as training views that differ from whole images
    make it do. A class of fewer than `LEAST_OF_CLASS` images could not tell; then there is no shift, and the temperature is that of
    `fit_temperature`.

    Args:
        logits: (n, O) of held-out images.
        labels: (n,).
        class_weights: cost of an error of each class; the probabilities are then those of images that are as frequent as they
            are costly.
    """
    classes = logits.shape[1]
    nothing = np.zeros(classes)
    if np.bincount(labels, minlength=classes).min() < LEAST_OF_CLASS:
        return nothing, fit_temperature(logits, labels)
    z, y = torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(labels)
    cost = torch.tensor(class_weights or [1.0] * classes, dtype=torch.float64)
    cost = cost / cost[y].mean()  # the prior weighs as much as without costs
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        likelihood = (F.cross_entropy(z * (-log_t).exp() + bias, y, reduction="none") * cost[y]).sum()
        loss = likelihood + (log_t / PRIOR).square() / 2 + bias.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    temperature = min(max(math.exp(log_t.item()), RANGE[0]), RANGE[1])
    return (temperature * bias.detach()).numpy(), temperature


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
