"""Classification: softmax cross-entropy with label smoothing and costs per class, or the reference's sigmoid cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.config import UserError
from vitkit.data.loader import Batch

__all__ = ["Classify", "cross_entropy"]


@dataclass(frozen=True)
class Classify:
    """Cross-entropy, its mean over the batch. Labels are classes (B,), or shares of classes (B, O) of mixed images."""

    smoothing: float = 0.0  # this part of each target is spread evenly over all classes; arXiv 1512.00567, section 7
    class_weights: tuple[float, ...] | None = None  # cost of an error of each class; None: all alike
    sigmoid: bool = False  # each class a yes or no of its own, summed over classes (VIT_SPEC 4.4)

    def __post_init__(self) -> None:
        if self.sigmoid and (self.smoothing or self.class_weights):
            raise UserError("the sigmoid loss takes neither smoothing nor class weights.")

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss; the logits are taken to float32 first.

        Costs shift the logits instead of scaling the loss: a model that can fit every training image ignores scales.
        With costs inverse to class frequency the model learns the classes as if all were equally frequent.
        Source: logit-adjusted loss, arXiv 2007.07314, equation 10.
        """
        logits = module(batch.images).float()
        if self.class_weights is not None:
            logits = logits - torch.tensor(self.class_weights, device=logits.device).log()
        return cross_entropy(logits, batch.labels, self.smoothing, self.sigmoid)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0, sigmoid: bool = False) -> Tensor:
    """Mean over the batch of logits (B, O) against classes (B,) or shares of classes (B, O)."""
    if not sigmoid:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    shares = labels if labels.ndim == 2 else F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, shares, reduction="sum") / len(logits)
