"""Whole optimisations against the reference's values, a second implementation and today's code; the configuration.

Golden sequences: VIT_SPEC 4.1, 4.4 and 11.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vitkit.checkpoint import load_checkpoint, save_checkpoint
from vitkit.config import UserError, from_dict
from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.optim import (
    Ema,
    OptimConfig,
    clip_gradients,
    layer_of,
    make_average,
    make_optimiser,
    schedule,
    set_rates,
)
from vitkit.train import TrainConfig, start, step_once

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


@pytest.mark.parametrize(
    "changes", [{"position": "relative"}, {"position_at": "layers"}, {"position": "learned2d", "position_at": "layers"}]
)
def test_learned_vectors_of_positions_do_not_decay(changes: dict[str, str]) -> None:
    config = ViTConfig(embed_dim=16, depth=3, num_heads=2, mlp_dim=16, image_size=32, num_classes=4)
    made = VisionTransformer(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    optimiser = make_optimiser(made, OptimConfig(lr=1.0, layer_decay=0.5, weight_decay=0.3), 3)
    found = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    seen = 0
    for name, parameter in made.named_parameters():
        positions = name.startswith("pos_") or name.endswith("attn.relative")
        seen += positions
        kernel = parameter.ndim > 1 and not positions and name != "cls_token"
        assert found[id(parameter)]["weight_decay"] == (0.3 if kernel else 0.0), name
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else None
        if positions:
            assert found[id(parameter)]["scale"] == 0.5 ** (4 - (layer or 0)), name
    assert seen == {"relative": 3, "learned2d": 2}.get(changes.get("position", ""), 1)


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


GOLDEN = {
    "sgd": (
        OptimConfig(
            optimiser="sgd", moment="bf16", lr=0.1, weight_decay=0.0, warmup_steps=2, clip_norm=1.0, decay="cosine",
        ),
        [
            [1, -2, 0.5], [0.93283081, -1.93283081, 0.49664643], [0.74233502, -1.73983634, 0.48694557],
            [0.51536810, -1.49989283, 0.47444576], [0.28571135, -1.23759270, 0.46004054],
        ],
    ),
    "adam": (
        OptimConfig(
            optimiser="adamw", moment="bf16", lr=0.01, weight_decay=0.001, weight_decay_by="absolute", warmup_steps=2,
            clip_norm=1.0, decay="cosine",
        ),
        [
            [1, -2, 0.5], [0.99450463, -1.99400461, 0.49475464], [0.98354834, -1.98204792, 0.48426166],
            [0.97303915, -1.97058117, 0.47417849], [0.96372378, -1.96039784, 0.46525002],
        ],
    ),
}  # fmt: skip


def golden_run(config: OptimConfig, shape: tuple[int, ...] = (1, 3)) -> list[list[float]]:
    """The spec's three weights after steps 1 .. 5 of 10."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]).reshape(shape))
    optimiser = make_optimiser(module, config, depth=0)
    found = []
    for step in range(5):
        module.weight.grad = 2 * module.weight.detach() * torch.tensor([1.0, 0.5, 0.1])
        set_rates(optimiser, config, step, 10)
        clip_gradients(module.parameters(), config)
        optimiser.step()
        found.append(module.weight.flatten().tolist())
    return found


@pytest.mark.parametrize("name", GOLDEN)
def test_chains_of_the_reference(name: str) -> None:
    config, expected = GOLDEN[name]
    np.testing.assert_allclose(golden_run(config), expected, rtol=0, atol=5e-7)
    # a vector is no kernel, unless everything decays
    everywhere = dataclasses.replace(config, weight_decay_of="all")
    np.testing.assert_allclose(golden_run(everywhere, (3,)), expected, rtol=0, atol=5e-7)
    full = golden_run(dataclasses.replace(config, moment="fp32"))
    assert np.abs(np.array(full) - expected).max() > 1e-5  # the rounding is what the golden sequence sees


def test_absolute_decay_is_that_of_adamw_divided_by_the_rate() -> None:
    """VIT_SPEC 0, point 15: 1e-4 with lr 1e-3 is PyTorch's 0.1."""
    base = OptimConfig(lr=1e-3, warmup=0.2, clip_norm=1.0)
    absolute = dataclasses.replace(base, weight_decay=1e-4, weight_decay_by="absolute")
    ours = golden_run(absolute)
    assert ours == golden_run(dataclasses.replace(base, weight_decay=1e-4 / 1e-3))
    assert ours != golden_run(dataclasses.replace(base, weight_decay=0.0))


