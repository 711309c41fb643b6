"""TensorFlow's image resizing and cropping, bit for bit, as the reference code has it. Pillow and numpy only.

Bilinear reads four pixels and no more (no antialiasing), area averages with exact fractional overlaps; both compute in float32
in TensorFlow's order of operations, because casting to uint8 truncates and would turn a last digit into a whole level.
Source: big_vision `pp/ops_image.py`, tf.image.resize.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vitkit.config import UserError

__all__ = [
    "as_picture",
    "as_pixels",
    "central_crop",
    "random_crop",
    "resize",
    "resize_area",
    "resize_bilinear",
    "resize_small",
    "small_size",
    "to_uint8",
    "value_range",
]

Array = np.ndarray[Any, Any]
KEPT_TAPS = 256  # pairs of lengths whose weights are kept: those of the sizes that one run meets most
f32 = np.float32


def as_picture(image: Image.Image | Array) -> Image.Image:
    """A Pillow image of mode RGB from one, or from uint8 (H, W, 3).

    Raises:
        UserError: another mode, type or shape.
    """
    if isinstance(image, Image.Image):
        if image.mode == "RGB":
            return image
        raise UserError(f"an RGB image is needed, got one of mode {image.mode}; convert it first.")
    return Image.fromarray(as_pixels(image))


def as_pixels(image: Image.Image | Array) -> Array:
    """uint8 (H, W, 3) from a Pillow image of mode RGB, or such an array as it is.

    Raises:
        UserError: another mode, type or shape.
    """
    if isinstance(image, Image.Image):
        return np.asarray(as_picture(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UserError(f"an RGB image is needed, uint8 of shape (H, W, 3), got {found}.")


def to_uint8(values: Array) -> Array:
    """Clip to [0, 255] and truncate, as casting in TensorFlow does."""
    return np.clip(values, 0, 255).astype(np.uint8)


def value_range(pixels: Array, low: float = -1.0, high: float = 1.0) -> Array:
    """[0, 255] to [low, high], float32; the default is x / 127.5 - 1."""
    return pixels.astype(f32) / f32(255) * f32(high - low) + f32(low)


def resize_bilinear(image: Image.Image | Array, size: tuple[int, int]) -> Array:
    """Bilinear without antialiasing, pixel centres at halves: RGB to float32 (H, W, 3) in [0, 255] of ``size`` (height, width).

    Equal to `torch.nn.functional.interpolate(align_corners=False)` but for rounding.
    """
    return _unpacked(_bilinear(as_picture(image), size))


def resize_area(image: Image.Image | Array, size: tuple[int, int]) -> Array:
    """The mean of the area each new pixel covers, parts of pixels included: RGB to float32 (H, W, 3) in [0, 255].

    Not torch's mode="area", which widens each area to whole pixels.
    """
    return _unpacked(_area(as_picture(image), size))


def resize(image: Image.Image | Array, size: tuple[int, int]) -> Array:
    """big_vision's resize: bilinear without antialiasing, truncated; uint8 (H, W, 3) of ``size`` (height, width)."""
    return _truncated(_bilinear(as_picture(image), size))


def resize_small(image: Image.Image | Array, small: int) -> Array:
    """big_vision's resize_small: short side to ``small`` pixels, method area, truncated; uint8 (H, W, 3)."""
    picture = as_picture(image)
    return _truncated(_area(picture, small_size((picture.height, picture.width), small)))


def small_size(size: tuple[int, int], small: int) -> tuple[int, int]:
    """(height, width) with a short side of ``small``, each rounded to the nearest, halves to even, in float32.

    Raises:
        UserError: ``small`` is no positive integer.
    """
    if type(small) is not int or small < 1:
        raise UserError(f"the short side to resize to must be a positive number of pixels, got {small!r}.")
    factor = f32(small) / f32(min(size))
    height, width = (max(1, int(np.rint(f32(n) * factor))) for n in size)
    return height, width


