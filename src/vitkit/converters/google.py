"""The official .npz layout of google-research/vision_transformer (VIT_SPEC 2.1), both numberings of its modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vitkit.converters.engine import Rule, give_cls_a_position, same
from vitkit.models.positions import square_grid
from vitkit.models.vit import ViTConfig

__all__ = ["FILE", "IGNORE", "NAME", "UNTOLD", "config", "matches", "normalise", "prepare", "rules"]

NAME = "google"
FILE = "model.npz"
IGNORE: tuple[str, ...] = ()
UNTOLD: frozenset[str] = frozenset()
PREFIXES = ("opt/target/", "params/")
# The released files count modules of all kinds together (pre-Linen); newer code counts each kind from 0 (Linen).
LINEN = {
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}
BLOCK = "Transformer/encoderblock_"
POSITIONS = "Transformer/posembed_input/pos_embedding"


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    plain = {_normal_name(name) for name in names}
    return "embedding/kernel" in plain and f"{BLOCK}0/LayerNorm_0/scale" in plain and POSITIONS in plain


def _normal_name(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return "/".join(LINEN.get(part, part) for part in name.split("/"))


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in Linen numbering, without optimiser prefixes."""
    return {_normal_name(name): tensor for name, tensor in state.items()}


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off normalised names and shapes.

    Raises:
        UserError: the patch grid is not a square and ``source_image_size`` was not given.
    """
    patch_h, patch_w, channels, embed_dim = state["embedding/kernel"].shape
    depth = len({match[1] for name in state if (match := re.match(rf"{BLOCK}(\d+)/", name))})
    cls_token = "cls" in state
    if source_image_size is None:
        h, w = square_grid(state[POSITIONS].shape[1] - cls_token, "official weights")
        source_image_size = (h * patch_h, w * patch_w)
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=state[f"{BLOCK}0/MultiHeadDotProductAttention_0/query/kernel"].shape[1],
        mlp_dim=state[f"{BLOCK}0/MlpBlock_0/Dense_0/kernel"].shape[1],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state["head/kernel"].shape[1] if "head/kernel" in state else 0,
        cls_token=cls_token,
        pool="cls" if cls_token else "mean",
        representation_size=state["pre_logits/kernel"].shape[1] if "pre_logits/kernel" in state else 0,
        position_rule="bilinear_align_corners",
        gelu="tanh",
    )


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`."""
    return give_cls_a_position(config, state)


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    D, K = config.embed_dim, config.num_heads
    table = [
        Rule(
            "patch_embed.weight",
            ("embedding/kernel",),
            lambda parts: parts[0].permute(3, 2, 0, 1),  # HWIO -> OIHW
            lambda tensor: [tensor.permute(2, 3, 1, 0)],
        ),
        same("patch_embed.bias", "embedding/bias"),
        same("pos_embed", POSITIONS),
        *_norm("norm", "Transformer/encoder_norm"),
    ]
    if config.cls_token:
        table.append(same("cls_token", "cls"))
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"{BLOCK}{layer}"
        attention = f"{theirs}/MultiHeadDotProductAttention_0"
        parts = ("query", "key", "value")
        table += [
            *_norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0"),
            *_norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1"),
            Rule(
                f"{ours}.attn.qkv.weight",
                tuple(f"{attention}/{part}/kernel" for part in parts),  # each (D, K, d)
                lambda kernels: torch.cat([kernel.reshape(D, D).T for kernel in kernels]),
                lambda tensor: [part.T.reshape(D, K, D // K) for part in tensor.chunk(3)],
            ),
            Rule(
                f"{ours}.attn.qkv.bias",
                tuple(f"{attention}/{part}/bias" for part in parts),  # each (K, d)
                lambda biases: torch.cat([bias.reshape(D) for bias in biases]),
                lambda tensor: [part.reshape(K, D // K) for part in tensor.chunk(3)],
            ),
            Rule(
                f"{ours}.attn.proj.weight",
                (f"{attention}/out/kernel",),  # (K, d, D)
                lambda kernels: kernels[0].reshape(D, D).T,
                lambda tensor: [tensor.T.reshape(K, D // K, D)],
            ),
            same(f"{ours}.attn.proj.bias", f"{attention}/out/bias"),
            *_dense(f"{ours}.mlp.fc1", f"{theirs}/MlpBlock_0/Dense_0"),
            *_dense(f"{ours}.mlp.fc2", f"{theirs}/MlpBlock_0/Dense_1"),
        ]
    if config.representation_size:
        table += _dense("pre_logits", "pre_logits")
    if config.num_classes:
        table += _dense("head", "head")
    return tuple(table)


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [same(f"{ours}.weight", f"{theirs}/scale"), same(f"{ours}.bias", f"{theirs}/bias")]


def _dense(ours: str, theirs: str) -> list[Rule]:
    transpose = Rule(f"{ours}.weight", (f"{theirs}/kernel",), lambda parts: parts[0].T, lambda tensor: [tensor.T])
    return [transpose, same(f"{ours}.bias", f"{theirs}/bias")]
