"""transformers' Dinov2 and Dinov2WithRegisters: names as on the hub, and as transformers 5 holds them in memory.

The classifiers read the cls token and the mean of the patches side by side: pool="cls_mean". The mask token takes no part,
but transformers' classes have one always: zeros stand in for it.

Source: classes Dinov2* and Dinov2WithRegisters* of transformers 5.23.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import huggingface_images
from vitkit.converters.engine import Rule, Told, same
from vitkit.converters.fold import canonical, with_biases, with_prefix_positions
from vitkit.converters.huggingface_images import image_settings, read_preprocess, write_preprocess
from vitkit.converters.huggingface_json import (
    HIDDEN_ACT,
    checked_type,
    class_names,
    labels,
    require,
    square_or_pair,
    told_fields,
)
from vitkit.converters.tables import WRAPPERS, assumed_heads, both, fused, new_name, patch_kernel, renamed
from vitkit.data.pixels import Preprocess
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
    "write_sidecars",
]

NAME = "huggingface_dinov2"
FILE = "model.safetensors"
SIDECARS = ("config.json", *huggingface_images.SIDECARS)
IGNORE = (r"\(unused\) .*",)
TYPES = ("dinov2", "dinov2_with_registers")
DEFAULTS = {"hidden_act": "gelu", "num_attention_heads": 12, "layer_norm_eps": 1e-6, "image_size": 224}
PATCHES = "embeddings.patch_embeddings.projection"
POSITIONS = "embeddings.position_embeddings"
MASK = "embeddings.mask_token"
OLDER = (
    WRAPPERS,
    (r"^(dinov2|dinov2_with_registers)\.", ""),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.down_proj\.", ".mlp.weights_out."),
)


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    plain = {new_name(name, OLDER) for name in names}
    layer = "encoder.layer.0."
    return {f"{PATCHES}.weight", POSITIONS, f"{layer}norm1.weight", f"{layer}layer_scale1.lambda1"} <= plain


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the hub with the prefix of the class, SwiGLU's two first layers as one, and zeros as the mask token."""
    plain = renamed(state, OLDER)
    for gate in [name for name in plain if ".mlp.gate_proj." in name]:
        parts = [plain.pop(gate), plain.pop(gate.replace("gate_proj", "up_proj"))]
        plain[gate.replace("gate_proj", "weights_in")] = torch.cat(parts)
    if MASK in plain:
        plain[f"(unused) {MASK}"] = plain[MASK]
    if "embeddings.cls_token" in plain:
        plain[MASK] = torch.zeros_like(plain["embeddings.cls_token"][0])  # (1, D)
    prefix = _prefix("embeddings.register_tokens" in plain, "classifier.weight" in plain)
    inner = ("embeddings.", "encoder.", "layernorm.")
    return {prefix + name if name.startswith(inner) else name: tensor for name, tensor in plain.items()}


