"""Classification: softmax cross-entropy, with label smoothing and costs per class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.data.loader import Batch

__all__ = ["Classify"]


@dataclass(frozen=True)
class Classify:
    """Mean softmax cross-entropy of a batch."""

    smoothing: float = 0.0  # this part of each target is spread evenly over all classes; arXiv 1512.00567, section 7
    class_weights: tuple[float, ...] | None = None  # cost of an error of each class; None: all alike

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss; the logits are taken to float32 first.

        Costs shift the logits instead of scaling the loss: a model that can fit every training image ignores scales.
        With costs inverse to class frequency the model learns the classes as if all were equally frequent.
        Source: logit-adjusted loss, arXiv 2007.07314, equation 10.
        """
        logits = module(batch.images).float()
        if self.class_weights is not None:
            logits = logits - torch.tensor(self.class_weights, device=logits.device).log()
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
