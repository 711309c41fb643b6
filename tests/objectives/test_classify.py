"""The classification loss against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.objectives.classify import Classify


def test_costs_that_undo_class_frequencies_make_frequencies_the_optimum_of_equal_logits() -> None:
    """With costs 1 / frequency, logits that say "all alike" are what minimises the loss on uninformative images."""
    labels = torch.tensor([0] * 30 + [1] * 10)
    batch = Batch(torch.zeros(40, 1), labels)
    model = nn.Linear(1, 2)
    nn.init.zeros_(model.weight)
    for weights, expected in ((None, math.log(3)), ((0.5, 1.5), 0.0)):
        nn.init.zeros_(model.bias)
        optimiser = torch.optim.LBFGS([model.bias], max_iter=100)

        def closure(
            weights: tuple[float, ...] | None = weights, optimiser: torch.optim.Optimizer = optimiser
        ) -> torch.Tensor:
            optimiser.zero_grad()
            loss = Classify(class_weights=weights).loss(model, batch)
            loss.backward()
            return loss

        optimiser.step(closure)
        assert float((model.bias[0] - model.bias[1]).detach()) == pytest.approx(expected, abs=1e-3)


def test_equal_costs_change_nothing() -> None:
    torch.manual_seed(0)
    batch = Batch(torch.randn(8, 5), torch.randint(0, 3, (8,)))
    model = nn.Linear(5, 3)
    plain = Classify(smoothing=0.1).loss(model, batch)
    assert torch.equal(plain, Classify(smoothing=0.1, class_weights=(1.0, 1.0, 1.0)).loss(model, batch))


def test_labels_may_be_shares_of_classes() -> None:
    torch.manual_seed(0)
    logits, shares = torch.randn(4, 3), torch.softmax(torch.randn(4, 3), 1)
    expected = -(shares * torch.log_softmax(logits, 1)).sum(1).mean()
    assert torch.isclose(Classify().loss(nn.Identity(), Batch(logits, shares)), expected)


def test_the_sigmoid_loss_sums_over_classes_and_averages_over_images() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    y = torch.eye(3)[labels]
    p = logits.sigmoid()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).sum(1).mean()
    for form in (labels, y):
        assert torch.isclose(Classify(sigmoid=True).loss(nn.Identity(), Batch(logits, form)), expected)
    # The reference's head bias of -6.9 makes 1,000 classes begin near the loss of one yes among them.
    start = Classify(sigmoid=True).loss(nn.Identity(), Batch(torch.full((2, 1000), -6.9), torch.tensor([3, 4])))
    assert start.item() == pytest.approx(6.9 + 1000 * math.log1p(math.exp(-6.9)), rel=1e-4)


def test_the_sigmoid_loss_takes_no_smoothing() -> None:
    with pytest.raises(UserError, match="neither smoothing nor class weights"):
        Classify(smoothing=0.1, sigmoid=True)
