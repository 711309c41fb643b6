"""The image tower of OpenAI's CLIP and of OpenCLIP, with or without the text tower beside it.

Towers that are timm models (``visual.trunk.*``) are timm's layout.
Source: OpenCLIP 3.3 (github.com/mlfoundations/open_clip, src/open_clip/transformer.py and model.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import open_clip_folder
from vitkit.converters.engine import Rule, Told, same
from vitkit.converters.fold import refuse_cls_mean, with_prefix_positions
from vitkit.converters.tables import assumed_heads, both
from vitkit.converters.wrappers import unwrapped
from vitkit.models.positions import square_grid
from vitkit.models.vit import ViTConfig

__all__ = [
    "FILE",
    "IGNORE",
    "NAME",
    "SIDECARS",
    "config",
    "matches",
    "normalise",
    "prepare",
    "read_sidecars",
    "rules",
    "untold",
]

NAME = "open_clip"
FILE = "open_clip_model.safetensors"
SIDECARS = (open_clip_folder.SIDECAR,)
IGNORE = (  # the text tower, and what compares the two
    r"(text|transformer|token_embedding|ln_final)\..*",
    r"positional_embedding|text_projection(\..*)?|logit_scale|logit_bias|attn_mask",
    r"input_resolution|context_length|vocab_size",  # numbers in OpenAI's files
)
ANCHOR, BLOCK = "visual.class_embedding", "visual.transformer.resblocks"
LAYER_SCALE = 1e-5
PARTS = (
    ("norm1", "ln_1"),
    ("attn.proj", "attn.out_proj"),
    ("norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    plain = _plain(names)
    return plain is not None and {"visual.conv1.weight", f"{BLOCK}.0.ln_1.weight"} <= set(plain.values())


def _plain(names: Iterable[str]) -> dict[str, str] | None:
    """Names to those of a whole model, also where the file holds the image tower alone, without "visual."."""
    names = list(names)
    if any(name.endswith(ANCHOR) for name in names):
        return unwrapped(names, ANCHOR, IGNORE)
    plain = unwrapped(names, ANCHOR.removeprefix("visual."), IGNORE)
    return None if plain is None else {name: f"visual.{inner}" for name, inner in plain.items()}


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in a whole model without wrappers, the image tower's with "visual."."""
    plain = _plain(state) or {name: name for name in state}
    return {plain[name]: tensor for name, tensor in state.items()}


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off names and shapes. Heads, GELU, epsilon and pooling are assumed.

    Raises:
        UserError: another pooling (CoCa's), or a patch grid that is no square without ``source_image_size``.
    """
    if pooling := [name for name in state if name.startswith("visual.attn_pool")]:
        raise UserError(f"OpenCLIP weights with {pooling[0]} pool by attention of several queries (CoCa): not loaded.")
    embed_dim, channels, patch_h, patch_w = state["visual.conv1.weight"].shape
    if source_image_size is None:
        h, w = square_grid(state["visual.positional_embedding"].shape[0] - 1, "OpenCLIP weights")
        source_image_size = (h * patch_h, w * patch_w)
    clipa = "visual.ln_pre.weight" not in state  # the only published models without it also differ in their pooling
    depth = len({found[1] for name in state if (found := re.match(rf"{re.escape(BLOCK)}\.(\d+)\.", name))})
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=assumed_heads(embed_dim, depth),
        mlp_dim=state[f"{BLOCK}.0.mlp.c_fc.weight"].shape[0],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state["visual.proj"].shape[1] if "visual.proj" in state else 0,
        pool="mean" if clipa else "cls",
        norm_after_pool=clipa,
        position_rule="bicubic_antialias",
        gelu="erf",
        norm_eps=1e-5,
        pre_norm=not clipa,
        patch_bias=False,
        head_bias="visual.proj" not in state,
        layer_scale=LAYER_SCALE if f"{BLOCK}.0.ls_1.gamma" in state else None,
    )


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: a position for the cls token, and no biases where they are all zeros (timm's CLIP)."""
    refuse_cls_mean(config, NAME)
    config, state = with_prefix_positions(config, state, "all")
    for field, name in (("patch_bias", "patch_embed.bias"), ("head_bias", "head.bias")):
        if name in state and not state[name].is_meta and not state[name].any():
            state = {key: tensor for key, tensor in state.items() if key != name}
            config = ViTConfig(**{**vars(config), field: False})
    return config, dict(state)


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration. What the layout has no name for has no rule."""
    table = [
        same("patch_embed.weight", "visual.conv1.weight"),
        Rule("cls_token", ("visual.class_embedding",), lambda p: p[0].reshape(1, 1, -1), lambda t: [t.reshape(-1)]),
        Rule("pos_embed", ("visual.positional_embedding",), lambda p: p[0].unsqueeze(0), lambda t: [t.squeeze(0)]),
        *both("norm", "visual.ln_post"),
    ]
    if config.pre_norm:
        table += both("norm_pre", "visual.ln_pre")
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"{BLOCK}.{layer}"
        for kind in ("weight", "bias"):
            table.append(same(f"{ours}.attn.qkv.{kind}", f"{theirs}.attn.in_proj_{kind}"))
        for part, their_part in PARTS if config.mlp == "gelu" else PARTS[:3]:
            table += both(f"{ours}.{part}", f"{theirs}.{their_part}")
        if config.layer_scale is not None:
            table += [same(f"{ours}.layer_scale{n}", f"{theirs}.ls_{n}.gamma") for n in (1, 2)]
    if config.num_classes:
        table.append(Rule("head.weight", ("visual.proj",), lambda p: p[0].T, lambda t: [t.T]))
    return tuple(table)


def read_sidecars(files: Mapping[str, Any]) -> Told:
    """As `engine.Folder.read_sidecars`.

    Raises:
        UserError: as `open_clip_folder.read_tower`.
    """
    return open_clip_folder.read_tower(files)


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset({"num_heads", "gelu", "norm_eps", "pool", "norm_after_pool"})
