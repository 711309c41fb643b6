"""Attention weights from elsewhere: every softmax of an unfused forward, torch's own attention layer, and loops in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from converters.drawn import redrawn
from golden import golden_config
from plain import Array, Plain, softmax
from vitkit.models.vit import Attention, VisionTransformer

__all__ = [
    "MAPPED", "PlainWeights", "Softmaxes", "drawn", "images_for", "layer_by_loops", "layers_of", "multihead_weights",
    "own_weights", "unfuse", "with_fused",
]  # fmt: skip

# A model of every reading and shape; depth 2, 4 heads, 4 x 4 patches where nothing else is said.
MAPPED: dict[str, dict[str, object]] = {
    "cls": {"image_size": (48, 64)},
    "mean": {"pool": "mean", "cls_token": False, "image_size": (64, 32)},
    "map": {"pool": "map", "registers": 1, "image_size": (32, 48)},
    "cls_mean": {"pool": "cls_mean"},
    "distilled": {"distilled": True, "registers": 2, "image_size": (32, 64)},
    "relative": {"position": "relative", "image_size": (32, 48)},
    "hybrid": {"stem": (1,), "patch_size": (4, 8), "image_size": (64, 96)},
}


def drawn(**changes: object) -> VisionTransformer:
    model = VisionTransformer(golden_config(**changes)).eval()
    model.load_state_dict(redrawn(model.state_dict()))
    return model


def images_for(model: VisionTransformer, batch: int = 2) -> Tensor:
    config = model.config
    return torch.randn(batch, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(1))


def own_weights(model: VisionTransformer, images: Tensor) -> list[Tensor]:
    """What the unfused model multiplies with; the pooling's (B, K, 1, h*w) last where there is one, of its own q and k."""
    kept: list[Tensor] = []
    parts = [] if model.map_pool is None else [model.map_pool.q, model.map_pool.kv]
    handles = [part.register_forward_hook(lambda _, __, out: kept.append(out.double())) for part in parts]
    with with_fused(model, False), torch.no_grad(), Softmaxes() as watch:
        model(images)
    for handle in handles:
        handle.remove()
    if not kept:
        return watch.found
    K = model.config.num_heads
    q, k = (x.unflatten(-1, (K, -1)).transpose(1, 2) for x in (kept[0], kept[1].chunk(2, dim=-1)[0]))
    return [*watch.found, (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1).float()]


class Softmaxes(TorchFunctionMode):
    """Keeps what every softmax gives while it is entered, whoever calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "softmax":
            self.found.append(result.detach())
        return result


def layers_of(found: list[Tensor], depth: int) -> tuple[list[Tensor], list[Tensor]]:
    """(of the layers, of what comes after them)."""
    return found[:depth], found[depth:]


def unfuse(model: nn.Module) -> None:
    """Turn off the fused kernel of every layer of timm's."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False


@contextmanager
def with_fused(model: VisionTransformer, fused: bool) -> Iterator[None]:
    before = [block.attn.fused for block in model.blocks]
    for block in model.blocks:
        block.attn.fused = fused
    yield
    for block, value in zip(model.blocks, before, strict=True):
        block.attn.fused = value


@contextmanager
def multihead_weights(model: nn.Module) -> Iterator[list[Tensor]]:
    """What every `nn.MultiheadAttention` (B, K, N, N) gives of itself when asked."""
    found: list[Tensor] = []

    def ask(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        found.append(output[1].detach())

    handles = []
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            handles.append(module.register_forward_pre_hook(ask, with_kwargs=True))
            handles.append(module.register_forward_hook(keep))
    yield found
    for handle in handles:
        handle.remove()


class PlainWeights(Plain):
    """The model in numpy, which also keeps the weights (K, Q, N) of every attention of the image that it last read."""

    def of_image(self, image: Array) -> list[Array]:
        self.found: list[Array] = []
        self.logits(image)
        return self.found

    def weights(self, q: Array, k: Array, relative: Array | None) -> list[Array]:
        found = super().weights(q, k, relative)
        self.found.append(np.stack(found))
        return found


def layer_by_loops(attention: Attention, x: Tensor, grid: tuple[int, int]) -> Array:
    """The weights (K, N, N) of one image's tokens (N, D), the input of the layer: one pair of tokens at a time, in float64."""
    tokens = x.detach().double().numpy()
    weight, bias = (tensor.detach().double().numpy() for tensor in (attention.qkv.weight, attention.qkv.bias))
    N, D = tokens.shape
    K, d, P = attention.num_heads, D // attention.num_heads, N - grid[0] * grid[1]
    table = None if attention.relative is None else attention.relative.detach().double().numpy()
    patches = grid[0] * grid[1]
    result = np.empty((K, N, N))
    for head in range(K):
        rows = slice(head * d, (head + 1) * d)
        q = tokens @ weight[:D][rows].T + bias[:D][rows]
        k = tokens @ weight[D : 2 * D][rows].T + bias[D : 2 * D][rows]
        for i in range(N):
            logits = np.empty(N)
            for j in range(N):
                key = k[j]
                if table is not None:
                    if i >= P and j >= P:
                        row = (i - P) - (j - P) + patches - 1
                    else:  # rows of the prefix, as query, as key, as both
                        row = 2 * patches - 1 + (2 if i < P and j < P else 0 if i < P else 1)
                    key = key + table[row]
                logits[j] = q[i] @ key / math.sqrt(d)
            result[head, i] = softmax(logits)
    return result
