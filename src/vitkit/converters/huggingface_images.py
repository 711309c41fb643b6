"""transformers' ``preprocessor_config.json`` and our `Preprocess`, both ways.

Pixels are equal bit for bit to those of transformers' Pillow image processors, with one exception: where a centre crop
leaves an odd margin of 3, 7, 11, ... pixels, transformers rounds its upper or left half down and we, as torchvision and timm,
to even, which shifts the crop by one pixel. Its torchvision processors resize with other rounding, by one step of 255.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitkit.config import UserError
from vitkit.converters.settings import setting
from vitkit.data.pixels import CLIP_MEAN, CLIP_STD, HALF, Preprocess, resized_size

__all__ = ["SIDECARS", "image_settings", "read_preprocess", "write_preprocess"]

WHERE = "preprocessor_config.json"
PROCESSOR = (
    "processor_config.json"  # of a model with several kinds of input: its "image_processor" is the same settings
)
SIDECARS = (WHERE, PROCESSOR)
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
RESCALE = 1 / 255
# What each image processor does where its file does not say: the class attributes in transformers.models.<name>.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "square": True, "do_center_crop": False, "resample": 2, "image_mean": HALF, "image_std": HALF},
    "DeiT": {"size": 256, "square": True, "do_center_crop": True, "resample": 3, "image_mean": HALF, "image_std": HALF},
    "Siglip": {
        "size": {"height": 224, "width": 224},
        "square": False,
        "do_center_crop": False,
        "resample": 3,
        "image_mean": HALF,
        "image_std": HALF,
    },
    **{
        name: {
            "size": {"shortest_edge": 224},
            "square": False,
            "do_center_crop": True,
            "resample": 3,
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
        }
        for name in ("CLIP", "Bit")
    },
}
SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


def image_settings(files: Mapping[str, Any]) -> Any:
    """The parsed settings of images among a folder's JSON files; None where no file has them."""
    if WHERE in files:
        return files[WHERE]
    processor = files.get(PROCESSOR)
    return processor.get("image_processor") if isinstance(processor, Mapping) else None


