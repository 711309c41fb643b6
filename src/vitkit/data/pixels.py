"""Pixels: an upright image to an array (H, W, C) of the model's size, to the model's input. Pillow and numpy only.

Training, evaluation, prediction and `Bundle.preprocess` all come through here, so that a model sees equal pixels everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitkit.config import UserError, did_you_mean
from vitkit.data.bands import Bands, array_start, bands_of, image_bands, open_array, open_bands, rgb_of
from vitkit.data.containers import ImageSource
from vitkit.data.decode import MAX_PIXELS, ImageError, full_size, open_rgb, upright_rgb

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "FITS",
    "HALF",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Bands",
    "ImageError",
    "Picture",
    "Placed",
    "Preprocess",
    "choose_fit",
    "fit_image",
    "load_input",
    "normalise",
    "open_image",
    "open_picture",
    "picture_of",
    "picture_size",
    "place",
    "prepare",
    "resized_size",
    "to_planes",
    "upright",
    "upright_rgb",
]

Array = np.ndarray
Picture = Image.Image | Bands  # upright: RGB, or of another number of channels
FITS = ("crop", "squash", "pad")  # that one can choose
KNOWN_FITS = (*FITS, "squash_crop")
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("apng", "avif", "bmp", "gif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "npy", "pbm", "pgm"),
        *("png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
# Of RGB, as published Vision Transformers were trained.
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MOST_SIDE = 65_536  # pixels of a model's images; more is a mistake
MAX_COVER = 16  # a covering resize may be this many times what the crop is cut from


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input. Stored in the bundle; every command obeys it."""

    image_size: tuple[int, int]  # (H, W) that the model runs at
    fit: str = "crop"  # crop: centre crop | squash: whole image, aspect lost | pad: whole image, aspect kept |
    # squash_crop: the centre of a squashed image, as transformers' DeiT
    crop_fraction: float = 1.0  # fit=crop: part of the covering resize that the centre crop keeps, 0.875 = 256 -> 224
    interpolation: str = "bicubic"  # always antialiased
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # per channel: 3 of RGB, or those of the files; of integers in [0, 1]
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        for name, known in (("fit", KNOWN_FITS), ("interpolation", tuple(INTERPOLATIONS))):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name} is {value!r}; known: {', '.join(known)}.{did_you_mean(str(value), known)}")
        size = self.image_size
        pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
        if len(pair) != 2 or not all(type(n) is int and 0 < n <= MOST_SIDE for n in pair):
            raise UserError(
                f"image_size must be one or two positive integers (height, width) of at most {MOST_SIDE}, got {size!r:.80}."
            )
        object.__setattr__(self, "image_size", pair)
        if not _is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise UserError(f"crop_fraction must be in (0, 1], got {self.crop_fraction}.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(_is_number(value) for value in values):
                raise UserError(f"{name} must be one number per channel, such as {name}=0.5,0.5,0.5, got {values!r}.")
            object.__setattr__(self, name, tuple(map(float, values)))
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise UserError("mean and std need one value per channel, std above 0.")

    @property
    def channels(self) -> int:
        """C: 3 makes every image RGB; otherwise images must have as many channels."""
        return len(self.mean)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def open_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file, bytes, or an image inside a larger file to an upright RGB image; see `decode.upright_rgb`.

    Raises:
        ImageError: missing, not an image, truncated, or of more than ``max_pixels``.
    """
    with _blamed():
        return rgb_of(open_array(source), max_pixels) if array_start(source) else open_rgb(source, max_pixels)


def open_picture(source: ImageSource, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode to an upright image of ``channels`` channels: RGB for 3, whatever the file holds, else the file's own `Bands`.

    Raises:
        ImageError: as `open_image`; for other than 3 channels also an image that has not so many.
    """
    if channels == 3:
        return open_image(source, max_pixels)
    with _blamed():
        return open_bands(source, channels, max_pixels)


@contextmanager
def _blamed() -> Iterator[None]:
    """A larger file that is gone or cut is the fault of each image in it."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None


def upright(image: Image.Image | Array, record: Preprocess) -> Picture:
    """What a Python user passes, a Pillow image or an array (H, W, C), to an upright image of the record's channels.

    Raises:
        ImageError: as `open_picture`.
    """
    if isinstance(image, np.ndarray):
        no_limit = image.size  # it is in memory already
        return rgb_of(image, no_limit) if record.channels == 3 else bands_of(image, record.channels, no_limit)
    return upright_rgb(image) if record.channels == 3 else image_bands(image, record.channels)


def picture_of(pixels: Array) -> Picture:
    """The result of `fit_image` as an image again."""
    return Image.fromarray(pixels) if pixels.dtype == np.uint8 else Bands.of(pixels)


def picture_size(image: Picture) -> tuple[int, int]:
    """(height, width) of the upright image in its file, also where opening shrank it."""
    return (image.full if isinstance(image, Bands) else full_size(image))[::-1]


class Placed(NamedTuple):
    """Where the model's image lies: the whole image is resized to (height, width), and the model's begins at (top, left) in it."""

    height: int
    width: int
    top: int  # below 0 where the model's image has a border
    left: int


def place(record: Preprocess, size: tuple[int, int]) -> Placed:
    """How an upright image of ``size`` (height, width) is fitted: the one geometry, of `fit_image` and of what undoes it.

    Raises:
        ImageError: it has no pixels.
    """
    H, W = record.image_size
    height, width = size
    if min(size) < 1:
        raise ImageError(f"an image of {width}x{height} pixels; there is nothing to see")
    if record.fit == "squash":
        return Placed(H, W, 0, 0)
    if record.fit == "pad":
        scale = min(H / height, W / width)
        new_h, new_w = min(H, max(1, round(height * scale))), min(W, max(1, round(width * scale)))
        return Placed(new_h, new_w, -((H - new_h) // 2), -((W - new_w) // 2))
    cover_h, cover_w = resized_size(record.image_size, record.crop_fraction)
    if record.fit == "squash_crop":
        new_h, new_w = cover_h, cover_w
    elif cover_h != cover_w:  # both sides are rounded, as timm and OpenCLIP do where the crop is no square
        ratio = min(height / cover_h, width / cover_w)
        new_h, new_w = round(height / ratio), round(width / ratio)
    elif width <= height:  # the other side is truncated, as torchvision's resize does
        new_h, new_w = max(cover_h, int(cover_w * height / width)), cover_w
    else:
        new_h, new_w = cover_h, max(cover_w, int(cover_h * width / height))
    return Placed(new_h, new_w, round((new_h - H) / 2), round((new_w - W) / 2))


def fit_image(image: Picture, record: Preprocess) -> Array:
    """Fit an upright image to the record's size: uint8 (H, W, 3) of RGB, float32 (H, W, C) of `Bands`.

    Raises:
        ImageError: it has no pixels.
    """
    H, W = record.image_size
    width, height = image.size
    new_h, new_w, top, left = place(record, (height, width))
    filter_ = INTERPOLATIONS[record.interpolation]
    cover_h, cover_w = resized_size(record.image_size, record.crop_fraction)
    if record.fit == "crop" and new_w * new_h > MAX_COVER * cover_w * cover_h:
        # A thread-like image would be resized to far more than is kept; the same values without the rest.
        x, y = width / new_w, height / new_h
        image = image.resize((W, H), filter_, (left * x, top * y, (left + W) * x, (top + H) * y))
        return image.array() if isinstance(image, Bands) else np.asarray(image)
    image = image.resize((new_w, new_h), filter_)
    if record.fit == "pad":
        if isinstance(image, Bands):
            image = image.padded((W, H), (-left, -top), record.mean)
        else:
            canvas = Image.new("RGB", (W, H), tuple(round(255 * m) for m in record.mean))
            canvas.paste(image, (-left, -top))
            image = canvas
    elif record.fit != "squash":
        image = image.crop((left, top, left + W, top + H))
    return image.array() if isinstance(image, Bands) else np.asarray(image)


def resized_size(crop: tuple[int, int], fraction: float) -> tuple[int, int]:
    """(height, width) to resize to, of which the crop is that fraction: rounded down, as timm does.

    A fraction that was computed from both sizes comes out whole in spite of its own rounding.
    """
    h, w = (math.floor(n / fraction + 1e-6) for n in crop)
    return h, w


def normalise(pixels: Array, record: Preprocess) -> Array:
    """(..., C) to float32 (..., C): uint8 / 255 or float32 as it is, minus mean, over std."""
    scaled = pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
    return (scaled - np.asarray(record.mean, np.float32)) / np.asarray(record.std, np.float32)


def prepare(image: Image.Image | Array, record: Preprocess) -> Array:
    """An image of any mode, or an array (H, W, C), to the model's input, float32 (H, W, C): the one path of every command."""
    return normalise(fit_image(upright(image, record), record), record)


def to_planes(pixels: Array) -> Array:
    """Pixels (..., H, W, C) to contiguous planes (..., C, H, W), as models take them."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3))


def load_input(source: ImageSource, record: Preprocess, max_pixels: int = MAX_PIXELS) -> Array:
    """A file to the model's input, float32 (H, W, C).

    Raises:
        ImageError: as `open_picture`.
    """
    return normalise(fit_image(open_picture(source, record.channels, max_pixels), record), record)


def choose_fit(
    sizes: Sequence[tuple[int, int]], image_size: tuple[int, int], crop_fraction: float = 1.0
) -> tuple[str, str]:
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
    kept = crop_fraction**2 * (1 - np.median(lost))
    return "crop", f"a centre crop keeps {kept:.0%} of a typical image"
