"""The linear probe: logistic regression on frozen features, its penalty chosen by cross-validation.

Multinomial where each image has one class; one regression per class, of one penalty, in multi-label data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.data.subsets import stratified_folds
from vitkit.evals.multilabel import average_precision

__all__ = ["Probe", "fit_probe"]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean squared norm of standardised weights
FOLDS = 5
ONE_THREAD = 2_000_000  # below this many feature values, waking threads costs more than they save
MAX_SWEEP = 10_000  # examples that the sweep looks at; the final fit uses all


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
    loss, over stratified folds; the head is then fitted on everything. Float64 inside, a function of its arguments.
    """
    threads = torch.get_num_threads()
    if features.numel() < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        return _fit_probe(features, labels, num_classes, seed)
    finally:
        torch.set_num_threads(threads)


def _fit_probe(features: Tensor, labels: Tensor, num_classes: int, seed: int) -> Probe:
    mean, std = features.double().mean(0), features.double().std(0, unbiased=False)
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0)  # a constant feature stays zero
    x = (features.double() - mean) / std
    penalty, accuracy = _sweep(x, labels, num_classes, seed)
    weight, bias = _fit(x, labels, num_classes, penalty)
    weight = weight / std  # the standardisation folds into the head
    return Probe(weight.float(), (bias - weight @ mean).float(), penalty, accuracy)


def _sweep(x: Tensor, labels: Tensor, num_classes: int, seed: int) -> tuple[float, float]:
    if len(x) > MAX_SWEEP:
        part = np.random.default_rng(seed).choice(len(x), MAX_SWEEP, replace=False)
        x, labels = x[part], labels[part]
    if labels.ndim == 2:
        return _sweep_multilabel(x, labels, num_classes, seed)
    smallest = int(torch.bincount(labels, minlength=num_classes).clamp(min=1).min())
    folds = max(2, min(FOLDS, smallest))
    fold = torch.from_numpy(stratified_folds(labels.tolist(), folds, seed))
    results = []
    for penalty in PENALTIES:
        hits = loss = 0.0
        for held in range(folds):
            train, test = fold != held, fold == held
            if not test.any() or not train.any():
                continue
            weight, bias = _fit(x[train], labels[train], num_classes, penalty)
            logits = F.linear(x[test], weight, bias)
            hits += float((logits.argmax(1) == labels[test]).sum())
            loss += float(F.cross_entropy(logits, labels[test], reduction="sum"))
        results.append((hits / len(x), -loss, penalty))
    accuracy, _, penalty = max(results)
    return penalty, accuracy


def _sweep_multilabel(x: Tensor, labels: Tensor, num_classes: int, seed: int) -> tuple[float, float]:
    sets = [tuple(row.nonzero()[:, 0].tolist()) for row in labels]
    fold = torch.from_numpy(stratified_folds(sets, min(FOLDS, len(x)), seed))
    results = []
    for penalty in PENALTIES:
        logits = torch.zeros(len(x), num_classes, dtype=torch.float64)
        for held in range(int(fold.max()) + 1):
            weight, bias = _fit(x[fold != held], labels[fold != held], num_classes, penalty)
            logits[fold == held] = F.linear(x[fold == held], weight, bias)
        precisions = average_precision(logits.numpy(), labels.numpy() > 0.5)
        loss = float(F.binary_cross_entropy_with_logits(logits, labels.double()))
        results.append((float(np.nanmean(precisions)), -loss, penalty))
    best, _, penalty = max(results)
    return penalty, best


def _fit(x: Tensor, labels: Tensor, num_classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-5, history_size=10, line_search_fn="strong_wolfe"
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
