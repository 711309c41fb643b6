"""Pixels: a file to an upright RGB image, to a uint8 array (H, W, C), to float32. Pillow and numpy only.

Training, evaluation, prediction and `Bundle.preprocess` all come through here, so that a model sees equal pixels everywhere.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vitkit.config import UserError, did_you_mean
from vitkit.data.containers import ImageSource, read_bytes

__all__ = [
    "FITS",
    "IMAGE_SUFFIXES",
    "ImageError",
    "Preprocess",
    "choose_fit",
    "fit_image",
    "normalise",
    "open_image",
    "prepare",
    "upright_rgb",
]

Array = np.ndarray
FITS = ("crop", "squash", "pad")
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("apng", "avif", "bmp", "gif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "pbm", "pgm", "png"),
        *("pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
MAX_PIXELS = 100_000_000  # larger files are refused before they are decoded

# A file's oddities are judged here, by size and by whether it decodes; Pillow's advice to developers is not for users.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageError(UserError):
    """One image that cannot be used, with the reason."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input. Stored in the bundle; every command obeys it."""

    image_size: tuple[int, int]  # (H, W) that the model runs at
    fit: str = "crop"  # crop: centre crop | squash: whole image, aspect lost | pad: whole image, aspect kept
    crop_fraction: float = 1.0  # fit=crop: part of the covering resize that the centre crop keeps, 0.875 = 256 -> 224
    interpolation: str = "bicubic"  # always antialiased
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of pixels in [0, 1], per channel
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for name, known in (("fit", FITS), ("interpolation", tuple(INTERPOLATIONS))):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name} is {value!r}; known: {', '.join(known)}.{did_you_mean(str(value), known)}")
        size = self.image_size
        pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
        if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
            raise UserError(f"image_size must be one or two positive integers (height, width), got {size!r}.")
        object.__setattr__(self, "image_size", pair)
        if not 0 < self.crop_fraction <= 1:
            raise UserError(f"crop_fraction must be in (0, 1], got {self.crop_fraction}.")
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise UserError("mean and std need one value per channel, std above 0.")


def open_image(source: ImageSource) -> Image.Image:
    """Decode a file, bytes, or an image inside a larger file to an upright RGB image; see `upright_rgb`.

    Raises:
        ImageError: missing, not an image, truncated, or above 100 megapixels.
    """
    try:
        stored = source if isinstance(source, str | Path | bytes) else read_bytes(source)
        with Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width}x{image.height} is above {MAX_PIXELS // 10**6} megapixels")
            return upright_rgb(image)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("does not exist") from None
    except UnidentifiedImageError:  # its text holds the path, or the address of the bytes in memory
        empty = not read_bytes(stored)
        raise ImageError("is empty" if empty else "is not an image that can be read") from None
    except Image.DecompressionBombError:
        raise ImageError(f"is above {MAX_PIXELS // 10**6} megapixels") from None
    except Exception as error:  # Pillow's decoders raise many types on broken files; each is this file's fault
        raise ImageError(f"{type(error).__name__}: {str(error) or 'cannot be decoded'}") from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode, apply the EXIF orientation and convert to RGB.

    Rules: first frame of an animation; transparency over white; deeper gray scaled to 8 bits by its declared depth;
    palette, gray and CMYK converted by Pillow.

    Raises:
        ImageError: a mode that has no conversion.
    """
    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_eight_bits(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"mode {image.mode} cannot be converted to RGB: {error}") from None


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Gray values of another depth: integers by their declared bits, floats in [0, 1] or [0, 255].

    Raises:
        ImageError: values outside the declared range.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        top = 1.0 if high <= 1 else 255.0
        eight = np.nan_to_num(values) * (255 / top)
    else:
        declared = getattr(image, "tag_v2", {}).get(258, 8 if image.mode == "I" and high <= 255 else 16)  # TIFF's bits
        bits = min(declared[0] if isinstance(declared, tuple) else declared, 16)
        top = float(2**bits - 1)
        eight = values.astype(np.int64) >> max(0, bits - 8)
    if not (low >= 0 and high <= top):  # also refuses nan
        raise ImageError(f"mode {image.mode} with values from {low:g} to {high:g}; expected 0 to {top:g}")
    return Image.fromarray(np.round(eight).astype(np.uint8))


def fit_image(image: Image.Image, record: Preprocess) -> Array:
    """Fit an upright RGB image to the record's size: uint8 (H, W, C)."""
    H, W = record.image_size
    width, height = image.size
    filter_ = INTERPOLATIONS[record.interpolation]
    if record.fit == "squash":
        image = image.resize((W, H), filter_)
    elif record.fit == "crop":
        cover_h, cover_w = round(H / record.crop_fraction), round(W / record.crop_fraction)
        if cover_w * height >= cover_h * width:  # the other side is truncated, as facebookresearch/deit's resize does
            new_w, new_h = cover_w, max(cover_h, int(cover_w * height / width))
        else:
            new_w, new_h = max(cover_w, int(cover_h * width / height)), cover_h
        left, top = round((new_w - W) / 2), round((new_h - H) / 2)
        image = image.resize((new_w, new_h), filter_).crop((left, top, left + W, top + H))
    else:
        scale = min(H / height, W / width)
        new_w, new_h = min(W, max(1, round(width * scale))), min(H, max(1, round(height * scale)))
        canvas = Image.new("RGB", (W, H), tuple(round(255 * m) for m in record.mean))
        canvas.paste(image.resize((new_w, new_h), filter_), ((W - new_w) // 2, (H - new_h) // 2))
        image = canvas
    return np.asarray(image)


def normalise(pixels: Array, record: Preprocess) -> Array:
    """uint8 (..., C) to float32 (..., C): value / 255, minus mean, over std."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    return (scaled - np.asarray(record.mean, np.float32)) / np.asarray(record.std, np.float32)


def prepare(image: Image.Image, record: Preprocess) -> Array:
    """An image of any mode to the model's input, float32 (H, W, C): the one path of every command."""
    return normalise(fit_image(upright_rgb(image), record), record)


def choose_fit(sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]) -> tuple[str, str]:
    """Choose how images of these (height, width) are fitted to ``image_size``: (fit, reason).

    Whole images are kept where that costs nothing (all have the target's aspect ratio) or where a crop would cut away
    more than half of a typical image; otherwise the centre is cropped, which distorts nothing.
    """
    target = image_size[1] / image_size[0]
    ratios = np.array([w / h / target for h, w in sizes])
    lost = 1 - np.minimum(ratios, 1 / ratios)  # part of each image outside the largest crop of the target's aspect
    if np.quantile(lost, 0.95) <= 0.05:
        return "squash", "the images have the model's aspect ratio, nothing is lost or distorted"
    if np.median(lost) > 0.5:
        return "pad", f"a centre crop would cut away {np.median(lost):.0%} of a typical image"
    return "crop", f"a centre crop of the model's aspect ratio keeps {1 - np.median(lost):.0%} of a typical image"
