"""timm's config.json both ways: what it tells of a model beside its tensors, and one from which timm builds ours.

Source: timm 1.0.31, models/_hub.py (the file), _builder.py (how it is obeyed), vision_transformer.py, deit.py and
vision_transformer_hybrid.py (the architectures).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitkit.config import UserError
from vitkit.converters.engine import Told
from vitkit.data.pixels import Preprocess, resized_size
from vitkit.models.hybrid import stem_grid
from vitkit.models.vit import ViTConfig

__all__ = ["POOLS", "SIDECAR", "architecture_fields", "read_sidecars", "write_sidecars"]

SIDECAR = "config.json"
# Heads of the sizes that timm's names know; tensors do not tell them.
HEADS = {
    "tiny": 3, "xsmall": 4, "wee": 4, "little": 5, "small": 6, "medium": 8, "mediumd": 8, "betwixt": 10, "base": 12,
    "so150m": 14, "so150m2": 13, "so400m": 16, "large": 16, "huge": 16, "giant": 16, "giantopt": 16, "gigantic": 16,
}  # fmt: skip
SIZE = rf"(?P<size>{'|'.join(sorted(HEADS, key=len, reverse=True))})"
PLAIN = re.compile(
    rf"vit_{SIZE}_patch\d+(_(?P<kind>plus|(plus_)?clip|clip_quickgelu|gap|siglip|siglip_gap|(reg4_)?dinov2|reg1_tipsv2"
    rf"|reg\d_gap|reg\d_map|36x1))?(_\d+)?(_miil)?"
    rf"|vit_{SIZE.replace('size', 'hybrid')}_r\d*_s\d+(_p8)?_\d+"
    rf"|deit3?_{SIZE.replace('size', 'deit')}(_distilled)?_patch\d+_\d+|flexivit_{SIZE.replace('size', 'flexi')}"
    rf"|(?P<eva>eva_large)_patch14_\d+|(?P<test>test_vit2?)"
)
# Names that may be of a plain one of another release of timm; not those of the other architectures of this one.
MAYBE = re.compile(
    r"(?!.*_(\w*rope|s?relpos|dinov3|rpn|parallel|pe|d?p?wee|dlittle|sapiens2|lingbot|radio|mci|18x2|xp|resnet|intern))"
    r"(vit|deit\d?|flexivit)_.+"
)
OWN_HEADS = {  # by pattern: where the size's name does not say
    r"vit_base_patch16_gap_224": 16,
    r"vit_base_patch\d+_plus.*": 14,
    r"vit_giant_.*(dinov2|tipsv2)": 24,
    r"eva_large.*": 16,
    r"test_vit2?": 2,
}
TANH = re.compile(r"vit_(so400m_patch16|giantopt_patch16|base_patch32)_siglip.*|vit_large_patch16_siglip(_gap)?_512")
GELUS = {"gelu": "erf", "gelu_tanh": "tanh", "quick_gelu": "quick"}  # timm's act_layer -> ours
POOLS = {"token": "cls", "avg": "mean", "map": "map", "": "none"}
CROPS = {"crop": "center", "squash": "squash", "pad": "border"}
CLIP_EPS, EPS = 1e-5, 1e-6
INPUT_SIZE = (3, 224, 224)  # timm's default
# model_args: those that the tensors show or that matter in training only, and those with one value that we compute
SHOWN = frozenset({
    "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "init_values",
    "class_token", "no_embed_class", "reg_tokens", "pre_norm", "weight_init", "fix_init", "drop_rate", "pos_drop_rate",
    "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "dynamic_img_size", "strict_img_size",
})  # fmt: skip
FIXED: dict[str, tuple[object, ...]] = {
    "qk_norm": (False, None), "scale_attn_norm": (False, None), "scale_mlp_norm": (False, None), "proj_bias": (True,),
    "final_norm": (True,), "pool_include_prefix": (False, None), "dynamic_img_pad": (False, None), "pos_embed": ("learn",),
}  # fmt: skip
READ = frozenset({"num_heads", "act_layer", "norm_layer", "global_pool", "fc_norm"})
HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def read_sidecars(files: Mapping[str, Any]) -> Told:
    """Heads, GELU, epsilon and pooling of the architecture, the preprocessing, and the classes' names.

    Raises:
        UserError: an architecture or argument of another model than the plain ViT, or preprocessing that is not ours.
    """
    found = files.get("config.json")
    if not isinstance(found, Mapping) or "architecture" not in found:
        return Told({})  # another library's
    try:
        return _read(found, found.get("pretrained_cfg", found), found.get("model_args") or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"timm's config.json is not whole: {error}.") from None


def _read(found: Mapping[str, Any], data: Mapping[str, Any], args: Mapping[str, Any]) -> Told:
    """Of the whole file, its pretrained_cfg (in old files both are one) and model_args."""
    model = architecture_fields(str(found["architecture"])) | _arguments(args, found.get("global_pool"))
    if data.get("label_offset"):
        raise UserError("timm's config.json: label_offset drops rows of the head; not supported.")
    size = args.get("img_size") or (data.get("input_size", INPUT_SIZE)[1:] if data.get("fixed_input_size") else None)
    if size is not None:
        model["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    return Told(model, _preprocess(data), _classes(found, data))


def architecture_fields(name: str) -> dict[str, Any]:
    """Heads, GELU and epsilon of an architecture of timm.

    Raises:
        UserError: not that of a plain Vision Transformer.
    """
    match = PLAIN.fullmatch(name)
    if match is None:
        hint = (
            ", as far as vitkit knows. If it is one, move the weights file to a folder without config.json, name the file there "
            "and say num_heads=..."
        )
        raise UserError(
            f"timm architecture {name!r} is not a plain Vision Transformer{hint if MAYBE.fullmatch(name) else ': not loaded.'}"
        )
    groups = match.groupdict()
    size = next((groups[key] for key in ("size", "hybrid", "deit", "flexi") if groups[key]), "base")
    heads = next((heads for pattern, heads in OWN_HEADS.items() if re.fullmatch(pattern, name)), HEADS[size])
    gelu = "quick" if "quickgelu" in name else "tanh" if TANH.fullmatch(name) else "erf"
    return {"num_heads": heads, "gelu": gelu, "norm_eps": CLIP_EPS if "clip" in (groups["kind"] or "") else EPS}


def _arguments(args: Mapping[str, Any], pool: object) -> dict[str, Any]:
    """Fields that model_args, or the pooling noted beside them, set."""
    told: dict[str, Any] = {}
    for key, value in args.items():
        if (key in FIXED and value not in FIXED[key]) or key not in SHOWN | READ | set(FIXED):
            raise UserError(f"timm's config.json: model_args {key}={value!r} is not of the plain Vision Transformer.")
    if args.get("num_heads") is not None:
        told["num_heads"] = args["num_heads"]
    if "act_layer" in args:
        act = args["act_layer"] or "gelu"
        if act not in (*GELUS, "silu"):  # silu: of the gated MLP, whose tensors show it
            raise UserError(f"timm's config.json: act_layer={act!r} is not one of {', '.join(GELUS)}.")
        told |= {"gelu": GELUS[act]} if act in GELUS else {}
    if "norm_layer" in args:
        if str(args["norm_layer"] or "layernorm").replace("_", "").lower() not in ("layernorm", "layernormfp32"):
            raise UserError(f"timm's config.json: norm_layer={args['norm_layer']!r} is not LayerNorm.")
        told["norm_eps"] = EPS
    pool = args.get("global_pool", pool)
    if pool is not None:
        if not isinstance(pool, str) or pool not in POOLS:
            raise UserError(f"timm's config.json: global_pool={pool!r} is not one of {', '.join(map(repr, POOLS))}.")
        told["pool"] = POOLS[pool]
    return told


def _preprocess(data: Mapping[str, Any]) -> Preprocess | None:
    """timm's evaluation transform. Fields that are left out have timm's defaults, but mean and std must be there."""
    if "mean" not in data and "std" not in data:
        return None
    fit = {mode: fit for fit, mode in CROPS.items()}.get(mode := data.get("crop_mode") or "center")
    fraction = data.get("crop_pct") or 0.875
    if fit is None or (fit != "crop" and fraction != 1):
        raise UserError(
            f"timm's config.json: crop_mode={mode!r} with crop_pct={fraction} is not one of our fits (center; squash or border "
            "with crop_pct 1). Load the weights file itself with fit=..., mean=... and std=..."
        )
    if data.get("interpolation", "bicubic") not in ("bicubic", "bilinear"):
        raise UserError(
            f"timm's config.json: interpolation={data['interpolation']!r} is neither bicubic nor bilinear. "
            "Load the weights file itself with interpolation=..., mean=... and std=..."
        )
    mean, std = (tuple(float(value) for value in data[name]) for name in ("mean", "std"))
    if not all(math.isfinite(value) for value in mean + std):
        raise UserError("timm's config.json: mean and std must be finite numbers.")
    return Preprocess(
        image_size=tuple(data.get("input_size", INPUT_SIZE)[1:]),
        fit=fit,
        crop_fraction=float(fraction),
        interpolation=data.get("interpolation", "bicubic"),
        mean=mean,
        std=std,
    )


def _classes(found: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, ...] | None:
    """A list, or an object of index to name in which indices may be left out: those keep their index as name."""
    labels = found.get("label_names") or data.get("label_names") or data.get("labels")
    if not labels:
        return None
    if not isinstance(labels, Mapping | list):
        raise UserError(f"timm's config.json: label_names must be a list or an object, got {labels!r}.")
    count = found.get("num_classes", data.get("num_classes"))
    if isinstance(labels, Mapping):
        names = {str(index): str(name) for index, name in labels.items()}
        count = count if isinstance(count, int) else len(names)
        labels = [names.pop(str(n), str(n)) for n in range(count)] + list(names)
    if count is not None and len(labels) != count:
        raise UserError(f"timm's config.json: {len(labels)} label_names for {count} classes.")
    return tuple(str(name) for name in labels)


def write_sidecars(config: ViTConfig, preprocess: Preprocess | None, classes: Sequence[str] | None) -> dict[str, Any]:
    """A config.json from which ``timm.create_model("local-dir:FOLDER", pretrained=True)`` builds the same function.

    But for an epsilon below 1e-5 that is not 1e-6: timm has none, and its models compute with 1e-6.

    Raises:
        UserError: timm has no architecture of these fields, named.
    """
    architecture, args = _express(config)
    data: dict[str, Any] = {
        "tag": "vitkit",
        "custom_load": False,
        "input_size": [config.in_channels, *config.image_size],
        "fixed_input_size": True,
        "num_classes": config.num_classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj" if config.stem is None else _first_conv(config.stem),
        "classifier": ["head", "head_dist"] if config.distilled else "head",
    }
    if preprocess is not None:
        data |= {
            "interpolation": preprocess.interpolation,
            "crop_pct": _crop_pct(preprocess),
            "crop_mode": CROPS[preprocess.fit],
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        }
    found = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": args["global_pool"],
        "model_args": args,
        "pretrained_cfg": data,
    }
    return {"config.json": {**found, "label_names": list(classes)} if classes else found}


def _crop_pct(preprocess: Preprocess) -> float:
    """A fraction of which timm, which rounds down, resizes as we do."""
    if preprocess.fit != "crop":
        return 1.0
    fraction, H = preprocess.crop_fraction, preprocess.image_size[0]
    height, _ = resized_size(preprocess.image_size, fraction)
    return fraction if math.floor(H / fraction) == height else H / (height + 0.25)


def _first_conv(stem: tuple[int, ...]) -> str:
    return "patch_embed.backbone.stem.conv" if stem else "patch_embed.backbone.conv"


def _express(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """(architecture, model_args): the nearest architecture, with every argument that decides the function."""
    if cannot := _inexpressible(config):
        raise UserError(f"timm has no model with {', '.join(cannot)}; convert to vitkit, or to a format that has.")
    architecture = "vit_base_patch16_clip_224" if config.norm_eps == CLIP_EPS else "vit_base_patch16_224"
    if config.stem is not None:
        architecture = HYBRIDS[config.stem]
    elif config.distilled:
        architecture = "deit_base_distilled_patch16_224"
    elif config.mlp == "swiglu":
        architecture = "vit_giant_patch14_dinov2"
    args: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.in_channels,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": _ratio(config.mlp_dim * (2 if config.mlp == "swiglu" else 1), config.embed_dim),
        "qkv_bias": config.qkv_bias,
        "init_values": None if config.layer_scale is None else config.layer_scale or EPS,
        "class_token": config.cls_token,
        "no_embed_class": bool(config.prefix_tokens and not config.position_prefix),
        "reg_tokens": 0 if config.distilled else config.registers,
        "pre_norm": config.pre_norm,
        "global_pool": next(theirs for theirs, ours in POOLS.items() if ours == config.pool),
        "fc_norm": config.norm_after_pool,
    }
    if config.mlp == "gelu":
        args["act_layer"] = next(theirs for theirs, ours in GELUS.items() if ours == config.gelu)
    return architecture, args


def _ratio(hidden: int, embed_dim: int) -> float:
    """A float whose product with ``embed_dim`` timm truncates to ``hidden``."""
    ratio = hidden / embed_dim
    return ratio if int(embed_dim * ratio) == hidden else (hidden + 0.5) / embed_dim


def _inexpressible(config: ViTConfig) -> list[str]:
    """What timm cannot build, as field=value."""
    names = []
    if config.position != "learned":
        names.append("position")
    if config.position_prefix not in ((config.prefix_tokens,) if config.distilled else (0, config.prefix_tokens)):
        names.append("prefix_positions")
    if config.pool not in POOLS.values():
        names.append("pool")
    if config.representation_size:
        names.append("representation_size")
    if config.num_classes and not config.head_bias:
        names.append("head_bias")
    if config.patch_bias == config.pre_norm:  # timm: a bias unless there is a norm
        names.append("patch_bias")
    special = config.stem is not None or config.distilled or config.mlp == "swiglu"
    if config.norm_eps > (EPS if special else CLIP_EPS):  # smaller ones change nothing that shows, see `write_sidecars`
        names.append("norm_eps")
    if config.stem is not None and (config.stem not in HYBRIDS or config.distilled):
        names.append("stem")
    if config.stem is not None and config.stem_numerics != "timm":
        names.append("stem_numerics")
    if config.stem is not None and any(
        n % p for n, p in zip(stem_grid(config.image_size, config.stem), config.patch_size, strict=True)
    ):
        names.append("image_size")
    if config.mlp == "swiglu" and (config.stem is not None or config.distilled or config.pool == "map"):
        names.append("mlp")
    if config.distilled and (config.registers != 1 or not config.num_classes or config.norm_after_pool):
        names += ["distilled", "registers"]
    return [f"{name}={getattr(config, name)!r}" for name in names]
