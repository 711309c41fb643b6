"""Classification: softmax cross-entropy, with label smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.data.loader import Batch

__all__ = ["Classify"]


@dataclass(frozen=True)
class Classify:
    """Mean softmax cross-entropy of a batch."""

    smoothing: float = 0.0  # this part of each target is spread evenly over all classes; arXiv 1512.00567, section 7

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss; the logits are taken to float32 first."""
        return F.cross_entropy(module(batch.images).float(), batch.labels, label_smoothing=self.smoothing)
