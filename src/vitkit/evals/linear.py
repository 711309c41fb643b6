"""The linear probe: logistic regression on frozen features, its penalty chosen by cross-validation.

Multinomial where each image has one class; one regression per class, of one penalty, in multi-label data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.data.subsets import stratified_folds
from vitkit.engines.threads import each_alone
from vitkit.evals.multilabel import average_precision

__all__ = ["Probe", "fit_probe"]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean squared norm of standardised weights
FOLDS = 5
MAX_SWEEP = 10_000  # examples that the sweep looks at; the final fit uses all


class _Until(NamedTuple):
    """When a fit ends: torch.optim.LBFGS's own three limits."""

    iterations: int
    gradient: float
    change: float


NEAR = _Until(200, 1e-5, 1e-9)  # enough to choose a penalty
EXACT = _Until(5000, 1e-9, 0.0)  # of the head that is kept: predictions are those of the optimum


@dataclass(frozen=True)
class Probe:
    """A linear head for the raw features: logits = features @ weight.T + bias."""

    weight: Tensor  # (O, D) float32
    bias: Tensor  # (O,)
    penalty: float
    cv_accuracy: float  # of the chosen penalty, over the folds of the training part; in multi-label data the mAP

    def logits(self, features: Tensor) -> Tensor:
        """(n, D) -> (n, O)."""
        return F.linear(features, self.weight, self.bias)

    def weighted(self, class_weights: Sequence[float]) -> Probe:
        """The probe for other costs of errors: the decision that is best for them (arXiv 2007.07314, section 4.1)."""
        bias = self.bias.double() + torch.tensor(class_weights, dtype=torch.float64).log()
        return dataclasses.replace(self, bias=bias.float())


def fit_probe(features: Tensor, labels: Tensor, num_classes: int, seed: int) -> Probe:
    """Fit the probe on features (n, D) and labels (n,) int64, or in multi-label data (n, O) of 0 and 1.

    The penalty is the one with the best accuracy (multi-label: mAP over the images of all folds together), then the lowest
    loss, over stratified folds; the head is then fitted on everything. Float64 inside, a function of its arguments to the
    last digit: each fit is computed by one processor thread, several at a time.
    """
    [(x, mean, std)] = each_alone(_standardised, [features])
    penalty, accuracy = _sweep(x, labels, num_classes, seed)
    [(weight, bias)] = each_alone(lambda p: _folded(*_fit(x, labels, num_classes, p), mean, std), [penalty])
    return Probe(weight, bias, penalty, accuracy)


def _standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(standardised, mean, standard deviation), float64."""
    mean, std = features.double().mean(0), features.double().std(0, unbiased=False)
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0)  # a constant feature stays zero
    return (features.double() - mean) / std, mean, std


def _folded(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """A head for raw features from one for standardised features, float32."""
    weight = weight / std
    return weight.float(), (bias - weight @ mean).float()


def _sweep(x: Tensor, labels: Tensor, num_classes: int, seed: int) -> tuple[float, float]:
    """(the best penalty, its accuracy, in multi-label data its mAP)."""
    if len(x) > MAX_SWEEP:
        part = np.random.default_rng(seed).choice(len(x), MAX_SWEEP, replace=False)
        x, labels = x[part], labels[part]
    if labels.ndim == 2:
        folds = min(FOLDS, len(x))
        strata: list[int] | list[tuple[int, ...]] = [tuple(row.nonzero()[:, 0].tolist()) for row in labels]
    else:
        smallest = int(torch.bincount(labels, minlength=num_classes).clamp(min=1).min())
        folds, strata = max(2, min(FOLDS, smallest)), labels.tolist()
    fold = torch.from_numpy(stratified_folds(strata, folds, seed))
    held = [number for number in range(folds) if 0 < int((fold == number).sum()) < len(x)]

    def logits_of(job: tuple[float, int]) -> Tensor:
        penalty, number = job
        weight, bias = _fit(x[fold != number], labels[fold != number], num_classes, penalty)
        return F.linear(x[fold == number], weight, bias)

    found = iter(each_alone(logits_of, [(penalty, number) for penalty in PENALTIES for number in held]))
    results = []
    for penalty in PENALTIES:
        logits = torch.zeros(len(x), num_classes, dtype=torch.float64)
        for number in held:
            logits[fold == number] = next(found)
        results.append((*_quality(logits, labels), penalty))
    best, _, penalty = max(results)
    return penalty, best


def _quality(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """(accuracy or mAP, minus the loss), of images each scored by the fit without its fold."""
    if labels.ndim == 1:
        [loss] = each_alone(lambda z: F.cross_entropy(z, labels, reduction="sum"), [logits])
        return float((logits.argmax(1) == labels).sum()) / len(labels), -float(loss)
    [loss] = each_alone(lambda z: F.binary_cross_entropy_with_logits(z, labels.double()), [logits])
    return float(np.nanmean(average_precision(logits.numpy(), labels.numpy() > 0.5))), -float(loss)


def _fit(x: Tensor, labels: Tensor, num_classes: int, penalty: float, until: _Until = NEAR) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=until.iterations,
        tolerance_grad=until.gradient,
        tolerance_change=until.change,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        logits, squares = F.linear(x, weight, bias), penalty / 2 * weight.square().sum()
        if labels.ndim == 1:
            return F.cross_entropy(logits, labels) + squares / num_classes
        return (
            num_classes * F.binary_cross_entropy_with_logits(logits, labels.double()) + squares
        )  # a sum of regressions

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = objective()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
