"""Random weights under which attention is far from uniform, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vitkit.models.vit import Attention, VisionTransformer

# Of the largest output. The promise is 1e-4, but another form of GELU differs by as much and another epsilon by 1e-5: the bound
# is below both. Same kernels, same order: most families are equal to the last bit.
TOLERANCE = 4e-6


def redrawn(state: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Every tensor drawn anew: kernels of unit gain, those of q and k of two; scales, biases and tokens far from 1 and 0."""
    rng = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=rng)
        if "norm" in name or "ln_" in name or "bn" in name:
            drawn[name] = 0.3 * noise + (1 if name.endswith("weight") else 0)
        elif "gamma" in name:
            drawn[name] = 0.7 + 0.2 * noise
        elif tensor.ndim < 2 or "token" in name or "pos" in name or "embedding" in name:
            drawn[name] = 0.5 * noise
        else:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            drawn[name] = noise / fan_in**0.5
            if "qkv.weight" in name or "in_proj_weight" in name:
                drawn[name][: 2 * tensor.shape[0] // 3] *= 2
    return drawn


@torch.no_grad()
def sharpness(model: VisionTransformer, images: Tensor) -> float:
    """Mean over blocks, heads and queries of the largest attention weight, times the number of tokens: 1 is uniform."""
    found: list[float] = []

    def record(attention: Attention) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: object, out: Tensor) -> None:
            B, N, _ = out.shape
            q, k, _ = out.reshape(B, N, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
            found.append(float(weights.amax(-1).mean()) * N)

        return hook

    hooks = [block.attn.qkv.register_forward_hook(record(block.attn)) for block in model.blocks]
    model(images)
    for handle in hooks:
        handle.remove()
    return sum(found) / len(found)


def assert_close(ours: Tensor, theirs: Tensor) -> float:
    """At most `TOLERANCE` of the largest value apart; returns the difference in that unit."""
    assert ours.shape == theirs.shape
    assert theirs.isfinite().all()
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assert difference <= TOLERANCE, difference
    return difference
