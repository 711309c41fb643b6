"""The .npz layout of google-research/big_vision's image models (VIT_SPEC 2.4), with its older spellings."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import flax
from vitkit.converters.engine import Rule, same
from vitkit.converters.flax import BLOCK, OFFICIAL_POSITIONS, conv, dense
from vitkit.converters.fold import BIASES, refuse_cls_mean, with_biases, write_out_positions
from vitkit.models.positions import square_grid
from vitkit.models.vit import ViTConfig

__all__ = ["FILE", "IGNORE", "NAME", "config", "matches", "normalise", "prepare", "rules", "untold"]

NAME = "big_vision"
FILE = "model.npz"
IGNORE: tuple[str, ...] = flax.IGNORE
POSITIONS = "pos_embedding"
OLDER_POSITIONS = (OFFICIAL_POSITIONS, "Transformer/pos_embedding")
MAP = "MAPHead_0"
MAP_PARTS = re.compile(
    r"probe|(MultiHeadDotProductAttention|LayerNorm|MlpBlock)_0/.*"
)  # at top level in very old files
SCAN = "Transformer/encoderblock/"  # one module of all blocks: each tensor with a leading axis of the depth
MOST_BLOCKS = 1000  # a header may claim any depth; no published model has a tenth of this


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout? Its positions lie at the top level, or are not stored."""
    return any(_is_ours(frozenset(reading.values())) for reading in flax.readings(names))


def _is_ours(plain: frozenset[str]) -> bool:
    loop = f"{BLOCK}0/LayerNorm_0/scale" in plain and OFFICIAL_POSITIONS not in plain
    return loop or f"{SCAN}LayerNorm_0/scale" in plain


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain names (`flax.plain_names`) as newer code writes them, and each block's tensors for themselves.

    Raises:
        UserError: as `flax.plain_names`; stacked blocks without a plausible axis of the depth.
    """
    plain = flax.plain_names(state)
    inlined = "probe" in plain.values()
    plain = {name: _newer(target, inlined) for name, target in plain.items()}
    flax.refuse_twins(plain)
    loop: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = _unstacked(plain[name], tensor) if plain[name].startswith(SCAN) else {plain[name]: tensor}
        if twins := sorted(loop.keys() & parts.keys()):
            raise UserError(
                f"the file holds {twins[0]} both by itself and stacked with the other blocks'; which is meant?"
            )
        loop |= parts
    return loop


def _newer(name: str, inlined: bool) -> str:
    if name in OLDER_POSITIONS:
        return POSITIONS
    return f"{MAP}/{name}" if inlined and MAP_PARTS.fullmatch(name) else name


def _unstacked(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if tensor.ndim < 2 or not 1 <= tensor.shape[0] <= MOST_BLOCKS:
        raise UserError(
            f"{name} of shape {tuple(tensor.shape)} does not hold the tensors of 1 to {MOST_BLOCKS} blocks."
        )
    return {f"{BLOCK}{layer}/{name.removeprefix(SCAN)}": part for layer, part in enumerate(tensor.unbind())}


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off normalised names and shapes.

    FlexiViT's files have the same names; that their positions are resampled with antialias is not told by them.

    Raises:
        UserError: ``source_image_size`` was not given, and the patch grid is not a square or positions are not stored.
    """
    patch_h, patch_w, channels, embed_dim = state["embedding/kernel"].shape
    cls_token = "cls" in state
    of_cls = False  # does the table begin with a row for the cls token, as it did before 2022?
    if POSITIONS in state:
        rows = state[POSITIONS].shape[1]
        if source_image_size is None:
            of_cls = cls_token and rows > 1 and math.isqrt(rows - 1) ** 2 == rows - 1
            h, w = square_grid(rows - of_cls, "big_vision weights")
            source_image_size = (h * patch_h, w * patch_w)
        else:
            of_cls = cls_token and rows - 1 == (source_image_size[0] // patch_h) * (source_image_size[1] // patch_w)
    elif source_image_size is None:
        raise UserError(
            "big_vision weights without pos_embedding have fixed sin-cos positions, which do not tell the image size. "
            "Say the size they were trained at: source_image_size=(H, W)."
        )
    pool = "map" if f"{MAP}/probe" in state else "cls" if cls_token else "mean"
    return ViTConfig(
        embed_dim=embed_dim,
        depth=flax.depth_of(state),
        num_heads=state[f"{BLOCK}0/MultiHeadDotProductAttention_0/query/kernel"].shape[1],
        mlp_dim=state[f"{BLOCK}0/MlpBlock_0/Dense_0/kernel"].shape[1],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state["head/kernel"].shape[1] if "head/kernel" in state else 0,
        cls_token=cls_token,
        pool=pool,
        representation_size=state["pre_logits/kernel"].shape[1] if "pre_logits/kernel" in state else 0,
        position="learned" if POSITIONS in state else "sincos2d",
        prefix_positions="all" if of_cls else "none",
        position_rule="bilinear_align_corners",
        gelu="tanh",
    )


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: every bias, and positions of patches only: that of the cls token is added to it for good."""
    refuse_cls_mean(config, NAME)
    config, ready = with_biases(config, state, BIASES)
    if config.position != "sincos2d":
        config, ready = write_out_positions(config, ready)
    if config.registers:
        return config, ready
    if config.position == "learned" and config.position_prefix:
        row, patches = ready["pos_embed"][:, :1], ready["pos_embed"][:, 1:]
        ready |= {"cls_token": ready["cls_token"] + row, "pos_embed": patches}
    return dataclasses.replace(config, prefix_positions="none"), ready


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration.

    Raises:
        UserError: the format has no such MLP.
    """
    table = [conv("patch_embed", "embedding"), same("patch_embed.bias", "embedding/bias"), *flax.blocks(config)]
    if config.position == "learned":
        table.append(same("pos_embed", POSITIONS))
    if config.cls_token:
        table.append(same("cls_token", "cls"))
    if config.pool == "map":
        attention = f"{MAP}/MultiHeadDotProductAttention_0"
        table += [
            same("map_pool.probe", f"{MAP}/probe"),
            *flax.heads("map_pool.q", attention, ("query",), config),
            *flax.heads("map_pool.kv", attention, ("key", "value"), config),
            *flax.out("map_pool.proj", attention, config),
            *flax.norm("map_pool.norm", f"{MAP}/LayerNorm_0"),
            *flax.mlp("map_pool.mlp", f"{MAP}/MlpBlock_0", config),
        ]
    if config.representation_size:
        table += dense("pre_logits", "pre_logits")
    if config.num_classes:
        table += dense("head", "head")
    return tuple(table)


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset()
