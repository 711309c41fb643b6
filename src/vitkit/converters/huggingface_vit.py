"""transformers' ViT and DeiT, and the encoder of its ViT-MAE: names as on the hub, and as transformers 5 holds them in memory.

ViTModel's pooler is the layer that Google's files call pre_logits. The decoders of masked image models are left out; the
encoder then reads whole images, as ViT-MAE does with ``mask_ratio=0`` and patches in order. ViT-MAE's fixed positions are
stored like learned ones and read as such.

Source: VIT_SPEC 2.6; classes ViT*, DeiT*, ViTMAE* and ViTMSN* of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import huggingface_images
from vitkit.converters.engine import Rule, Told, same
from vitkit.converters.fold import canonical, refuse_cls_mean, with_biases, with_prefix_positions
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
from vitkit.converters.settings import setting
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

NAME = "huggingface_vit"
FILE = "model.safetensors"
SIDECARS = ("config.json", *huggingface_images.SIDECARS)
IGNORE = (r"(vit\.|deit\.)?embeddings\.mask_token", r"decoder\..*", r"\(unused\) .*")
TYPES = ("vit", "deit", "vit_mae", "vit_msn")
DEFAULTS = {"hidden_act": "gelu", "num_attention_heads": 12, "layer_norm_eps": 1e-12, "image_size": 224}
EPS = {"vit_msn": 1e-6}
PATCHES = "embeddings.patch_embeddings.projection"
OLDER = (
    WRAPPERS,
    (r"^(vit|deit)\.", ""),
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^(encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    plain = {new_name(name, OLDER) for name in names}
    layer = "encoder.layer.0.layernorm_before.weight"
    return {f"{PATCHES}.weight", "embeddings.position_embeddings", "embeddings.cls_token", layer} <= plain


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the hub, with the prefix of the class that has these tensors; a pooler that a classifier passes by is unused."""
    plain = renamed(state, OLDER)
    heads = any(name.endswith("classifier.weight") for name in plain)
    prefix = _prefix("embeddings.distillation_token" in plain, "pooler.dense.weight" in plain and not heads)

    def full(name: str) -> str:
        if name.startswith("pooler.") and heads:
            return f"(unused) {name}"
        return prefix + name if name.startswith(("embeddings.", "encoder.", "layernorm.")) else name

    return {full(name): tensor for name, tensor in plain.items()}


