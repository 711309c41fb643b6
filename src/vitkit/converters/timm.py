"""timm and facebookresearch/deit state dicts of the plain ViT (VIT_SPEC 2.5): fused qkv, dotted names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitkit.config import UserError
from vitkit.converters.engine import Rule, same
from vitkit.models.positions import square_grid
from vitkit.models.vit import ViTConfig

__all__ = ["FILE", "IGNORE", "NAME", "UNTOLD", "config", "matches", "normalise", "prepare", "rules"]

NAME = "timm"
FILE = "model.safetensors"
IGNORE: tuple[str, ...] = ()
UNTOLD: frozenset[str] = frozenset({"num_heads"})
HEAD_DIM = 64  # of every published plain size but H; a file of these names does not tell


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= names


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the rules use them; this layout has one spelling."""
    return dict(state)


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off names and shapes. The number of heads is embed_dim / 64, an assumption of the caller's.

    Raises:
        UserError: the patch grid is not a square and ``source_image_size`` was not given.
    """
    embed_dim, channels, patch_h, patch_w = state["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    cls_token = "cls_token" in state
    if source_image_size is None:
        tokens = state["pos_embed"].shape[1] - cls_token
        h, w = square_grid(tokens, "timm weights")
        source_image_size = (h * patch_h, w * patch_w)
    if "blocks.0.mlp.fc1.weight" not in state:
        raise UserError("timm weights without blocks.0.mlp.fc1 are not of the plain Vision Transformer.")
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // HEAD_DIM if embed_dim % HEAD_DIM == 0 else 1,
        mlp_dim=state["blocks.0.mlp.fc1.weight"].shape[0],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
        cls_token=cls_token,
        pool="cls" if cls_token else "mean",
        representation_size=state["pre_logits.fc.weight"].shape[0] if "pre_logits.fc.weight" in state else 0,
        position_rule="bicubic_antialias",
        gelu="erf",
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
    )


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`."""
    return config, dict(state)


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    table = [
        same("patch_embed.weight", "patch_embed.proj.weight"),
        same("patch_embed.bias", "patch_embed.proj.bias"),
        same("pos_embed", "pos_embed"),
        same("norm.weight", "norm.weight"),
        same("norm.bias", "norm.bias"),
    ]
    if config.cls_token:
        table.append(same("cls_token", "cls_token"))
    for layer in range(config.depth):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            for kind in ("weight", "bias"):
                name = f"blocks.{layer}.{part}.{kind}"
                table.append(same(name, name))
        if config.layer_scale is not None:
            table.append(same(f"blocks.{layer}.layer_scale1", f"blocks.{layer}.ls1.gamma"))
            table.append(same(f"blocks.{layer}.layer_scale2", f"blocks.{layer}.ls2.gamma"))
    if config.representation_size:
        table += [same(f"pre_logits.{kind}", f"pre_logits.fc.{kind}") for kind in ("weight", "bias")]
    if config.num_classes:
        table += [same(f"head.{kind}", f"head.{kind}") for kind in ("weight", "bias")]
    return tuple(table)
