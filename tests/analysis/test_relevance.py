"""Gradient-weighted attention against weights kept and multiplied in plain loops, for every kind of model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from shared import shared_data
from vitkit.analysis.relevance import check_classes, relevance
from vitkit.config import UserError
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import load_input
from vitkit.data.sources import read_source
from vitkit.jobs.load import load
from vitkit.models.vit import Attention, MapPool, VisionTransformer, ViTConfig

BASE = {
    "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_dim": 40, "patch_size": (8, 8), "image_size": (24, 40), "num_classes": 5,
}  # fmt: skip
CASES: dict[str, dict[str, object]] = {
    "cls": {},
    "square": {"image_size": (32, 32)},
    "registers": {"registers": 3},
    "distilled": {"registers": 1, "distilled": True},
    "mean": {"pool": "mean", "cls_token": False},
    "mean beside a cls token, norm after": {"pool": "mean", "norm_after_pool": True, "registers": 2},
    "cls beside mean": {"pool": "cls_mean", "layer_scale": 0.5},
    "map": {"pool": "map", "cls_token": False},
    "map with registers, tanh layer": {"pool": "map", "registers": 2, "representation_size": 12},
    "gated": {"mlp": "swiglu", "qkv_bias": False},
    "relative": {"position": "relative"},
    "positions at every layer": {"position": "learned2d", "position_at": "layers"},
    "pre-norm": {"pre_norm": True, "gelu": "quick"},
    "hybrid": {"stem": (1, 1), "patch_size": (2, 2), "image_size": (33, 50)},
    "one layer": {"depth": 1},
}


def made(changes: dict[str, object], seed: int = 0) -> VisionTransformer:
    model = VisionTransformer(ViTConfig(**{**BASE, **changes}))  # type: ignore[arg-type]
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    for head in (model.head, model.head_dist):
        if head is not None:
            nn.init.normal_(head.weight, generator=generator)
    for block in model.blocks:  # sharper attention than that of drawn weights, which is nearly even
        block.attn.qkv.weight.data.mul_(3)
    return model.eval()


def drawn(config: ViTConfig, count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """An attention layer, or the pooling, that computes its weights openly and keeps them with their gradient."""

    def __init__(self, layer: Attention | MapPool) -> None:
        super().__init__()
        self.layer = layer
        self.weights: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        B, _, D = x.shape
        layer, K = self.layer, self.layer.num_heads
        d = D // K
        if isinstance(layer, MapPool):
            q = layer.q(layer.probe).expand(B, -1, -1)
            k, v = layer.kv(x).split(D, dim=-1)
        else:
            q, k, v = layer.qkv(x).split(D, dim=-1)
        self.weights = []
        outputs = []
        for head in range(K):
            part = slice(head * d, (head + 1) * d)
            logits = q[..., part] @ k[..., part].transpose(1, 2) / d**0.5
            if isinstance(layer, Attention) and layer.relative is not None:
                table = layer.relative[layer.get_buffer("relative_index")]  # (N, N, d)
                logits = logits + torch.einsum("bqd,qkd->bqk", q[..., part] / d**0.5, table)
            weights = logits.softmax(-1)
            weights.retain_grad()
            self.weights.append(weights)
            outputs.append(weights @ v[..., part])
        y = layer.proj(torch.cat(outputs, dim=-1))
        return (y + layer.mlp(layer.norm(y)))[:, 0] if isinstance(layer, MapPool) else y

    def weighted(self) -> Tensor:
        """mean over heads of relu(dA * A), (Q, N), of one image."""
        parts = []
        for weights in self.weights:
            assert weights.grad is not None
            parts.append((weights.grad * weights)[0].detach().clamp(min=0))
        return torch.stack(parts).mean(0)


def by_loops(original: VisionTransformer, image: Tensor, target: int) -> Tensor:
    """The whole N x N matrix R, layer by layer, of one image (C, H, W)."""
    model = copy.deepcopy(original)
    layers = []
    for block in model.blocks:
        block.attn = Plain(block.attn)  # type: ignore[assignment]
        layers.append(block.attn)
    pool = None
    if model.map_pool is not None:
        pool = model.map_pool = Plain(model.map_pool)  # type: ignore[assignment]
    features = model.forward_features(image[None])
    tokens = torch.cat([features.prefix, features.patches.flatten(1, 2)], dim=1)
    P = model.config.prefix_tokens
    tokens.retain_grad()
    again = type(features)(tokens[:, :P], tokens[:, P:].unflatten(1, model.config.grid))
    model.forward_head(again)[0, target].backward()
    R = torch.eye(tokens.shape[1])
    for layer in layers:
        R = R + layer.weighted() @ R
    if pool is not None:
        return (pool.weighted()[0] @ R[P:])[P:].reshape(model.config.grid)
    assert tokens.grad is not None
    said = (tokens.grad * tokens)[0].detach().sum(-1).clamp(min=0)
    if said.sum() == 0:
        said = (tokens.grad[0].abs().sum(-1) > 0).float()
    return ((said / said.sum()) @ R)[P:].reshape(model.config.grid)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_weights_kept_and_multiplied_in_loops_say_the_same(case: str, fused: bool) -> None:
    model = made(CASES[case])
    for block in model.blocks:
        block.attn.fused = fused
    images, targets = drawn(model.config, 3), torch.tensor([4, 0, 2])
    maps = relevance(model, images, targets)
    assert maps.shape == (3, *model.config.grid)
    assert maps.dtype == torch.float32
    assert bool((maps >= 0).all())
    for image, target, found in zip(images, targets.tolist(), maps, strict=True):
        wanted = by_loops(model, image, target)
        assert wanted.max() > 1e-3
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_another_class_has_another_map() -> None:
    model = made({})
    images = drawn(model.config, 1)
    first, second = (relevance(model, images, torch.tensor([k])) for k in (0, 1))
    assert not torch.allclose(first, second, rtol=0.1)


def test_the_model_is_left_as_it_was() -> None:
    model = made({"dropout": 0.5, "drop_path": 0.5}).train()
    model.blocks[1].eval()
    model.blocks[0].requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    needs = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    images = drawn(model.config)
    maps = relevance(model, images, torch.tensor([1, 2]))
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not maps.requires_grad
    assert torch.equal(maps, relevance(model.eval(), images, torch.tensor([1, 2])))  # no dropout


def test_a_failure_leaves_the_model_as_it_was_too() -> None:
    model = made({}).train()
    with pytest.raises(UserError, match="the model takes images of"):
        relevance(model, torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("case", ["cls", "map", "relative"])
def test_frozen_and_inference_parameters_and_callers_without_gradients(case: str) -> None:
    model = made(CASES[case])
    images, targets = drawn(model.config), torch.tensor([1, 2])
    wanted = relevance(model, images, targets)
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert torch.equal(relevance(frozen, images, targets), wanted)
    with torch.no_grad():
        assert torch.equal(relevance(model, images, targets), wanted)
    with torch.inference_mode():
        loaded = copy.deepcopy(model)
        seen, targets = images.clone(), targets.clone()
        assert next(loaded.parameters()).is_inference()
        assert torch.equal(relevance(loaded, seen, targets), wanted)
    assert torch.equal(relevance(loaded, seen, targets), wanted)
    assert next(loaded.parameters()).is_inference()


def test_an_image_is_explained_alike_alone_and_beside_others() -> None:
    model = made(CASES["mean"])
    images, targets = drawn(model.config, 4), torch.tensor([3, 3, 0, 1])
    together = relevance(model, images, targets)
    alone = torch.cat(
        [relevance(model, image[None], target[None]) for image, target in zip(images, targets, strict=True)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-7)


def test_a_class_that_no_token_speaks_for_has_a_map_all_the_same() -> None:
    model = made({})
    assert model.head is not None
    images = drawn(model.config, 1)
    cls = model.forward_features(images).prefix[0, 0].detach()
    model.head.weight.data[0] = -cls  # its contribution is negative whatever else
    assert relevance(model, images, torch.tensor([0])).max() > 0


def test_in_bfloat16_the_map_is_nearly_the_same() -> None:
    model = made({})
    images, targets = drawn(model.config), torch.tensor([1, 2])
    wanted = relevance(model, images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = relevance(model, images, targets)
    assert found.dtype == torch.float32
    for a, b in zip(found, wanted, strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_classes": 0}, "has no head, so that there is no class to explain. Use attention rollout"),
        ({"head_bias": False}, "gives an embedding shared with text"),
        ({"pool": "none"}, r"classifies every token \(pool='none'\)"),
    ],
)
def test_models_without_classes(changes: dict[str, object], text: str) -> None:
    model = made(changes)
    for ask in (lambda: check_classes(model), lambda: relevance(model, drawn(model.config, 1), torch.tensor([0]))):
        _refused(ask, text)


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        ([0], "2 images and 1 classes to explain"),
        ([0, 5], r"there is no class 5: the model has 5, numbered 0 to 4"),
        ([-1, 0], r"there is no class -1: the model has 5"),
    ],
)
def test_classes_that_do_not_exist(targets: list[int], text: str) -> None:
    model = made({})
    _refused(lambda: relevance(model, drawn(model.config), torch.tensor(targets)), text)


def _refused(ask: Callable[[], object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        ask()


def test_of_two_photographs_side_by_side_the_map_marks_the_one_of_the_class() -> None:
    """Two photographs squeezed into halves of one image: each class is marked in its own half, which rollout cannot do."""
    bundle = load(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))
    samples = read_source(shared_data("imagenet_sample")).splits["test"][:60:10]
    record = bundle.require_preprocess()
    images = torch.stack([to_tensor(load_input(sample.source, record)) for sample in samples])
    halves = torch.nn.functional.interpolate(images, (224, 112), mode="area")
    pairs = torch.cat([halves, halves.roll(1, 0)], dim=-1)  # (6, 3, 224, 224)
    own = torch.tensor([sample.label for sample in samples])
    shares = []
    for side, targets in ((0, own), (1, own.roll(1))):
        maps = relevance(bundle.model, pairs, targets).unflatten(2, (2, 7)).sum((1, 3))  # (6, 2)
        shares.append(maps[:, side] / maps.sum(1))
    share = torch.cat(shares)
    assert share.mean() > 0.6
    assert (share > 0.5).float().mean() > 0.8