def read_preprocess(values: Any, family: str) -> Preprocess:
    """How images were prepared, from the parsed file.

    Args:
        values: the parsed file.
        family: the image processor of the model's family, where the file does not name one.

    Raises:
        UserError: a processor that is not known, or a step that `Preprocess` does not have.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{WHERE} holds no settings; transformers writes an object of names and values there.")
    type_ = setting(values, "image_processor_type", str, None, WHERE) or setting(
        values, "feature_extractor_type", str, f"{family}ImageProcessor", WHERE
    )
    name = next((type_.removesuffix(suffix) for suffix in SUFFIXES if type_.endswith(suffix)), type_)
    if name not in DEFAULTS:
        raise UserError(f"{WHERE}: images were prepared by {type_}; known: {', '.join(DEFAULTS)} image processors.")
    defaults = DEFAULTS[name]
    for step, wanted in (("do_resize", True), ("do_rescale", True), ("do_pad", False)):
        if setting(values, step, bool, wanted, WHERE) is not wanted:
            raise UserError(f"{WHERE}: {step} is {not wanted}; vitkit prepares images with {step} {wanted} only.")
    factor = setting(values, "rescale_factor", (int, float), RESCALE, WHERE)
    if not math.isclose(factor, RESCALE, rel_tol=1e-6):
        raise UserError(f"{WHERE}: rescale_factor is {factor!r}; vitkit scales pixels by 1/255 only.")
    resample = setting(values, "resample", int, defaults["resample"], WHERE)
    if resample not in RESAMPLE:
        raise UserError(f"{WHERE}: resample is {resample}; vitkit resizes with 2 (bilinear) and 3 (bicubic) only.")
    mean, std = [0.0] * 3, [1.0] * 3
    if setting(values, "do_normalize", bool, True, WHERE):
        mean, std = (_channels(values, key, defaults) for key in ("image_mean", "image_std"))
    image_size, fit, crop_fraction = _fit(values, defaults)
    return Preprocess(image_size, fit, crop_fraction, RESAMPLE[resample], tuple(mean), tuple(std))


def _channels(values: Mapping[str, Any], key: str, defaults: Mapping[str, Any]) -> list[float]:
    numbers = setting(values, key, (list, tuple), defaults[key], WHERE)
    if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise UserError(f"{WHERE}: {key} is {numbers!r}; one number per channel was expected.")
    return [float(n) for n in numbers]


def _fit(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[tuple[int, int], str, float]:
    """(image_size, fit, crop_fraction)."""
    size = _size(values, "size", defaults["size"], defaults["square"])
    if not setting(values, "do_center_crop", bool, defaults["do_center_crop"], WHERE):
        if isinstance(size, int):
            raise UserError(
                f"{WHERE}: the shorter side is resized to {size} and nothing is cut, so that images of different shape "
                "get different sizes; vitkit prepares images of one size. Say do_center_crop and crop_size, or size as "
                "height and width."
            )
        return size, "squash", 1.0
    crop = _size(values, "crop_size", 224, True)
    if isinstance(crop, int):
        raise UserError(f"{WHERE}: crop_size is {values['crop_size']!r}; height and width were expected.")
    resized = (size, size) if isinstance(size, int) else size
    fraction = crop[0] / resized[0]
    if isinstance(size, int) and crop[0] != crop[1]:
        raise UserError(f"{WHERE}: a crop of {crop} from a shorter side of {size} is not square, which vitkit needs.")
    if fraction > 1 or resized_size(crop, fraction) != resized:
        raise UserError(
            f"{WHERE}: a crop of {crop} from images resized to {size} is not one fraction of both sides, at most 1."
        )
    if not isinstance(size, int) and fraction == 1:
        return crop, "squash", 1.0
    return crop, "crop" if isinstance(size, int) else "squash_crop", fraction


def _size(values: Mapping[str, Any], key: str, default: Any, square: bool) -> int | tuple[int, int]:
    """The size of the shorter side, or (height, width)."""
    value = setting(values, key, (int, list, tuple, Mapping), default, WHERE)
    if isinstance(value, int):
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    elif not isinstance(value, Mapping):
        value = dict(zip(("height", "width"), value, strict=True)) if len(value) == 2 else {}
    given = {k: n for k, n in value.items() if n is not None}
    numbers = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given.values())
    if numbers and set(given) == {"height", "width"}:
        return given["height"], given["width"]
    if numbers and set(given) == {"shortest_edge"}:
        return int(given["shortest_edge"])
    raise UserError(f"{WHERE}: {key} is {values.get(key)!r}; vitkit knows height and width, or shortest_edge.")


def write_preprocess(record: Preprocess) -> dict[str, Any]:
    """The file that makes transformers' Pillow image processors prepare images as ``record`` says.

    Raises:
        UserError: no image processor does so.
    """
    if record.channels != 3:
        raise UserError(
            f"transformers' image processors prepare RGB images, these have {record.channels} channels (mean, std)."
        )
    H, W = record.image_size
    cover = dict(zip(("height", "width"), resized_size(record.image_size, record.crop_fraction), strict=True))
    whole = {"height": H, "width": W}
    # CLIP's image processor cuts the centre in every release of transformers, ViT's in the newest ones only.
    type_, size, crop = {
        "squash": ("ViT", whole, False),
        "squash_crop": ("DeiT", cover, True),
        "crop": ("CLIP", {"shortest_edge": cover["height"]}, True),
        "pad": ("", {}, False),
    }[record.fit]
    if not type_:
        raise UserError(f"transformers' image processors of Vision Transformers cannot express fit={record.fit!r}.")
    if record.fit == "crop" and H != W:
        raise UserError(f"transformers cuts squares only: it cannot express fit='crop' at {H}x{W}; squash can be.")
    return {
        "image_processor_type": f"{type_}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": {name: number for number, name in RESAMPLE.items()}[record.interpolation],
        "do_center_crop": crop,
        **({"crop_size": whole} if crop else {}),
        "do_rescale": True,
        "rescale_factor": RESCALE,
        "do_normalize": True,
        "image_mean": list(record.mean),
        "image_std": list(record.std),
    }
