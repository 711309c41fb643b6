"""The official .npz layout of google-research/vision_transformer (VIT_SPEC 2.1): both numberings, plain models and hybrids."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vitkit.converters import flax
from vitkit.converters.engine import Rule, same
from vitkit.converters.flax import BLOCK, conv, dense, norm
from vitkit.converters.flax import OFFICIAL_POSITIONS as POSITIONS
from vitkit.converters.fold import BIASES, refuse_cls_mean, with_biases, with_prefix_positions, write_out_positions
from vitkit.models.hybrid import stem_stride
from vitkit.models.positions import square_grid
from vitkit.models.vit import ViTConfig

__all__ = ["FILE", "IGNORE", "NAME", "config", "matches", "normalise", "prepare", "released", "rules", "untold"]

NAME = "google"
FILE = "model.npz"
IGNORE: tuple[str, ...] = flax.IGNORE
UNIT = re.compile(r"block(\d{1,3})/unit(\d{1,3})/")
RELEASED = {  # Linen's numbering -> that of the released files, which count a block's modules of all classes together
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}
GROUP_NORM = re.compile(r"(.*/)?gn(\d+|_root|_proj)/(scale|bias)")


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout? Its positions lie in a module of their own."""
    wanted = {f"{BLOCK}0/LayerNorm_0/scale", POSITIONS}
    return any(wanted <= set(reading.values()) for reading in flax.readings(names))


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain names (`flax.plain_names`), and the GroupNorms of old files, (1, 1, 1, C), as vectors."""
    plain = flax.plain_names(state)
    return {plain[name]: _vector(plain[name], tensor) for name, tensor in state.items()}


def _vector(name: str, tensor: Tensor) -> Tensor:
    return tensor.flatten() if GROUP_NORM.fullmatch(name) and tensor.shape[:-1] == (1, 1, 1) else tensor


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off normalised names and shapes.

    Raises:
        UserError: the patch grid is not a square and ``source_image_size`` was not given.
    """
    patch_h, patch_w, channels, embed_dim = state["embedding/kernel"].shape
    cls_token = "cls" in state
    stem, stride = _stem(state), 1
    if stem is not None:
        channels, stride = state["conv_root/kernel"].shape[2], stem_stride(stem)
    if source_image_size is None:
        h, w = square_grid(state[POSITIONS].shape[1] - cls_token, "official weights")
        source_image_size = (h * patch_h * stride, w * patch_w * stride)
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
        pool="cls" if cls_token else "mean",
        representation_size=state["pre_logits/kernel"].shape[1] if "pre_logits/kernel" in state else 0,
        stem=stem,
        position_rule="bilinear_align_corners",
        gelu="tanh",
    )


def _stem(state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """Units in each stage of the ResNet; None without one."""
    if "conv_root/kernel" not in state:
        return None
    units = {(int(match[1]), int(match[2])) for name in state if (match := UNIT.match(name))}
    stages = sorted({stage for stage, _ in units})
    return tuple(sum(of == stage for of, _ in units) for stage in stages)


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: a table of positions for all tokens, and every bias."""
    refuse_cls_mean(config, NAME)
    config, ready = write_out_positions(*with_biases(config, state, BIASES))
    return with_prefix_positions(config, ready, "all")


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration.

    Raises:
        UserError: the format has no such MLP.
    """
    table = [
        conv("patch_embed", "embedding"),
        same("patch_embed.bias", "embedding/bias"),
        same("pos_embed", POSITIONS),
        *flax.blocks(config),
    ]
    if config.stem is not None:
        table += _stem_rules(config.stem)
    if config.cls_token:
        table.append(same("cls_token", "cls"))
    if config.representation_size:
        table += dense("pre_logits", "pre_logits")
    if config.num_classes:
        table += dense("head", "head")
    return tuple(table)


def _stem_rules(stem: tuple[int, ...]) -> list[Rule]:
    table = [conv("stem.conv_root", "conv_root"), *norm("stem.gn_root", "gn_root")]
    for stage, count in enumerate(stem):
        for unit in range(count):
            ours, theirs = f"stem.stages.{stage}.{unit}", f"block{stage + 1}/unit{unit + 1}"
            for part in ("1", "2", "3", *(("_proj",) if unit == 0 else ())):
                table += [
                    conv(f"{ours}.conv{part}", f"{theirs}/conv{part}"),
                    *norm(f"{ours}.gn{part}", f"{theirs}/gn{part}"),
                ]
    return table


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset()


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names to write: the official code reads either numbering, timm's and transformers' readers this one alone."""
    return {"/".join(RELEASED.get(part, part) for part in name.split("/")): tensor for name, tensor in state.items()}