def bf16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even with 8 significant bits."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


def by_hand(config: OptimConfig, weights: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]]) -> None:
    """The whole chain in float64 without PyTorch, in the order of VIT_SPEC 4.4; ``weights`` change in place."""
    total, peak = len(gradients), config.lr
    rounded = bf16 if config.moment == "bf16" else lambda values: values
    factor = float(rounded(np.array(config.beta1)))
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    for step, all_gradients in enumerate(gradients):
        part = {
            "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
            "linear": lambda x: config.linear_end / peak + (1 - config.linear_end / peak) * (1 - x),
            "rsqrt": lambda x: (1 + x * (total - 3) / config.timescale) ** -0.5,
            "constant": lambda x: 1.0,
        }[config.decay](max(step - 3, 0) / (total - 3)) * min(1, step / 3)
        if config.cooldown_steps:
            part *= min(1, (total - step) / config.cooldown_steps)
        norm = math.sqrt(sum((g**2).sum() for g in all_gradients.values()))
        for name, weight in weights.items():
            g = all_gradients[name]
            if config.clip_norm and norm > config.clip_norm:
                g = g * (config.clip_norm / (norm + (1e-6 if config.is_pytorch else 0)))
            if config.optimiser == "sgd":
                update = sum_ = rounded(factor * first[name]) + g
            else:
                sum_ = rounded(factor * first[name]) + (1 - config.beta1) * g
                second[name] = config.beta2 * second[name] + (1 - config.beta2) * g**2
                corrected = second[name] / (1 - config.beta2 ** (step + 1))
                update = sum_ / (1 - config.beta1 ** (step + 1)) / (np.sqrt(corrected) + 1e-8)
            first[name] = rounded(sum_)
            kernel = name.endswith("weight") and "norm" not in name
            decays = config.weight_decay * (kernel or config.weight_decay_of == "all") * weight
            block = 0 if name.startswith(("patch", "cls", "pos")) else int(name[7]) + 1 if name[:7] == "blocks." else 4
            scale = config.layer_decay ** (4 - block)
            by_rate = peak * scale if config.weight_decay_by == "rate" else 1.0
            weight -= part * (peak * scale * update + by_rate * decays)


CHAINS = {
    f"{optimiser} {moment} {by} {of}": OptimConfig(
        optimiser=optimiser, moment=moment, weight_decay_by=by, weight_decay_of=of, lr=0.02, warmup_steps=3,
        weight_decay=0.1 if by == "rate" else 0.002, layer_decay=layer_decay, clip_norm=clip, decay=decay,
        cooldown_steps=cooldown, beta1=beta1, timescale=4, linear_end=1e-3,
    )
    for optimiser, moment, by, of, layer_decay, clip, decay, cooldown, beta1 in (
        ("sgd", "fp32", "rate", "kernels", 1.0, 1.0, "cosine", 0, 0.9),
        ("sgd", "bf16", "rate", "all", 0.7, 1e-3, "linear", 0, 0.9),
        ("sgd", "bf16", "absolute", "kernels", 0.7, None, "rsqrt", 4, 0.8),
        ("adamw", "fp32", "rate", "kernels", 0.7, 1.0, "cosine", 0, 0.9),
        ("adamw", "fp32", "absolute", "all", 0.7, 0, "constant", 5, 0.9),
        ("adamw", "bf16", "rate", "kernels", 1.0, 1e-3, "rsqrt", 0, 0.95),
        ("adamw", "bf16", "absolute", "kernels", 0.7, 1.0, "cosine", 0, 0.9),
        ("adamw", "bf16", "absolute", "all", 1.0, 1e6, "linear", 3, 0.9),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_those_of_an_implementation_without_pytorch(name: str) -> None:
    config = CHAINS[name]
    made = model().double()
    rng = np.random.default_rng(5)
    gradients = [{n: rng.normal(size=p.shape) for n, p in made.named_parameters()} for _ in range(12)]
    weights = {n: p.detach().numpy().copy() for n, p in made.named_parameters()}
    by_hand(config, weights, gradients)
    optimiser = make_optimiser(made, config, 3)
    for step, all_gradients in enumerate(gradients):
        for n, p in made.named_parameters():
            p.grad = torch.from_numpy(all_gradients[n].copy())
        set_rates(optimiser, config, step, len(gradients))
        clip_gradients(made.parameters(), config)
        optimiser.step()
    for n, p in made.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), weights[n], rtol=1e-10, atol=1e-12, err_msg=n)


