"""torchvision's ``vit_*`` state dicts: torch's MultiheadAttention, older and newer names of the MLP's layers.

Source: torchvision.models.vision_transformer of torchvision 0.28.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vitkit.converters.engine import Rule, same
from vitkit.converters.fold import canonical, refuse_cls_mean, with_biases, with_prefix_positions
from vitkit.converters.tables import WRAPPERS, assumed_heads, both, new_name, patch_kernel, renamed
from vitkit.models.positions import square_grid
from vitkit.models.vit import ViTConfig

__all__ = ["FILE", "IGNORE", "NAME", "config", "matches", "normalise", "prepare", "rules", "untold"]

NAME = "torchvision"
FILE = "model.pth"
IGNORE: tuple[str, ...] = ()
LAYER = "encoder.layers.encoder_layer_"
OLDER = (WRAPPERS, (r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3."))


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    plain = {new_name(name, OLDER) for name in names}
    return {"conv_proj.weight", "class_token", "encoder.pos_embedding", f"{LAYER}0.ln_1.weight"} <= plain


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names since torchvision 0.14."""
    return renamed(state, OLDER)


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off normalised names and shapes; the number of heads is assumed.

    Raises:
        UserError: the patch grid is not a square and ``source_image_size`` was not given.
    """
    embed_dim, channels, patch_h, patch_w = patch_kernel(state, "conv_proj.weight")
    depth = len({match[1] for name in state if (match := re.match(rf"{LAYER}(\d+)\.", name))})
    if source_image_size is None:
        h, w = square_grid(state["encoder.pos_embedding"].shape[1] - 1, "torchvision weights")
        source_image_size = (h * patch_h, w * patch_w)
    hidden = "heads.pre_logits.weight"
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=assumed_heads(embed_dim, depth),
        mlp_dim=state[f"{LAYER}0.mlp.0.weight"].shape[0],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state["heads.head.weight"].shape[0] if "heads.head.weight" in state else 0,
        representation_size=state[hidden].shape[0] if hidden in state else 0,
        position_rule="bicubic_align_corners",
        gelu="erf",
        norm_eps=1e-6,
    )


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: absent biases become zeros, the cls token gets a position."""
    refuse_cls_mean(config, NAME)
    config, state = with_biases(config, state, ("patch_bias", "qkv_bias", "head_bias"))
    if not config.registers:
        config, state = with_prefix_positions(config, state, "all")
    return canonical(config), state


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    table = [
        *both("patch_embed", "conv_proj"),
        same("cls_token", "class_token"),
        same("pos_embed", "encoder.pos_embedding"),
        *both("norm", "encoder.ln"),
    ]
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"{LAYER}{layer}"
        table += [
            *both(f"{ours}.norm1", f"{theirs}.ln_1"),
            *(
                same(f"{ours}.attn.qkv.{kind}", f"{theirs}.self_attention.in_proj_{kind}")
                for kind in ("weight", "bias")
            ),
            *both(f"{ours}.attn.proj", f"{theirs}.self_attention.out_proj"),
            *both(f"{ours}.norm2", f"{theirs}.ln_2"),
            *both(f"{ours}.mlp.fc1", f"{theirs}.mlp.0"),
            *both(f"{ours}.mlp.fc2", f"{theirs}.mlp.3"),
        ]
    if config.representation_size:
        table += both("pre_logits", "heads.pre_logits")
    if config.num_classes:
        table += both("head", "heads.head")
    return tuple(table)


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset({"num_heads"})