def _prefix(registers: bool, classifier: bool) -> str:
    """The bare models have none; inside a classifier a model has its family's name."""
    return "" if not classifier else "dinov2_with_registers." if registers else "dinov2."


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off normalised names and shapes; heads, GELU and epsilon are assumed.

    Raises:
        UserError: the patch grid is not a square and ``source_image_size`` was not given.
    """
    prefix = next(name.removesuffix(f"{PATCHES}.weight") for name in state if name.endswith(f"{PATCHES}.weight"))
    embed_dim, channels, patch_h, patch_w = patch_kernel(state, f"{prefix}{PATCHES}.weight")
    layers = f"{prefix}encoder.layer."
    depth = len({name.removeprefix(layers).split(".")[0] for name in state if name.startswith(layers)})
    tokens = f"{prefix}embeddings.register_tokens"
    registers = state[tokens].shape[1] if tokens in state else 0
    if source_image_size is None:
        h, w = square_grid(state[f"{prefix}{POSITIONS}"].shape[1] - 1, "Hugging Face weights")
        source_image_size = (h * patch_h, w * patch_w)
    gated = f"{layers}0.mlp.weights_out.weight" in state
    classifier = "classifier.weight" in state
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=assumed_heads(embed_dim, depth),
        mlp_dim=state[f"{layers}0.mlp.{'weights_out' if gated else 'fc2'}.weight"].shape[1],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state["classifier.weight"].shape[0] if classifier else 0,
        registers=registers,
        pool="cls_mean" if classifier else "cls",
        prefix_positions="cls" if registers else "all",
        position_rule="bicubic_antialias" if registers else "bicubic",
        mlp="swiglu" if gated else "gelu",
        gelu="erf",
        norm_eps=1e-6,
        qkv_bias=f"{layers}0.attention.attention.query.bias" in state,
        layer_scale=1.0,
    )


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: an absent bias becomes zeros, an absent scale ones; registers have no positions."""
    config, state = with_biases(config, state, ("patch_bias", "head_bias"))
    config, state = with_prefix_positions(config, state, "cls" if config.registers else "all")
    if config.layer_scale is None:
        ones = state["norm.weight"].new_ones(config.embed_dim)
        state |= {f"blocks.{layer}.layer_scale{i}": ones for layer in range(config.depth) for i in (1, 2)}
        config = dataclasses.replace(config, layer_scale=1.0)
    return canonical(config), state


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    D, prefix = config.embed_dim, _prefix(bool(config.registers), bool(config.num_classes))
    table = [
        *both("patch_embed", f"{prefix}{PATCHES}"),
        Rule(
            "cls_token",
            (f"{prefix}embeddings.cls_token", f"{prefix}{MASK}"),
            lambda parts: parts[0],
            lambda tensor: [tensor, tensor.new_zeros(1, D)],
        ),
        same("pos_embed", f"{prefix}{POSITIONS}"),
        *both("norm", f"{prefix}layernorm"),
    ]
    if config.registers:
        table.append(same("registers", f"{prefix}embeddings.register_tokens"))
    if config.num_classes:
        table += both("head", "classifier")
    mlp = ("weights_in", "weights_out") if config.mlp == "swiglu" else ("fc1", "fc2")
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"{prefix}encoder.layer.{layer}"
        parts = [f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value")]
        table += [
            *both(f"{ours}.norm1", f"{theirs}.norm1"),
            *fused(f"{ours}.attn.qkv", parts, config.qkv_bias),
            *both(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
            *both(f"{ours}.norm2", f"{theirs}.norm2"),
            *both(f"{ours}.mlp.fc1", f"{theirs}.mlp.{mlp[0]}"),
            *both(f"{ours}.mlp.fc2", f"{theirs}.mlp.{mlp[1]}"),
            *(same(f"{ours}.layer_scale{i}", f"{theirs}.layer_scale{i}.lambda1") for i in (1, 2)),
        ]
    return tuple(table)


def read_sidecars(files: Mapping[str, Any]) -> Told:
    """As `engine.Folder.read_sidecars`.

    Raises:
        UserError: another kind of model, or a setting that the model does not have.
    """
    values, images = files.get("config.json"), image_settings(files)
    model: dict[str, Any] = {}
    classes = None
    if values is not None:
        checked_type(values, TYPES)
        model = told_fields(values, DEFAULTS)
        classes = class_names(values)
    return Told(model, None if images is None else read_preprocess(images, "Bit"), classes)


def write_sidecars(config: ViTConfig, preprocess: Preprocess | None, classes: Sequence[str] | None) -> dict[str, Any]:
    """As `engine.Folder.write_sidecars`, of a configuration that `prepare` gave."""
    family = "transformers' Dinov2WithRegisters" if config.registers else "transformers' Dinov2"
    require(
        config, family, stem=None, norm_after_pool=False, position="learned", pre_norm=False,
        patch_bias=True, prefix_positions="cls" if config.registers else "all", representation_size=0,
    )  # fmt: skip
    if config.layer_scale is None:
        raise UserError(f"{family} cannot express layer_scale=None, its models have layer scales.")
    if config.num_classes and config.pool == "cls":
        raise UserError(
            f"{family} cannot express pool='cls' with num_classes={config.num_classes}: its head reads the cls token and the "
            "mean of the patches side by side (pool='cls_mean'). Write the backbone alone (num_classes=0), or another format."
        )
    if config.num_classes:
        require(config, family, pool="cls_mean")
    else:
        require(config, f"{family} without classes", pool="cls")
    if config.grid[0] != config.grid[1]:
        raise UserError(
            f"{family} cannot express image_size={config.image_size}: it takes stored positions for a square grid, "
            f"these are {config.grid[0]}x{config.grid[1]}."
        )
    class_ = "Dinov2WithRegisters" if config.registers else "Dinov2"
    values = {
        "architectures": [f"{class_}{'ForImageClassification' if config.num_classes else 'Model'}"],
        "model_type": "dinov2_with_registers" if config.registers else "dinov2",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": _mlp_ratio(config, family),
        "use_swiglu_ffn": config.mlp == "swiglu",
        "hidden_act": HIDDEN_ACT[config.gelu],
        "layer_norm_eps": config.norm_eps,
        "layerscale_value": config.layer_scale,
        "image_size": square_or_pair(config.image_size),
        "patch_size": square_or_pair(config.patch_size),
        "num_channels": config.in_channels,
        "qkv_bias": config.qkv_bias,
        **({"num_register_tokens": config.registers} if config.registers else {"use_mask_token": True}),
        **labels(config, classes),
    }
    files = {} if preprocess is None else {"preprocessor_config.json": write_preprocess(preprocess)}
    return {"config.json": values, **files}


def _mlp_ratio(config: ViTConfig, family: str) -> int:
    """The whole number that transformers makes the width of the MLP from; a SwiGLU keeps two thirds, in steps of 8."""
    for ratio in range(1, 65):
        width = config.embed_dim * ratio
        if config.mlp_dim == (width if config.mlp == "gelu" else (int(width * 2 / 3) + 7) // 8 * 8):
            return ratio
    raise UserError(
        f"{family} cannot express mlp_dim={config.mlp_dim}: it makes that width from {config.embed_dim} times a whole "
        f"number{', two thirds of it in steps of 8' if config.mlp == 'swiglu' else ''}."
    )


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset({"num_heads", "gelu", "norm_eps"})
