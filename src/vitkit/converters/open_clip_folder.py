"""What ``open_clip_config.json`` tells of an image tower beside its tensors: OpenCLIP's own, or one of timm's.

Source: OpenCLIP 3.3 (github.com/mlfoundations/open_clip, src/open_clip/model.py, timm_model.py, transform.py, factory.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitkit.config import UserError
from vitkit.converters.engine import Told
from vitkit.converters.settings import setting, size_setting
from vitkit.converters.timm_folder import POOLS as TIMM_POOLS
from vitkit.converters.timm_folder import architecture_fields
from vitkit.data.pixels import CLIP_MEAN, CLIP_STD, Preprocess

__all__ = ["SIDECAR", "read_tower", "read_trunk"]

SIDECAR = "open_clip_config.json"
POOLS = {"tok": "cls", "avg": "mean"}
FITS = {"shortest": "crop", "squash": "squash"}
# vision_cfg of OpenCLIP's own towers: what the tensors show or training alone uses; and what must not be switched on
SHOWN = frozenset({
    "layers", "width", "mlp_ratio", "patch_size", "image_size", "head_width", "ls_init_value", "patch_dropout", "no_ln_pre",
    "pos_embed_type", "final_ln_after_pool", "pool_type", "output_tokens", "act_kwargs", "norm_kwargs", "attn_pooler_queries",
    "attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
})  # fmt: skip
OTHER = "Not a plain Vision Transformer, not loaded."
IMAGE_SIZE, HEAD_WIDTH = 224, 64  # OpenCLIP's defaults


def read_tower(files: Mapping[str, Any]) -> Told:
    """Of an image tower of OpenCLIP's own (``visual.conv1``).

    Raises:
        UserError: it describes another kind of tower, an option that a plain Vision Transformer does not have, or
            preprocessing that is not ours.
    """
    found = _parts(files)
    if found is None:
        return Told({})
    model, vision, preprocess = found
    if name := vision.get("timm_model_name"):
        raise UserError(f"{SIDECAR} describes a tower of timm's, {name!r}; the tensors are of OpenCLIP's own.")
    for key, value in vision.items():
        if key not in SHOWN and value not in (None, False, "default"):
            raise UserError(f"{SIDECAR}: vision_cfg {key}={value!r:.80}. {OTHER}")
    layers = setting(vision, "layers", (int, list), 12, SIDECAR)
    if isinstance(layers, list):
        raise UserError(f"{SIDECAR}: layers={layers!r:.80} are the stages of a ResNet. {OTHER}")
    width = setting(vision, "width", int, 768, SIDECAR)
    head_width = setting(vision, "head_width", int, HEAD_WIDTH, SIDECAR)
    if head_width < 1 or width // head_width < 1:
        raise UserError(f"{SIDECAR}: heads of width {head_width} in a model of width {width}.")
    pool = setting(vision, "pool_type", str, "tok", SIDECAR)
    if pool not in POOLS:
        raise UserError(f"{SIDECAR}: pool_type={pool!r} is not one of {', '.join(map(repr, POOLS))}: not loaded.")
    size = size_setting(vision, "image_size", IMAGE_SIZE, SIDECAR)
    fields = {
        "embed_dim": width,
        "depth": layers,
        "num_heads": width // head_width,
        "image_size": size,
        "gelu": _gelu(model, vision),
        "norm_eps": _norm_eps(vision),
        "pool": POOLS[pool],
        "norm_after_pool": setting(vision, "final_ln_after_pool", bool, False, SIDECAR),
        "pre_norm": not setting(vision, "no_ln_pre", bool, False, SIDECAR),
    }
    return Told(fields, _preprocess(preprocess, size))


def read_trunk(files: Mapping[str, Any]) -> Told:
    """Of an image tower that is a timm model (``visual.trunk``).

    Raises:
        UserError: the timm model, its pooling or its projection is not that of a plain Vision Transformer with a linear head.
    """
    found = _parts(files)
    if found is None:
        return Told({})
    _, vision, preprocess = found
    name = setting(vision, "timm_model_name", str, None, SIDECAR)
    if name is None:
        raise UserError(f"{SIDECAR} describes a tower of OpenCLIP's own; the tensors are of one of timm's.")
    fields = architecture_fields(name)
    pool = setting(vision, "timm_pool", str, "avg", SIDECAR)
    projection = vision.get("timm_proj", "linear")
    if projection not in ("linear", "none", "", None):
        raise UserError(f"{SIDECAR}: timm_proj={projection!r:.80} is not a linear projection: not loaded.")
    if pool not in TIMM_POOLS:
        raise UserError(f"{SIDECAR}: timm_pool={pool!r} is not one of {', '.join(map(repr, TIMM_POOLS))}: not loaded.")
    if pool or projection != "linear":  # an empty one keeps timm's where the projection is OpenCLIP's
        fields["pool"] = TIMM_POOLS[pool]
    return Told(fields, _preprocess(preprocess, size_setting(vision, "image_size", IMAGE_SIZE, SIDECAR)))


def _parts(files: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]] | None:
    """(model_cfg, its vision_cfg, preprocess_cfg); None where the file is absent."""
    if SIDECAR not in files:
        return None
    values = files[SIDECAR]
    if not isinstance(values, Mapping) or not isinstance(values.get("model_cfg"), Mapping):
        raise UserError(
            f"{SIDECAR} has no model_cfg; OpenCLIP writes an object with model_cfg and preprocess_cfg there."
        )
    model = values["model_cfg"]
    vision = setting(model, "vision_cfg", Mapping, None, SIDECAR)
    if vision is None:
        raise UserError(f"{SIDECAR}: model_cfg has no vision_cfg, which describes the image tower.")
    return model, vision, setting(values, "preprocess_cfg", Mapping, {}, SIDECAR)


def _gelu(model: Mapping[str, Any], vision: Mapping[str, Any]) -> str:
    quick = setting(model, "quick_gelu", bool, False, SIDECAR)
    arguments = setting(vision, "act_kwargs", Mapping, {}, SIDECAR)
    if not arguments:
        return "quick" if quick else "erf"
    gelu = {"tanh": "tanh", "none": "erf"}.get(str(arguments.get("approximate")))
    if quick or gelu is None or len(arguments) > 1:
        raise UserError(f"{SIDECAR}: act_kwargs={dict(arguments)!r:.80} are not those of a GELU that vitkit computes.")
    return gelu


def _norm_eps(vision: Mapping[str, Any]) -> float:
    arguments = setting(vision, "norm_kwargs", Mapping, {}, SIDECAR)
    if set(arguments) - {"eps"}:
        raise UserError(f"{SIDECAR}: norm_kwargs={dict(arguments)!r:.80}; vitkit's norms take eps alone.")
    return float(setting(arguments, "eps", (int, float), 1e-5, SIDECAR))


def _preprocess(values: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """OpenCLIP's evaluation transform, with its defaults; images always have the tower's size."""
    mode = setting(values, "resize_mode", str, "shortest", SIDECAR)
    instead = f"Copy the weights to a folder without {SIDECAR} and say fit=..., mean=... and std=..."
    if mode not in FITS:
        raise UserError(
            f"{SIDECAR}: resize_mode={mode!r} is not one of {', '.join(FITS)} (vitkit pads with the mean, OpenCLIP with "
            f"a colour). {instead}"
        )
    interpolation = setting(values, "interpolation", str, "bicubic", SIDECAR)
    if interpolation not in ("bicubic", "bilinear", "random"):
        raise UserError(f"{SIDECAR}: interpolation={interpolation!r} is neither bicubic nor bilinear. {instead}")
    if setting(values, "mode", str, "RGB", SIDECAR) != "RGB":
        raise UserError(f"{SIDECAR}: images are {values['mode']!r}; OpenCLIP's are RGB.")
    return Preprocess(
        image_size=size,
        fit=FITS[mode],
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",  # OpenCLIP evaluates "random" so
        mean=_channels(values, "mean", CLIP_MEAN),
        std=_channels(values, "std", CLIP_STD),
    )


def _channels(values: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    numbers = setting(values, key, (list, tuple, int, float), default, SIDECAR)
    if isinstance(numbers, int | float):
        numbers = (numbers,) * 3
    if len(numbers) != 3 or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise UserError(f"{SIDECAR}: {key} is {numbers!r:.80}; one number or three were expected.")
    return tuple(float(n) for n in numbers)
