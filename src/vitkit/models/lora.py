"""Low-rank adaptation: train a small update of the attention's weight matrices, then fold it in. arXiv 2106.09685."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vitkit.models.vit import VisionTransformer

__all__ = ["add_lora", "plain_state"]

RANK = 8
ORIGINAL = ".parametrizations.weight.original"  # PyTorch's name of the frozen weight
ALPHA = 16.0  # the update is scaled by ALPHA / RANK


class _LowRank(nn.Module):
    """weight -> weight + B A * scale, with B zero at the start so that the model begins unchanged."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out_features, in_features = weight.shape
        self.a = nn.Parameter(torch.randn(rank, in_features, generator=generator) * in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        self.scale = ALPHA / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a * self.scale


def add_lora(model: VisionTransformer, seed: int, rank: int = RANK) -> None:
    """Freeze all but the head and give every attention matrix a trainable low-rank update, in place."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    if model.head is not None:
        model.head.requires_grad_(True)
    for block in model.blocks:
        for layer in (block.attn.qkv, block.attn.proj):
            parametrize.register_parametrization(layer, "weight", _LowRank(layer.weight, rank, generator))


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold the updates of an adapted model's state into its weights; a plain state is returned as it is."""
    plain = {name: tensor for name, tensor in state.items() if ".parametrizations." not in name}
    for name, weight in state.items():
        if name.endswith(ORIGINAL):
            layer = name.removesuffix(ORIGINAL)
            b, a = (state[f"{layer}.parametrizations.weight.0.{part}"] for part in "ba")
            plain[f"{layer}.weight"] = weight + b @ a * (ALPHA / a.shape[0])
    return plain