def central_crop(pixels: Array, size: tuple[int, int]) -> Array:
    """The centre (H, W) of an array (h, w, C), offsets rounded down.

    Raises:
        UserError: the image is smaller than the crop.
    """
    top, left = (spare // 2 for spare in _spare(pixels, size))
    return pixels[top : top + size[0], left : left + size[1]]


def random_crop(pixels: Array, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """A uniformly drawn piece (H, W) of an array (h, w, C).

    Raises:
        UserError: the image is smaller than the crop.
    """
    top, left = (int(rng.integers(spare + 1)) for spare in _spare(pixels, size))
    return pixels[top : top + size[0], left : left + size[1]]


def _spare(pixels: Array, size: tuple[int, int]) -> tuple[int, int]:
    (h, w), (H, W) = pixels.shape[:2], size
    if h < H or w < W:
        raise UserError(
            f"cannot cut {H} x {W} pixels (height x width) out of an image of {h} x {w}; resize it to more."
        )
    return h - H, w - W


# What follows works on four bytes a pixel, RGB and one unused, which numpy gathers several times as fast as three.


def _packed(image: Image.Image) -> Array:
    """One uint32 per pixel (H, W)."""
    return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32).reshape(image.height, image.width)


def _floats(packed: Array) -> Array:
    """Packed pixels (H, W) to float32 (H, W * 4)."""
    return packed.view(np.uint8).astype(f32).reshape(len(packed), -1)


def _unpacked(rows: Array) -> Array:
    """(H, W * 4) to (H, W, 3)."""
    return np.ascontiguousarray(rows.reshape(len(rows), -1, 4)[..., :3])


def _truncated(rows: Array) -> Array:
    """float32 (H, W * 4) in [0, 255] to uint8 (H, W, 3)."""
    size = (rows.shape[1] // 4, len(rows))
    return np.asarray(Image.frombytes("RGB", size, to_uint8(rows).tobytes(), "raw", "RGBX"))


class _Pair(NamedTuple):
    """For each new pixel the two old ones around its centre, and how far it is on the way to the second."""

    lower: Array
    upper: Array
    part: Array  # float32


@functools.lru_cache(KEPT_TAPS)
def _pairs(old: int, new: int) -> _Pair:
    centre = (np.arange(new, dtype=f32) + f32(0.5)) * (f32(old) / f32(new)) - f32(0.5)
    floor = np.floor(centre)
    lower = np.maximum(floor, 0).astype(np.intp)
    upper = np.minimum(np.ceil(centre), old - 1).astype(np.intp)
    return _Pair(lower, upper, centre - floor)


def _bilinear(image: Image.Image, size: tuple[int, int]) -> Array:
    """float32 (H, W * 4)."""
    _check(size)
    packed = _packed(image)
    y, x = _pairs(image.height, size[0]), _pairs(image.width, size[1])
    top, bottom = y.lower, y.upper
    if 2 * size[0] < image.height:  # rows that no new pixel reads
        rows, places = np.unique(np.concatenate([top, bottom]), return_inverse=True)
        packed, top, bottom = packed[rows], places[: size[0]], places[size[0] :]
    across = _between(
        _floats(packed.take(x.lower, axis=1)), _floats(packed.take(x.upper, axis=1)), np.repeat(x.part, 4)
    )
    return _between(across.take(top, axis=0), across.take(bottom, axis=0), y.part[:, None])


def _between(first: Array, second: Array, part: Array) -> Array:
    """first + (second - first) * part; overwrites ``second``."""
    second -= first
    second *= part
    second += first
    return second


class _Overlaps(NamedTuple):
    """For each new pixel the old ones it covers in part or whole, and by how much; padded with weights of 0."""

    places: Array  # (K, new)
    weights: Array  # (K, new) float32


@functools.lru_cache(KEPT_TAPS)
def _overlaps(old: int, new: int) -> _Overlaps:
    scale = f32(old) / f32(new)
    begin = np.arange(new, dtype=f32) * scale
    end = np.arange(1, new + 1, dtype=f32) * scale
    first, last = np.floor(begin).astype(np.intp), np.ceil(end).astype(np.intp)
    places = first + np.arange((last - first).max())[:, None]
    here = places.astype(f32)
    from_here = np.where(here < begin, here + f32(1) - begin, f32(1))
    weights = np.where(here + f32(1) > end, np.where(here < begin, scale, end - here), from_here)
    weights = np.where(places < last, weights, f32(0)).astype(f32)
    return _Overlaps(np.minimum(places, old - 1), weights)


def _area(image: Image.Image, size: tuple[int, int]) -> Array:
    """float32 (H, W * 4)."""
    _check(size)
    packed = _packed(image)
    y, x = _overlaps(image.height, size[0]), _overlaps(image.width, size[1])
    across = np.zeros((image.height, 4 * size[1]), f32)
    for places, weights in zip(*x, strict=True):
        across += _floats(packed.take(places, axis=1)) * np.repeat(weights, 4)
    whole = np.zeros((size[0], 4 * size[1]), f32)
    for places, weights in zip(*y, strict=True):
        whole += across.take(places, axis=0) * weights[:, None]
    whole *= f32(1) / ((f32(image.height) / f32(size[0])) * (f32(image.width) / f32(size[1])))
    return whole


def _check(size: tuple[int, int]) -> None:
    if len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise UserError(f"an image is resized to two positive integers (height, width), got {size!r}.")
