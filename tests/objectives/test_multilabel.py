"""The multi-label loss: its convention, its smoothing, and where the head starts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitkit.data.loader import Batch
from vitkit.objectives.multilabel import MultiLabel, frequency_bias

LOGITS = torch.tensor([[2.0, -1.0, 0.0], [0.5, 3.0, -2.0]])
TARGETS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def test_the_loss_is_the_mean_over_images_and_classes() -> None:
    p = LOGITS.sigmoid()
    by_hand = -(TARGETS * p.log() + (1 - TARGETS) * (1 - p).log()).sum() / 6
    assert MultiLabel().loss(nn.Identity(), Batch(LOGITS, TARGETS)).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_smoothing_moves_every_target_towards_one_half() -> None:
    smooth = torch.where(TARGETS > 0, 0.9, 0.1)
    expected = nn.functional.binary_cross_entropy_with_logits(LOGITS, smooth)
    assert torch.isclose(MultiLabel(0.2).loss(nn.Identity(), Batch(LOGITS, TARGETS)), expected)


def test_the_first_probabilities_are_the_frequencies_of_the_classes() -> None:
    targets = torch.zeros(998, 3)
    targets[:99, 0] = 1
    targets[:, 2] = 1
    bias = frequency_bias(targets)
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([0.1, 0.001, 0.999]))
    assert bias.dtype == torch.float32
