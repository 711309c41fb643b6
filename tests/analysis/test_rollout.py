"""Rollout against matrices multiplied in loops, for every reading."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.unfused import MAPPED, drawn, images_for, own_weights
from vitkit.analysis.attention import reading, recorded_weights
from vitkit.analysis.rollout import RESIDUALS, rollout, rollout_of
from vitkit.config import UserError


def product_by_loops(layers: list[np.ndarray], residual: str) -> np.ndarray:
    """A_L ... A_1 of the weights (K, N, N) of one image, first layer first: one number at a time."""
    K, N, _ = layers[0].shape
    product = np.eye(N)
    for weights in layers:
        step = np.zeros((N, N))
        for i in range(N):
            for j in range(N):
                step[i, j] = sum(weights[head, i, j] for head in range(K)) / K
                if residual == "half":
                    step[i, j] = 0.5 * step[i, j] + (0.5 if i == j else 0.0)
        following = np.zeros((N, N))
        for i in range(N):
            for j in range(N):
                following[i, j] = sum(step[i, m] * product[m, j] for m in range(N))
        product = following
    return product


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("case", MAPPED)
def test_rollout_against_loops(case: str, residual: str) -> None:
    model = drawn(**{**MAPPED[case], "depth": 3})
    config = model.config
    images = images_for(model)
    found = rollout(model, images, residual)
    assert found.shape == (2, *config.grid)
    assert found.dtype == torch.float32
    layers = [weights.double().numpy() for weights in own_weights(model, images)[:3]]
    read = reading(model, images).double().numpy()
    for image in range(2):
        rows = read[image] @ product_by_loops([weights[image] for weights in layers], residual)
        expected = rows[config.prefix_tokens :].reshape(config.grid)
        assert np.abs(found[image].numpy() - expected).max() <= 1e-6
        assert np.ptp(expected) > 1e-3


def test_rows_of_a_rollout_sum_to_one_and_layers_come_from_the_last() -> None:
    model = drawn(depth=4)
    images = images_for(model)
    read = reading(model, images)
    weights = [weights for _, weights in recorded_weights(model, images)]
    rows = rollout_of(reversed(weights), read)
    assert torch.allclose(rows.sum(dim=1), torch.ones(2))
    assert torch.equal(rows[:, 1:].unflatten(1, (4, 4)), rollout(model, images))
    other = rollout_of(weights, read)
    assert float((other - rows).abs().max()) > 1e-3


def test_a_rollout_of_no_layer_is_the_reading() -> None:
    read = torch.tensor([[0.25, 0.75]])
    assert torch.equal(rollout_of([], read), read)


def test_a_rollout_computes_in_float32_inside_autocast() -> None:
    model = drawn(depth=3)
    images = images_for(model)
    with torch.autocast("cpu", torch.bfloat16):
        weights = [weights for _, weights in recorded_weights(model, images)]
        inside = rollout_of(reversed(weights), reading(model, images))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, rollout_of(reversed(weights), reading(model, images)))


def test_what_a_rollout_refuses() -> None:
    model = drawn()
    model.patch_embed.register_forward_hook(lambda *_: pytest.fail("the model ran"))
    images = images_for(model)
    with pytest.raises(UserError, match=r"residual is 'hlaf'; known: half, none\. Did you mean 'half'\?"):
        rollout(model, images, "hlaf")
    with pytest.raises(UserError, match="residual is 'identity'"):
        rollout_of([], torch.ones(1, 2), "identity")
    with pytest.raises(UserError, match="no class token"):
        rollout(drawn(pool="mean", cls_token=False), images, pool="cls")
    with pytest.raises(UserError, match=r"output for every token \(pool='none'\)"):
        rollout(drawn(pool="none"), images)
    assert rollout(drawn(pool="none"), images, pool="cls").shape == (2, 4, 4)
