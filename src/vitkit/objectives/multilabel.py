"""Multi-label classification: an independent yes or no for each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.data.loader import Batch

__all__ = ["MultiLabel", "frequency_bias"]


@dataclass(frozen=True)
class MultiLabel:
    """Sigmoid cross-entropy: the mean over the images of a batch and over classes, in nats per decision."""

    smoothing: float = 0.0  # targets 0 and 1 become s/2 and 1 - s/2

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of labels (B, O); the logits are taken to float32 first."""
        wanted = batch.labels * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(module(batch.images).float(), wanted)


def frequency_bias(targets: Tensor) -> Tensor:
    """The head bias (O,) that gives each class its frequency in ``targets`` (n, O) as probability, before any training.

    Otherwise the first steps are spent on learning that most answers are no (arXiv 1708.02002, section 3.3). One image
    with and one without are added, so that a class in all images or in none has a finite bias.
    """
    share = (targets.double().sum(0) + 1) / (len(targets) + 2)
    return torch.logit(share).float()
