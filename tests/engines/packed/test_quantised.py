"""A model in 8 bits: its kernels give what its arithmetic in float32 gives, for every kind of block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vitkit.config import UserError
from vitkit.engines.calibration import linear_names
from vitkit.engines.native.blocks8 import native8_missing
from vitkit.engines.packed import quantised
from vitkit.engines.packed.private_int8 import missing
from vitkit.engines.packed.quantised import QuantisedBlock, imitate, quantise, quantised_weight, smoothed, steps_of
from vitkit.exporters.graph import Range
from vitkit.models.vit import Block, VisionTransformer, ViTConfig

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "erf": {"gelu": "erf"},
    "quick": {"gelu": "quick"},
    "swiglu": {"mlp": "swiglu"},
    "scaled": {"layer_scale": 0.5},
    "relative": {"position": "relative"},
    "no bias": {"qkv_bias": False},
    "registers, map": {"registers": 3, "pool": "map"},
    "pre-norm, mean": {"pre_norm": True, "pool": "mean", "cls_token": False},
    "features of tokens": {"pool": "none", "num_classes": 0},
}
needs_kernels = pytest.mark.skipif(bool(missing()), reason=f"needs 8-bit products: {missing()}")


def made(**changes: Any) -> VisionTransformer:
    settings: dict[str, Any] = {
        "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_dim": 80, "patch_size": (4, 4), "image_size": (12, 20), "num_classes": 9,
    }  # fmt: skip
    model = VisionTransformer(ViTConfig(**{**settings, **changes}))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.2, generator=draw)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def images(model: VisionTransformer, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *model.config.image_size, generator=torch.Generator().manual_seed(5))


def seen(model: VisionTransformer) -> dict[str, Range]:
    """Ranges of what enters each layer."""
    found: dict[str, Range] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, x, name=name: found.update({name: Range(float(x[0].min()), float(x[0].max()))})
        )
        for name in linear_names(model)
    ]
    with torch.no_grad():
        model.forward_features(images(model))
    for handle in handles:
        handle.remove()
    return found


def outputs(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(batch)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_give_what_the_arithmetic_gives(kind: str) -> None:
    model = made(**KINDS[kind])
    ranges, batch = seen(model), images(model)
    wanted, real = outputs(imitate(model, ranges), batch), outputs(model, batch)
    found = outputs(quantise(model, ranges, attention=torch.float32), batch)
    noise = (wanted - real).norm()
    assert 0 < noise < 0.1 * real.norm()
    assert (found - wanted).norm() < 0.3 * noise  # a value between two steps may go to either
    near = outputs(quantise(model, ranges, attention=torch.bfloat16), batch)
    assert (near - real).norm() < 2 * noise + 0.01 * real.norm()


@pytest.mark.parametrize("left", ["", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "relative"])
def test_compiled_blocks_give_what_the_arithmetic_gives(kind: str, left: str) -> None:
    model = made(**KINDS[kind])
    if reason := native8_missing(model.config):
        pytest.skip(f"needs compiled 8-bit blocks: {reason}")
    ranges = {name: limits for name, limits in seen(model).items() if not left or not name.endswith(left)}
    batch = images(model)
    wanted, real = outputs(imitate(model, ranges), batch), outputs(model, batch)
    engine = quantise(model, ranges)
    found = outputs(engine, batch)
    noise = (wanted - real).norm()
    assert (found - real).norm() < 2 * noise + 0.01 * real.norm()
    tokens = torch.randn(5, 16, 48, generator=torch.Generator().manual_seed(1))
    for block in engine.blocks:
        alone = [block(image[None].clone()) for image in tokens]
        assert torch.equal(block(tokens.clone()), torch.cat(alone))
    last = list(quantise(model, ranges, read=2).blocks)[-1]
    assert torch.equal(last(tokens.clone()), block(tokens.clone())[:, :2])


def test_without_a_compiler_blocks_are_pytorchs_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "native8_missing", lambda _: "no C compiler is found")
    model = made()
    if missing():
        with pytest.raises(
            UserError, match=r"int8 cannot be computed by PyTorch here: .* Use --precision fp32 or bf16"
        ):
            quantise(model, seen(model))
        return
    assert all(isinstance(block, QuantisedBlock) for block in quantise(model, seen(model)).blocks)
    monkeypatch.setattr(quantised, "missing", lambda: "no operators")
    with pytest.raises(UserError, match="int8 cannot be computed by PyTorch here: no operators"):
        quantise(model, seen(model))


@needs_kernels
@pytest.mark.parametrize("left", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
@pytest.mark.parametrize("kind", ["plain", "swiglu", "scaled"])
def test_layers_without_a_range_stay_float(kind: str, left: str) -> None:
    model = made(**KINDS[kind])
    ranges = {name: limits for name, limits in seen(model).items() if not name.endswith(left)}
    batch = images(model)
    wanted, real = outputs(imitate(model, ranges), batch), outputs(model, batch)
    found = outputs(quantise(model, ranges, attention=torch.float32), batch)
    assert (found - wanted).norm() < 0.3 * (wanted - real).norm()
    only = {"blocks.1.mlp.fc2": ranges.get("blocks.1.mlp.fc2", Range(-1, 3))}
    blocks = list(quantise(model, only).blocks)
    assert [isinstance(block, Block) for block in blocks] == [True, False]


@needs_kernels
def test_an_image_has_its_digits_whatever_is_beside_it_and_the_model_is_left_as_it_was() -> None:
    model = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = quantise(model, seen(model), attention=torch.float32)
    tokens = torch.randn(5, 16, 48, generator=torch.Generator().manual_seed(1))
    for block in engine.blocks:
        alone = [block(image[None].clone()) for image in tokens]
        assert torch.equal(block(tokens.clone()), torch.cat(alone))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not isinstance(model.blocks[0], QuantisedBlock)


@pytest.mark.parametrize("kind", KINDS)
def test_moving_sizes_of_channels_into_weights_changes_nothing(kind: str) -> None:
    model = made(**KINDS[kind])
    draw = torch.Generator().manual_seed(3)
    factors = {
        name: torch.rand(48, generator=draw) * 4 + 0.1 for name in linear_names(model) if not name.endswith("fc2")
    }
    batch = images(model)
    wanted, found = outputs(model, batch), outputs(smoothed(model, factors), batch)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_steps_hold_zero_and_the_ends() -> None:
    for low, high in ((-1.0, 3.0), (0.0, 2.0), (-2.0, 0.0), (1.0, 2.0), (-0.17, 9.0)):
        scale, zero = steps_of(Range(low, high))
        assert 0 <= zero <= 255
        assert -zero * scale <= min(low, 0) + 0.51 * scale
        assert (255 - zero) * scale >= high - 0.51 * scale
    assert steps_of(Range(0.0, 0.0)).scale > 0  # a layer that only ever read zeros


def test_weights_are_rounded_to_the_nearest_of_255() -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    whole, scales = quantised_weight(weight)
    assert whole.abs().amax(dim=1).tolist() == [127, 127, 0, 127, 127, 127]
    assert ((whole * scales[:, None] - weight).abs() <= scales[:, None] * 0.5001).all()
