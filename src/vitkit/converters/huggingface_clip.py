"""transformers' CLIP and SigLIP image towers, alone or inside the whole model, whose text tower is left out.

CLIP's projection into the shared embedding is a head without bias. SigLIP pools with attention; with a classifier it takes
the mean of the patches instead and the pooling is unused. A SigLIP tower without either is read with the mean as its pool.

Source: classes CLIP* and Siglip* of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import huggingface_images
from vitkit.converters.engine import Rule, Told, same
from vitkit.converters.fold import canonical, refuse_cls_mean, with_biases
from vitkit.converters.huggingface_images import image_settings, read_preprocess, write_preprocess
from vitkit.converters.huggingface_json import (
    HIDDEN_ACT,
    checked_type,
    class_names,
    labels,
    require,
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

NAME = "huggingface_clip"
FILE = "model.safetensors"
SIDECARS = ("config.json", *huggingface_images.SIDECARS)
IGNORE = (
    r"text_model\..*",
    r"text_projection\..*",
    r"logit_(scale|bias)",
    r"vision_model\.embeddings\.position_ids",
    r"\(unused\) .*",
)
CLIP_TYPES = ("clip", "clip_vision_model")
SIGLIP_TYPES = ("siglip", "siglip_vision_model")
DEFAULTS = {
    "clip": {"hidden_act": "quick_gelu", "num_attention_heads": 12, "layer_norm_eps": 1e-5, "image_size": 224},
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "num_attention_heads": 12, "layer_norm_eps": 1e-6, "image_size": 224},
}
TOWER = "vision_model."
PATCHES = f"{TOWER}embeddings.patch_embedding"
POSITIONS = f"{TOWER}embeddings.position_embedding.weight"
POOL = f"{TOWER}head"
OLDER = (
    WRAPPERS,
    (r"^(embeddings|pre_layrnorm|encoder|post_layernorm|head)\.", r"vision_model.\1."),
)


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    plain = {new_name(name, OLDER) for name in names}
    return {f"{PATCHES}.weight", POSITIONS, f"{TOWER}encoder.layers.0.layer_norm1.weight"} <= plain


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the hub with the tower's prefix; an attention pooling that a classifier passes by is unused."""
    plain = renamed(state, OLDER)
    if "classifier.weight" not in plain:
        return plain
    return {f"(unused) {name}" if name.startswith(f"{POOL}.") else name: tensor for name, tensor in plain.items()}


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off normalised names and shapes; heads, GELU and epsilon are assumed.

    Raises:
        UserError: the patch grid is not a square and ``source_image_size`` was not given, or CLIP with a classifier.
    """
    embed_dim, channels, patch_h, patch_w = patch_kernel(state, f"{PATCHES}.weight")
    layers = f"{TOWER}encoder.layers."
    depth = len({name.removeprefix(layers).split(".")[0] for name in state if name.startswith(layers)})
    cls_token = f"{TOWER}embeddings.class_embedding" in state
    head = "visual_projection.weight" if cls_token else "classifier.weight"
    if cls_token and "classifier.weight" in state:
        raise UserError(
            "Hugging Face CLIP weights with a classifier: it reads the mean of the patches before the last norm, which no "
            "head of vitkit does. Take the tensors named classifier.* out of the file to read the image tower."
        )
    if source_image_size is None:
        h, w = square_grid(state[POSITIONS].shape[0] - cls_token, "Hugging Face weights")
        source_image_size = (h * patch_h, w * patch_w)
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=assumed_heads(embed_dim, depth),
        mlp_dim=state[f"{layers}0.mlp.fc1.weight"].shape[0],
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state[head].shape[0] if head in state else 0,
        cls_token=cls_token,
        pool="cls" if cls_token else "map" if f"{POOL}.probe" in state else "mean",
        position_rule="bicubic",
        gelu="quick" if cls_token else "tanh",
        norm_eps=1e-5 if cls_token else 1e-6,
        pre_norm=f"{TOWER}pre_layrnorm.weight" in state,
        patch_bias=f"{PATCHES}.bias" in state,
        head_bias=not cls_token or head not in state,
    )


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: absent biases become zeros where the class has them."""
    refuse_cls_mean(config, NAME)
    fields = ("qkv_bias",) if config.cls_token else ("qkv_bias", "patch_bias", "head_bias")
    config, state = with_biases(config, state, fields)
    return canonical(config), state


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    D = config.embed_dim
    table = [
        *both("patch_embed", PATCHES)[: 1 + config.patch_bias],
        Rule(
            "pos_embed",
            (POSITIONS,),  # (P + h*w, D)
            lambda parts: parts[0][None],
            lambda tensor: [tensor[0]],
        ),
        *both("norm", f"{TOWER}post_layernorm"),
    ]
    if config.cls_token:
        table.append(
            Rule(
                "cls_token",
                (f"{TOWER}embeddings.class_embedding",),  # (D,)
                lambda parts: parts[0].reshape(1, 1, D),
                lambda tensor: [tensor.reshape(D)],
            )
        )
    if config.pre_norm:
        table += both("norm_pre", f"{TOWER}pre_layrnorm")
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"{TOWER}encoder.layers.{layer}"
        parts = [f"{theirs}.self_attn.{part}_proj" for part in "qkv"]
        table += [
            *both(f"{ours}.norm1", f"{theirs}.layer_norm1"),
            *fused(f"{ours}.attn.qkv", parts, config.qkv_bias),
            *both(f"{ours}.attn.proj", f"{theirs}.self_attn.out_proj"),
            *both(f"{ours}.norm2", f"{theirs}.layer_norm2"),
            *both(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1"),
            *both(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2"),
        ]
    if config.pool == "map":
        table += _map_pool(D)
    if config.num_classes:
        table += both("head", "visual_projection" if config.cls_token else "classifier")[: 1 + config.head_bias]
    return tuple(table)


def _map_pool(D: int) -> list[Rule]:
    """Ours has q apart from k and v; theirs is torch's MultiheadAttention with the rows of all three in one."""
    return [
        same("map_pool.probe", f"{POOL}.probe"),
        *(
            rule
            for kind in ("weight", "bias")
            for rule in (
                _rows(f"map_pool.q.{kind}", f"{POOL}.attention.in_proj_{kind}", slice(0, D)),
                _rows(f"map_pool.kv.{kind}", f"{POOL}.attention.in_proj_{kind}", slice(D, None)),
            )
        ),
        *both("map_pool.proj", f"{POOL}.attention.out_proj"),
        *both("map_pool.norm", f"{POOL}.layernorm"),
        *both("map_pool.mlp.fc1", f"{POOL}.mlp.fc1"),
        *both("map_pool.mlp.fc2", f"{POOL}.mlp.fc2"),
    ]


def _rows(ours: str, theirs: str, rows: slice) -> Rule:
    return Rule(ours, (theirs,), lambda parts: parts[0][rows], lambda tensor: [tensor])


def read_sidecars(files: Mapping[str, Any]) -> Told:
    """As `engine.Folder.read_sidecars`.

    Raises:
        UserError: another kind of model, or a setting that the model does not have.
    """
    values, images = files.get("config.json"), image_settings(files)
    model: dict[str, Any] = {}
    family, classes = "clip", None
    if values is not None:
        type_ = checked_type(values, (*CLIP_TYPES, *SIGLIP_TYPES))
        family = type_.removesuffix("_vision_model")
        tower = values
        if type_ in ("clip", "siglip"):
            # vision_config_dict, where old files have it, overrules vision_config altogether
            tower = setting(values, "vision_config", Mapping, {}, "config.json")
            tower = setting(values, "vision_config_dict", Mapping, tower, "config.json")
        model = told_fields(tower, DEFAULTS[family])
        classes = class_names(values)
    preprocess = None if images is None else read_preprocess(images, "Siglip" if family == "siglip" else "CLIP")
    return Told(model, preprocess, classes)


def write_sidecars(config: ViTConfig, preprocess: Preprocess | None, classes: Sequence[str] | None) -> dict[str, Any]:
    """As `engine.Folder.write_sidecars`, of a configuration that `prepare` gave."""
    if config.cls_token and classes:
        raise UserError("transformers' CLIP cannot express class names: its head is a projection into an embedding.")
    values = _clip(config) if config.cls_token else _siglip(config, classes)
    files = {} if preprocess is None else {"preprocessor_config.json": write_preprocess(preprocess)}
    return {"config.json": values, **files}


def _clip(config: ViTConfig) -> dict[str, Any]:
    family = "transformers' CLIP"
    require(config, family, pool="cls", pre_norm=True, patch_bias=False)
    if config.num_classes:
        require(config, f"{family} with a projection", head_bias=False)
    return {
        "architectures": ["CLIPVisionModelWithProjection" if config.num_classes else "CLIPVisionModel"],
        "model_type": "clip_vision_model",
        **_tower(config, family),
        **({"projection_dim": config.num_classes} if config.num_classes else {}),
    }


def _siglip(config: ViTConfig, classes: Sequence[str] | None) -> dict[str, Any]:
    family = "transformers' SigLIP"
    require(config, family, pre_norm=False, patch_bias=True)
    if config.pool not in ("map", "mean"):
        raise UserError(
            f"{family} cannot express pool={config.pool!r}, its models have 'map' or, with classes, 'mean'."
        )
    if config.pool == "map":
        require(config, f"{family} with pool='map'", num_classes=0)
        return {
            "architectures": ["SiglipVisionModel"],
            "model_type": "siglip_vision_model",
            **_tower(config, family),
            "vision_use_head": True,
        }
    tower = {"model_type": "siglip_vision_model", **_tower(config, family), "vision_use_head": False}
    return {
        "architectures": ["SiglipForImageClassification"],
        "model_type": "siglip",
        "vision_config": tower,
        **labels(config, classes),
    }


def _tower(config: ViTConfig, family: str) -> dict[str, Any]:
    require(
        config, family, stem=None, registers=0, norm_after_pool=False, representation_size=0, position="learned",
        prefix_positions="all", mlp="gelu", qkv_bias=True, layer_scale=None,
    )  # fmt: skip
    for name in ("image_size", "patch_size"):
        size = getattr(config, name)
        if size[0] != size[1]:
            raise UserError(f"{family} cannot express {name}={size}, its models take squares.")
    return {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": HIDDEN_ACT[config.gelu],
        "layer_norm_eps": config.norm_eps,
        "image_size": config.image_size[0],
        "patch_size": config.patch_size[0],
        "num_channels": config.in_channels,
    }


def untold(_config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset({"num_heads", "gelu", "norm_eps"})
