"""The same function with other tensors: what a format has and a model has not, and the other way round.

Each takes a configuration and its tensors and gives both anew; where nothing is to do, unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.models.positions import join_axes, sincos2d
from vitkit.models.vit import ViTConfig

__all__ = ["BIASES", "canonical", "refuse_cls_mean", "with_biases", "with_prefix_positions", "write_out_positions"]

BIASES = ("patch_bias", "qkv_bias", "head_bias")


def canonical(config: ViTConfig) -> ViTConfig:
    """The same function in the words that reading a file would use."""
    changes: dict[str, object] = {}
    if config.pool == "cls":
        changes["norm_after_pool"] = False  # a norm per token, before or after taking one of them
    if not config.num_classes:
        changes |= {"distilled": False, "head_bias": True}
    if not config.registers:
        changes["prefix_positions"] = "all" if config.prefix_positions != "none" or not config.cls_token else "none"
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def refuse_cls_mean(config: ViTConfig, name: str) -> None:
    """Of formats whose heads never read the cls token and the patches' mean side by side.

    Raises:
        UserError: the configuration's head does; of twice the width, it would be written as another model's.
    """
    if config.pool == "cls_mean":
        raise UserError(
            f"the {name} layout cannot express pool='cls_mean': none of its models reads the cls token and the mean of the "
            "patches side by side. Convert to vitkit, or, as DINOv2 with classes, to huggingface."
        )


def with_biases(
    config: ViTConfig, state: Mapping[str, Tensor], fields: Sequence[str]
) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Zeros for the biases that the model has not and the format has; ``fields`` of patch_bias, qkv_bias, head_bias."""
    weights = {
        "patch_bias": ["patch_embed"],
        "qkv_bias": [f"blocks.{layer}.attn.qkv" for layer in range(config.depth)],
        "head_bias": [name for name in ("head", "head_dist") if f"{name}.weight" in state],
    }
    state = dict(state)
    for field in fields:
        if not getattr(config, field):
            for name in weights[field]:
                weight = state[f"{name}.weight"]
                state[f"{name}.bias"] = weight.new_zeros(weight.shape[0])
            config = dataclasses.replace(config, **{field: True})  # type: ignore[arg-type]
    return config, state


def with_prefix_positions(
    config: ViTConfig, state: Mapping[str, Tensor], which: str
) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Position rows for ``which`` prefix tokens (all or cls): rows of zeros come, rows of registers go into the registers."""
    if config.position != "learned" or config.prefix_positions == which:
        return config, dict(state)
    changed = dataclasses.replace(config, prefix_positions=which)
    had, wanted = config.position_prefix, changed.position_prefix
    table = state["pos_embed"]  # (1, had + h*w, D)
    state = dict(state)
    if wanted >= had:
        rows = table.new_zeros(1, wanted - had, config.embed_dim)
        state["pos_embed"] = torch.cat([table[:, :had], rows, table[:, had:]], dim=1)
    else:
        state["registers"] = state["registers"] + table[:, wanted:had]
        state["pos_embed"] = torch.cat([table[:, :wanted], table[:, had:]], dim=1)
    return changed, state


def write_out_positions(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Write sin-cos positions, those of two axes, and none at all (zeros) out as a learned table of the patches' rows.

    The values that are added are the same ones; how they change with the image size is not.
    """
    if config.position == "learned":
        return config, dict(state)
    ready = dict(state)
    if config.position == "learned2d":
        table = join_axes(ready.pop("pos_x"), ready.pop("pos_y"))
    elif config.position == "sincos2d":
        table = sincos2d(config.grid, config.embed_dim).to(state["patch_embed.weight"])
    else:
        table = state["patch_embed.weight"].new_zeros(1, config.grid[0] * config.grid[1], config.embed_dim)
    ready["pos_embed"] = table
    return dataclasses.replace(config, position="learned", prefix_positions="none"), ready
