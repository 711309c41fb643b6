"""The original DINOv2 layout of facebookresearch/dinov2: timm's but for the names of registers and of the gated MLP.

Only the cls token has a row in the position table; registers come without. Training checkpoints keep blocks in chunks.
Source: facebookresearch/dinov2, dinov2/models/vision_transformer.py and dinov2/hub/backbones.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import timm
from vitkit.converters.engine import Rule
from vitkit.converters.fold import refuse_cls_mean
from vitkit.converters.wrappers import unwrapped
from vitkit.models.vit import ViTConfig

__all__ = ["FILE", "IGNORE", "NAME", "config", "matches", "normalise", "prepare", "rules", "untold"]

NAME = "dinov2"
FILE = "model.pth"
IGNORE = (r"mask_token", r"(dino|ibot)_head\..*", r"dino_loss\..*|ibot_patch_loss\..*")  # of pre-training only
TO_TIMM = (("register_tokens", "reg_token"), ("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
OURS = r"cls_token|pos_embed|registers|patch_embed\..*|norm\..*|blocks\..*"  # the original model has nothing else
LAYER_SCALE = 1.0  # the initial value of the published models


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout? Those without any name of its own are timm's."""
    plain = unwrapped(names, timm.PATCHES, IGNORE)
    return plain is not None and timm.looks_like_dinov2(plain.values())


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without wrappers, blocks out of their chunks: a block keeps its number inside its chunk."""
    plain = unwrapped(state, timm.PATCHES, IGNORE) or {name: name for name in state}
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", plain[name]): tensor for name, tensor in state.items()}


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off names and shapes. The number of heads is embed_dim / 64, as of all published sizes.

    Raises:
        UserError: as `timm.config`.
    """
    if "cls_token" not in state:
        raise UserError("DINOv2 weights without cls_token are not whole.")
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    rest = {_timm_name(name): tensor for name, tensor in state.items() if name != "register_tokens"}
    found = timm.plain_config(rest, source_image_size, "DINOv2 weights")
    return dataclasses.replace(
        found,
        registers=registers,
        prefix_positions="cls" if registers else "all",
        # hub/backbones.py: models with registers resample with antialias and without the offset
        position_rule="bicubic_antialias" if registers else "bicubic_offset",
        layer_scale=None if found.layer_scale is None else LAYER_SCALE,
    )


def _timm_name(name: str) -> str:
    for theirs, timms in TO_TIMM:
        name = name.replace(theirs, timms)
    return name


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: a row of positions for the cls token and none for the registers."""
    refuse_cls_mean(config, NAME)
    if config.position == "learned" and config.cls_token and config.position_prefix == 1:
        return config, dict(state)
    config, state = timm.prepare(config, state)
    if not config.cls_token or config.distilled:
        return config, state
    if config.prefix_positions == "none":
        state["pos_embed"] = torch.cat([torch.zeros_like(state["cls_token"]), state["pos_embed"]], dim=1)
    else:  # the registers' rows are always added to them
        P, table = config.prefix_tokens, state["pos_embed"]
        state["registers"] = state["registers"] + table[:, 1:P]
        state["pos_embed"] = torch.cat([table[:, :1], table[:, P:]], dim=1)
    return dataclasses.replace(config, prefix_positions="cls" if config.registers else "all"), state


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    return tuple(
        rule._replace(theirs=tuple(_their_name(name, config) for name in rule.theirs))
        for rule in timm.rules(config)
        if re.fullmatch(OURS, rule.ours) and not rule.theirs[0].startswith("fc_norm.")
    )


def _their_name(name: str, config: ViTConfig) -> str:
    for theirs, timms in TO_TIMM if config.mlp == "swiglu" else TO_TIMM[:1]:
        name = name.replace(timms, theirs)
    return name


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset({"num_heads"})