def test_gradients_within_the_norm_are_left_alone_and_larger_ones_get_exactly_it() -> None:
    config = OptimConfig(optimiser="sgd", weight_decay=0.0, clip_norm=1e-4)
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([3e-5, 0.0]), torch.tensor([4e-5])
    clip_gradients(weights, config)
    assert weights[0].grad.tolist() == torch.tensor([3e-5, 0.0]).tolist()
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    clip_gradients(weights, config)
    assert [*weights[0].grad.tolist(), weights[1].grad.item()] == pytest.approx([6e-5, 0, 8e-5], rel=1e-6)
    for parameter in weights[:2]:
        parameter.grad.zero_()
    clip_gradients(weights, config)
    assert weights[0].grad.tolist() == [0, 0]
    for none in (0, None):
        weights[0].grad = torch.tensor([3e5, 0.0])
        clip_gradients(weights, dataclasses.replace(config, clip_norm=none))
        clip_gradients(weights, OptimConfig(clip_norm=none))
        assert weights[0].grad.tolist() == [3e5, 0]


def test_polyak_takes_the_same_part_of_every_step() -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(layer.weight)
    average = make_average(layer, OptimConfig(polyak=0.9999))
    expected = 0.0
    for step in range(1, 50):
        nn.init.constant_(layer.weight, step)
        average.update(layer)
        expected = 0.9999 * expected + 0.0001 * step
    assert average.state()["weight"].item() == pytest.approx(expected, rel=1e-12)
    assert make_average(layer, OptimConfig()) is None


# What fine-tuning did before there was a choice, stated once more: it must stay what it was to the last bit.


def train_config(optim: OptimConfig, steps: int = 8) -> TrainConfig:
    return TrainConfig(
        steps=steps, batch_size=6, microbatch_size=4, seed=3, eval_every=5, patience=0, precision="fp32",
        fused_attention=True, optim=optim,
    )  # fmt: skip


def batches(count: int) -> list[Batch]:
    rng = torch.Generator().manual_seed(9)
    return [Batch(torch.randn(6, 3, 32, 32, generator=rng), torch.arange(6) % 4) for _ in range(count)]


def as_before(
    config: TrainConfig, made: VisionTransformer, fused: bool = True
) -> tuple[dict[str, torch.Tensor], Ema | None]:
    optim, groups = config.optim, {}
    for name, parameter in made.named_parameters():
        scale = optim.layer_decay ** (made.config.depth + 1 - layer_of(name, made.config.depth))
        decays = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        groups.setdefault((scale, optim.weight_decay if decays else 0.0), []).append(parameter)
    optimiser = torch.optim.AdamW(
        [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()],
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        fused=fused,
    )
    ema = Ema(made, optim.ema) if optim.ema else None
    for step, batch in enumerate(batches(config.steps)):
        torch.manual_seed(hash((config.seed, step)) & 0x7FFFFFFF)
        made.train()
        warmup = round(optim.warmup * config.steps)
        progress = min(max((step - warmup) / max(config.steps - warmup, 1), 0.0), 1.0)
        rate = {
            "cosine": optim.lr / 2 * (1 + math.cos(math.pi * progress)),
            "linear": 1e-5 + (optim.lr - 1e-5) * (1 - progress),
            "constant": optim.lr,
        }[optim.decay]
        rate = rate * min(1.0, step / warmup) if warmup else rate
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        made.zero_grad()
        for part in (slice(0, 4), slice(4, 6)):
            few = Batch(batch.images[part], batch.labels[part])
            (Classify().loss(made, few) * (len(few.labels) / 6)).backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), optim.clip_norm)
        optimiser.step()
        if ema:
            ema.update(made)
    return made.state_dict(), ema


@pytest.mark.parametrize(
    "optim",
    [
        OptimConfig(),
        OptimConfig(lr=3e-3, layer_decay=0.75, clip_norm=0.3),
        OptimConfig(lr=2e-3, weight_decay=0.2, ema=0.99, beta1=0.8, beta2=0.95),
        OptimConfig(decay="linear", warmup=0.0),
        OptimConfig(decay="constant", warmup=0.5),
    ],
)
def test_fine_tuning_is_what_it_was_to_the_last_bit(optim: OptimConfig) -> None:
    config = train_config(optim)
    state = start(model(), config)
    for batch in batches(config.steps):
        step_once(state, config, Classify(), batch)
        state.step += 1
    weights, ema = as_before(config, model())
    assert isinstance(state.optimiser, torch.optim.AdamW)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state.model.state_dict().items())
    if ema:
        assert all(torch.equal(tensor, ema.weights[name]) for name, tensor in state.current_weights().items())