def _prefix(deit: bool, pooler: bool) -> str:
    """The bare models, which alone have a pooler, have no prefix."""
    return "" if pooler else "deit." if deit else "vit."


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off normalised names and shapes; heads, GELU and epsilon are assumed.

    Raises:
        UserError: the patch grid is not a square and ``source_image_size`` was not given.
    """
    pooler = "pooler.dense.weight" in state
    prefix = next(name.removesuffix(f"{PATCHES}.weight") for name in state if name.endswith(f"{PATCHES}.weight"))
    registers = int(f"{prefix}embeddings.distillation_token" in state)
    embed_dim, channels, patch_h, patch_w = patch_kernel(state, f"{prefix}{PATCHES}.weight")
    layers = f"{prefix}encoder.layer."
    depth = len({name.removeprefix(layers).split(".")[0] for name in state if name.startswith(layers)})
    if source_image_size is None:
        h, w = square_grid(
            state[f"{prefix}embeddings.position_embeddings"].shape[1] - 1 - registers, "Hugging Face weights"
        )
        source_image_size = (h * patch_h, w * patch_w)
    distilled = "distillation_classifier.weight" in state
    head = f"{_head(distilled)}.weight"
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=assumed_heads(embed_dim, depth),
        mlp_dim=state[f"{layers}0.intermediate.dense.weight"].shape[0],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state[head].shape[0] if head in state else 0,
        registers=registers,
        distilled=distilled,
        representation_size=state["pooler.dense.weight"].shape[0] if pooler else 0,
        position_rule="bicubic",
        gelu="erf",
        norm_eps=1e-12,
        qkv_bias=f"{layers}0.attention.attention.query.bias" in state,
    )


def _head(distilled: bool) -> str:
    return "cls_classifier" if distilled else "classifier"


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: absent biases become zeros, every prefix token gets a position."""
    refuse_cls_mean(config, NAME)
    config, state = with_biases(config, state, ("patch_bias", "head_bias"))
    config, state = with_prefix_positions(config, state, "all")
    return canonical(config), state


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    prefix = _prefix(bool(config.registers), bool(config.representation_size))
    table = [
        *both("patch_embed", f"{prefix}{PATCHES}"),
        same("cls_token", f"{prefix}embeddings.cls_token"),
        same("pos_embed", f"{prefix}embeddings.position_embeddings"),
        *both("norm", f"{prefix}layernorm"),
    ]
    if config.registers:
        table.append(same("registers", f"{prefix}embeddings.distillation_token"))
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"{prefix}encoder.layer.{layer}"
        parts = [f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value")]
        table += [
            *both(f"{ours}.norm1", f"{theirs}.layernorm_before"),
            *fused(f"{ours}.attn.qkv", parts, config.qkv_bias),
            *both(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
            *both(f"{ours}.norm2", f"{theirs}.layernorm_after"),
            *both(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
            *both(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
        ]
    if config.representation_size:
        table += both("pre_logits", "pooler.dense")
    if config.num_classes:
        table += both("head", _head(config.distilled))
    if config.num_classes and config.distilled:
        table += both("head_dist", "distillation_classifier")
    return tuple(table)


def read_sidecars(files: Mapping[str, Any]) -> Told:
    """As `engine.Folder.read_sidecars`.

    Raises:
        UserError: another kind of model, or a setting that the model does not have.
    """
    values, type_ = files.get("config.json"), "vit"
    model: dict[str, Any] = {}
    classes = None
    if values is not None:
        type_ = checked_type(values, TYPES)
        if (act := setting(values, "pooler_act", str, "tanh", "config.json")) != "tanh":
            raise UserError(f"config.json: pooler_act is {act!r}; vitkit's layer before the head has a tanh.")
        model = told_fields(values, {**DEFAULTS, "layer_norm_eps": EPS.get(type_, DEFAULTS["layer_norm_eps"])})
        classes = class_names(values)
    images = image_settings(files)
    family = "DeiT" if type_ == "deit" else "ViT"
    return Told(model, None if images is None else read_preprocess(images, family), classes)


def write_sidecars(config: ViTConfig, preprocess: Preprocess | None, classes: Sequence[str] | None) -> dict[str, Any]:
    """As `engine.Folder.write_sidecars`, of a configuration that `prepare` gave."""
    family = "transformers' DeiT" if config.registers else "transformers' ViT"
    require(
        config, family, stem=None, pool="cls", norm_after_pool=False, position="learned", prefix_positions="all",
        mlp="gelu", pre_norm=False, layer_scale=None, patch_bias=True,
    )  # fmt: skip
    if config.registers > 1:
        raise UserError(f"{family} cannot express registers={config.registers}, its models have 0 or 1.")
    if config.num_classes:
        require(config, f"{family} with classes", representation_size=0, head_bias=True)
    class_ = "DeiT" if config.registers else "ViT"
    kind = "Model" if config.representation_size else "ForImageClassification"
    values = {
        "architectures": [f"{class_}{kind}{'WithTeacher' if config.distilled else ''}"],
        "model_type": class_.lower(),
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": HIDDEN_ACT[config.gelu],
        "layer_norm_eps": config.norm_eps,
        "image_size": square_or_pair(config.image_size),
        "patch_size": square_or_pair(config.patch_size),
        "num_channels": config.in_channels,
        "qkv_bias": config.qkv_bias,
        **({"pooler_output_size": config.representation_size} if config.representation_size else {}),
        "pooler_act": "tanh",
        **labels(config, classes),
    }
    images = {} if preprocess is None else {"preprocessor_config.json": write_preprocess(preprocess)}
    return {"config.json": values, **images}


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset({"num_heads", "gelu", "norm_eps"})
