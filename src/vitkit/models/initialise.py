"""Random weights: as the reference makes them (VIT_SPEC 1.5), or smaller, as timm and DeiT do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitkit.models.hybrid import StdConv

if TYPE_CHECKING:
    from vitkit.models.vit import Mlp, VisionTransformer

__all__ = ["SCHEMES", "initialise"]

SCHEMES = ("official", "small")
SMALL_STD = 0.02  # of every matrix of the scheme "small". Source: timm, vision_transformer.py, init_weights_vit_timm


@torch.no_grad()
def initialise(model: VisionTransformer, seed: int, scheme: str = "official") -> None:
    """Fill every parameter but the heads': q, k, v each as its own matrix, every branch of the stem starting as nothing.

    ``small`` draws the blocks' matrices normal with standard deviation 0.02 instead, whatever their sizes: branches that start
    near nothing.
    """
    config = model.config
    rng = torch.Generator().manual_seed(seed)

    def lecun(weight: Tensor) -> None:  # truncated at 2 sigma; the divisor restores the variance 1 / fan_in
        std = math.sqrt(1 / weight[0].numel()) / 0.87962566103423978
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=rng)

    def xavier(weight: Tensor, fan_out: int) -> None:
        limit = math.sqrt(6 / (weight.shape[1] + fan_out))
        nn.init.uniform_(weight, -limit, limit, generator=rng)

    def mlp(branch: Mlp) -> None:
        halves = 2 if branch.gated else 1  # two separate matrices, as q, k, v
        for layer, fan_out in (
            (branch.fc1, branch.fc1.out_features // halves),
            (branch.fc2, branch.fc2.out_features),
        ):
            xavier(layer.weight, fan_out=fan_out)
            nn.init.normal_(layer.bias, std=1e-6, generator=rng)

    def zero(*tensors: Tensor | None) -> None:
        for tensor in tensors:
            if tensor is not None:
                nn.init.zeros_(tensor)

    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, StdConv):
            lecun(module.weight)
    if model.stem is not None:
        model.stem.start_as_identity()
    lecun(model.patch_embed.weight)
    zero(model.patch_embed.bias, model.cls_token)
    if model.registers is not None:  # not all alike, or they would stay so where they have no positions (DINOv2's code)
        nn.init.normal_(model.registers, std=1e-6, generator=rng)
    if config.position in ("learned", "learned2d"):
        for table in (model.pos_embed,) if config.position == "learned" else (model.pos_x, model.pos_y):
            nn.init.normal_(table, std=0.02, generator=rng)
    for block in model.blocks:
        if block.attn.relative is not None:
            nn.init.normal_(block.attn.relative, std=0.02, generator=rng)
    for block in model.blocks:
        xavier(block.attn.qkv.weight, fan_out=config.embed_dim)  # not 3 D: three separate matrices
        xavier(block.attn.proj.weight, fan_out=config.embed_dim)
        zero(block.attn.qkv.bias, block.attn.proj.bias)
        mlp(block.mlp)
        for scale in (block.layer_scale1, block.layer_scale2):
            if scale is not None and config.layer_scale is not None:
                nn.init.constant_(scale, config.layer_scale)
    if model.map_pool is not None:
        pool = model.map_pool
        xavier(pool.probe[0], fan_out=1)
        for layer in (pool.q, pool.kv, pool.proj):
            xavier(layer.weight, fan_out=config.embed_dim)
        zero(pool.q.bias, pool.kv.bias, pool.proj.bias)
        mlp(pool.mlp)
    if model.pre_logits is not None:
        lecun(model.pre_logits.weight)
        zero(model.pre_logits.bias)
    if scheme == "small":
        for weight in [weight for block in model.blocks for weight in block.parameters() if weight.ndim == 2]:
            nn.init.normal_(weight, std=SMALL_STD, generator=rng)