def test_the_fused_update_is_that_of_ten_passes_but_for_rounding() -> None:
    """Outputs, not weights: Adam makes steps of the rounding error that is the gradient of the keys' bias."""
    images = batches(1)[0].images
    outputs = []
    for fused in (True, False):
        made = model()
        as_before(train_config(OptimConfig(lr=2e-3, weight_decay=0.2)), made, fused)
        outputs.append(made.eval()(images))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    assert (outputs[0] - model().eval()(images)).abs().max() > 0.01


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_clipping_is_pytorchs_to_the_last_bit_where_it_has_nothing_to_do_and_where_it_has(clip: float) -> None:
    found = []
    for by_pytorch in (False, True):
        made = model()
        for number, parameter in enumerate(made.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        if by_pytorch:
            norm = float(torch.nn.utils.clip_grad_norm_(made.parameters(), clip))
        else:
            norm = clip_gradients(made.parameters(), OptimConfig(clip_norm=clip))
        found.append((norm, [parameter.grad for parameter in made.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize(
    "optim",
    [
        OptimConfig(optimiser="sgd", moment="bf16", weight_decay=0.0, lr=0.05, polyak=0.99, warmup_steps=2),
        OptimConfig(optimiser="sgd", lr=0.05),
        OptimConfig(optimiser="adam", moment="bf16", weight_decay=0.0),
        OptimConfig(moment="bf16", weight_decay=1e-4, weight_decay_by="absolute", ema=0.9, decay="rsqrt", cooldown=0.5),
        OptimConfig(weight_decay=1e-4, weight_decay_by="absolute"),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(optim: OptimConfig, tmp_path: Path) -> None:
    config = train_config(optim)
    whole = start(model(), config)
    for batch in batches(3):
        step_once(whole, config, Classify(), batch)
        whole.step += 1
    save_checkpoint(tmp_path, whole)
    resumed = start(model(), config)
    load_checkpoint(tmp_path, resumed)
    before, after = whole.optimiser.state_dict()["state"], resumed.optimiser.state_dict()["state"]
    assert before.keys() == after.keys()
    for index, moments in before.items():
        for name, tensor in moments.items():
            assert after[index][name].dtype == tensor.dtype, name
            assert torch.equal(after[index][name], tensor), name
    first = "momentum" if optim.optimiser == "sgd" else "exp_avg"
    assert before[0][first].dtype == (torch.bfloat16 if optim.moment == "bf16" else torch.float32)
    for batch in batches(8)[3:]:
        for state in (whole, resumed):
            step_once(state, config, Classify(), batch)
            state.step += 1
    for kind in ("model", "average"):
        one, two = ((s.model.state_dict() if kind == "model" else s.current_weights()) for s in (whole, resumed))
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items()), kind


# The configuration


def test_every_field_of_the_configuration_is_read() -> None:
    """A setting that changes nothing would be a lie: each must change the weights, or those that are kept."""
    changed: dict[str, tuple[object, dict[str, object]]] = {
        "lr": (1e-2, {}),
        "weight_decay": (0.5, {}),
        "layer_decay": (0.5, {}),
        "warmup": (0.5, {}),
        "decay": ("constant", {}),
        "beta1": (0.5, {}),
        "beta2": (0.9, {}),
        "clip_norm": (1e-8, {}),
        "ema": (0.9, {}),
        "optimiser": ("sgd", {}),
        "moment": ("bf16", {}),
        "weight_decay_by": ("absolute", {}),
        "weight_decay_of": ("all", {}),
        "warmup_steps": (3, {}),
        "linear_end": (1e-3, {"decay": "linear"}),
        "timescale": (2, {"decay": "rsqrt"}),
        "cooldown": (0.5, {}),
        "cooldown_steps": (4, {}),
        "polyak": (0.9, {}),
    }
    assert set(changed) == {f.name for f in dataclasses.fields(OptimConfig)}

    def kept(optim: OptimConfig) -> torch.Tensor:
        config = train_config(optim, steps=6)
        state = start(model(), config)
        for batch in batches(6):
            step_once(state, config, Classify(), batch)
            state.step += 1
        return torch.cat([tensor.flatten() for tensor in state.current_weights().values()])

    for field, (value, extra) in changed.items():
        base = OptimConfig(**{"lr": 5e-3, "warmup": 0.2, **extra})
        assert not torch.equal(kept(base), kept(dataclasses.replace(base, **{field: value}))), field


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": -1.0}, "lr must be a number from 0 up, got -1.0"),
        ({"lr": float("nan")}, "lr must be a number from 0 up, got nan"),
        ({"lr": "fast"}, "lr must be a number from 0 up, got 'fast'"),
        ({"lr": None}, "lr must be a number from 0 up, got None"),
        ({"lr": 10**400}, "lr must be a number from 0 up, got 1000"),
        ({"weight_decay": float("inf")}, "weight_decay must be a number from 0 up, got inf"),
        ({"weight_decay": True}, "weight_decay must be a number from 0 up, got True"),
        ({"layer_decay": 0}, r"layer_decay must be in \(0, 1\], got 0"),
        ({"layer_decay": 1.5}, r"layer_decay must be in \(0, 1\], got 1.5"),
        ({"warmup": 1}, r"warmup must be in \[0, 1\), got 1"),
        ({"cooldown": -0.1}, r"cooldown must be in \[0, 1\), got -0.1"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
        ({"beta2": -0.5}, r"beta2 must be in \[0, 1\), got -0.5"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"polyak": 2}, r"polyak must be in \[0, 1\), got 2"),
        ({"clip_norm": -1}, "clip_norm must be a number from 0 up, got -1"),
        ({"linear_end": -1e-5}, "linear_end must be a number from 0 up, got -1e-05"),
        ({"warmup_steps": 2.5}, "warmup_steps must be a whole number from 0 up, got 2.5"),
        ({"cooldown_steps": -1}, "cooldown_steps must be a whole number from 0 up, got -1"),
        ({"timescale": 0}, "timescale must be a whole number from 1 up, got 0"),
        ({"decay": "cosin"}, "decay is 'cosin'; known: cosine, linear, constant, rsqrt. Did you mean 'cosine'?"),
        ({"decay": ["cosine"]}, "decay is .*'cosine',.*; known: cosine"),
        ({"optimiser": "adamW"}, "optimiser is 'adamW'; known: adamw, adam, sgd. Did you mean 'adamw'?"),
        ({"moment": "bf_16"}, "moment is 'bf_16'; known: fp32, bf16. Did you mean 'bf16'?"),
        (
            {"weight_decay_by": "absolut"},
            "weight_decay_by is 'absolut'; known: rate, absolute. Did you mean 'absolute'?",
        ),
        ({"weight_decay_of": "kernel"}, "weight_decay_of is 'kernel'; known: kernels, all. Did you mean 'kernels'?"),
        ({"optimiser": "adam"}, "weight_decay is 0.05 with optimiser 'adam', which has none: take 'adamw'"),
        ({"weight_decay_by": "absolute", "lr": 0}, "weight_decay_by is 'absolute' with lr 0"),
        ({"decay": "linear", "lr": 1e-6}, "linear_end is 1e-05, above lr 1e-06, so the rate would rise"),
        ({"ema": 0.9, "polyak": 0.99}, "ema is 0.9 and polyak 0.99: one average is kept"),
        ({"cooldown": 0.1, "cooldown_steps": 5}, "cooldown is 0.1 and cooldown_steps 5: set one to 0"),
        ({"warmup": 0.6, "cooldown": 0.5}, "warmup 0.6 and cooldown 0.5 are more than all steps together"),
        ({"momentum": 0.9}, "plan: unknown field 'momentum'. Did you mean 'moment'"),
    ],
)
def test_nonsense_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(OptimConfig, values, "plan")


@pytest.mark.parametrize("values", [{"warmup_steps": 10}, {"cooldown_steps": 10}, {"warmup_steps": 6, "cooldown": 0.5}])
def test_steps_that_do_not_fit_into_the_run_are_refused_before_it_begins(values: dict[str, float]) -> None:
    config = OptimConfig(**values)
    with pytest.raises(UserError, match=r"a warm-up of \d+ and a cool-down of \d+ steps do not fit into 10 steps"):
        config.rate(0, 10)
    assert config.rate(0, 1) <= config.lr  # a single step, to try things out
    assert config.rate(15, 1000) > 0


def test_an_absolute_decay_needs_a_rate_in_every_layer() -> None:
    config = OptimConfig(layer_decay=1e-100, weight_decay_by="absolute")
    with pytest.raises(UserError, match="layer_decay 1e-100 leaves the first layers no learning rate"):
        make_optimiser(model(), config, 3)
