"""Schedules against the reference's values, parameter groups, the moving average (VIT_SPEC 4.1 and 11)."""

from __future__ import annotations

import pytest
import torch

from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.optim import Ema, OptimConfig, layer_of, make_optimiser, schedule

STEPS = (0, 1, 5, 10, 11, 50, 99, 100)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("cosine", [0, 0.003, 0.015, 0.03, 0.02999086, 0.01760472, 9.1374e-6, 0]),
        ("linear", [0, 0.003, 0.015, 0.03, 0.02966678, 0.01667111, 3.43223e-4, 1e-5]),
    ],
)
def test_schedules_of_the_reference(decay: str, expected: list[float]) -> None:
    rates = [schedule(step, 100, 0.03, 10, decay) for step in STEPS]
    assert rates == pytest.approx(expected, abs=1e-8)


def test_no_warm_up_starts_at_the_base_rate_and_unknown_decays_are_named() -> None:
    assert schedule(0, 10, 0.1, 0) == pytest.approx(0.1)
    assert schedule(7, 10, 0.1, 0, "constant") == 0.1
    with pytest.raises(UserError, match="known: cosine, linear, constant"):
        schedule(0, 10, 0.1, 0, "step")


def model() -> VisionTransformer:
    made = VisionTransformer(ViTConfig(embed_dim=16, depth=3, num_heads=2, mlp_dim=16, image_size=32, num_classes=4))
    made.init_weights(0)
    return made


def test_layers_learn_slower_the_further_they_are_from_the_head() -> None:
    names = {
        "patch_embed.weight": 0, "pos_embed": 0, "cls_token": 0, "blocks.0.attn.qkv.weight": 1, "blocks.2.norm1.bias": 3,
        "norm.weight": 4, "head.weight": 4,
    }  # fmt: skip
    assert {name: layer_of(name, 3) for name in names} == names
    made = model()
    optimiser = make_optimiser(made, OptimConfig(lr=1.0, layer_decay=0.5, weight_decay=0.3), 3)
    found = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    assert len(found) == len(list(made.parameters()))
    for name, parameter in made.named_parameters():
        group = found[id(parameter)]
        assert group["scale"] == 0.5 ** (4 - layer_of(name, 3)), name
        kernel = parameter.ndim > 1 and name not in ("pos_embed", "cls_token")
        assert group["weight_decay"] == (0.3 if kernel else 0.0), name


def test_frozen_parameters_are_left_out() -> None:
    made = model()
    made.requires_grad_(False)
    made.head.requires_grad_(True)
    optimiser = make_optimiser(made, OptimConfig(), 3)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 2


def test_the_moving_average_warms_up_and_then_follows_its_decay() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    ema = Ema(layer, 0.5)
    torch.nn.init.ones_(layer.weight)
    ema.update(layer)  # the first decay is 1 / 10
    assert ema.state()["weight"].item() == pytest.approx(0.9)
    for _ in range(20):
        ema.update(layer)
    before = ema.state()["weight"].item()
    torch.nn.init.zeros_(layer.weight)
    ema.update(layer)
    assert ema.state()["weight"].item() == pytest.approx(before / 2)
