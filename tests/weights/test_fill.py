"""Every tensor into the model, or one message; models without memory take the tensors over, computed buffers included."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.fill import fill

TINY = ViTConfig(embed_dim=16, depth=2, num_heads=2, mlp_dim=24, patch_size=(8, 8), image_size=(16, 24), num_classes=3)


def made(config: ViTConfig) -> VisionTransformer:
    model = VisionTransformer(config)
    model.init_weights(0)
    assert model.head is not None
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model.eval()


def on_meta(config: ViTConfig) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(config).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "sincos2d", "cls_token": False, "pool": "mean"},
        {"position": "learned2d", "registers": 2, "layer_scale": 0.1, "mlp": "swiglu"},
        {"stem": (), "image_size": (64, 64), "patch_size": (2, 2)},
        {"pool": "map", "cls_token": False, "pre_norm": True},
        {"position": "relative", "registers": 1},
        {"position": "learned2d", "position_at": "layers"},
    ],
    ids=["plain", "sincos2d", "learned2d", "hybrid", "map", "relative", "layers"],
)
def test_a_model_on_the_meta_device_computes_the_same_as_the_one_the_tensors_are_of(changes: dict[str, object]) -> None:
    config = ViTConfig(**{**vars(TINY), **changes})  # type: ignore[arg-type]
    model, other = made(config), on_meta(config)
    fill(other, {name: tensor.clone() for name, tensor in model.state_dict().items()}, "here")
    images = torch.randn(2, 3, *config.image_size)
    assert torch.equal(model(images), other(images))
    assert all(parameter.requires_grad for parameter in other.parameters())
    assert dict(model.named_buffers()).keys() == dict(other.named_buffers()).keys()
    assert model.state_dict().keys() == other.state_dict().keys()  # the computed buffer is still not stored


def test_the_fixed_positions_of_a_model_on_the_meta_device_are_computed() -> None:
    config = ViTConfig(**{**vars(TINY), "position": "sincos2d"})  # type: ignore[arg-type]
    model, other = made(config), on_meta(config)
    fill(other, model.state_dict(), "here")
    assert torch.equal(other.get_buffer("pos_fixed"), model.get_buffer("pos_fixed"))


def test_a_model_on_the_meta_device_takes_the_tensors_over_and_another_copies_them() -> None:
    state = {name: tensor.clone() for name, tensor in made(TINY).state_dict().items()}
    taken, copied = on_meta(TINY), VisionTransformer(TINY)
    before = {name: parameter.data_ptr() for name, parameter in copied.named_parameters()}
    fill(taken, state, "here")
    fill(copied, state, "here")
    assert all(tensor.data_ptr() == state[name].data_ptr() for name, tensor in taken.state_dict().items())
    assert before == {name: parameter.data_ptr() for name, parameter in copied.named_parameters()}
    assert all(tensor.data_ptr() != state[name].data_ptr() for name, tensor in copied.state_dict().items())


def test_tensors_that_share_memory_become_parameters_of_their_own() -> None:
    state = {name: tensor.clone() for name, tensor in made(TINY).state_dict().items()}
    both = torch.randn(2, 16)
    state["blocks.0.norm1.weight"], state["blocks.0.norm1.bias"] = both
    state["blocks.1.norm1.weight"] = state["blocks.1.norm2.weight"] = state["norm.weight"]
    state["norm.bias"] = torch.zeros(1).expand(16)
    model = on_meta(TINY)
    fill(model, state, "here")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    storages = [tensor.untyped_storage() for tensor in model.state_dict().values()]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    save(model.state_dict())  # refuses tensors that share memory


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype) -> None:
    state = made(TINY).state_dict()
    for model in (on_meta(TINY), VisionTransformer(TINY)):
        fill(model, {name: tensor.to(dtype) for name, tensor in state.items()}, "here")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(torch.equal(p, state[name].to(dtype).float()) for name, p in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "tensor", "found"),
    [
        ("head.bias", torch.zeros(4), r"here: head\.bias has shape \(4,\), the configuration needs \(3,\)"),
        ("head.bias", torch.zeros(3, dtype=torch.int64), r"here: head\.bias holds int64 values"),
        ("head.bias", torch.zeros(3, dtype=torch.complex64), r"head\.bias holds complex64 values"),
        ("head.bias", torch.zeros(3).to(torch.float8_e4m3fn), r"head\.bias holds float8_e4m3fn values"),
        ("head.bias", torch.tensor([0, float("nan"), 0]), r"head\.bias holds values that are not finite"),
        ("head.bias", torch.tensor([float("inf"), -float("inf"), 0]), r"head\.bias holds values that are not finite"),
        ("head.bias", torch.tensor([1e300, 0, 0], dtype=torch.float64), r"head\.bias holds values that are not finite"),
        ("head.bias", None, r"1 missing \(head\.bias\), 0 unexpected"),
        ("extra", torch.zeros(1), r"0 missing \(\), 1 unexpected \(extra\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_model_stays_as_it_was(
    name: str, tensor: Tensor | None, found: str
) -> None:
    state = {**made(TINY).state_dict(), name: tensor}
    if tensor is None:
        del state[name]
    for model in (on_meta(TINY), VisionTransformer(TINY)):
        before = {
            key: (value.is_meta, None if value.is_meta else value.clone()) for key, value in model.state_dict().items()
        }
        with pytest.raises(UserError, match=found):
            fill(model, state, "here")
        for key, value in model.state_dict().items():
            was_meta, old = before[key]
            assert value.is_meta == was_meta
            assert old is None or torch.equal(value.nan_to_num(), old.nan_to_num()), key


def test_finite_values_whose_sum_is_not_are_finite() -> None:
    state = {**made(TINY).state_dict(), "head.bias": torch.full((3,), 3e38)}
    model = on_meta(TINY)
    fill(model, state, "here")
    assert torch.equal(model.state_dict()["head.bias"], state["head.bias"])
