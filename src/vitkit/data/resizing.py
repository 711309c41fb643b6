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
    "CropBox",
    "as_picture",
    "as_pixels",
    "central_crop",
    "central_window",
    "random_crop",
    "random_window",
    "resize",
    "resize_area",
    "resize_bilinear",
    "resize_small",
    "small_size",
    "to_uint8",
    "value_range",
]

Array = np.ndarray[Any, Any]
BLOCK = 64  # rows
KEPT_TAPS = 256  # pairs of lengths whose weights are kept: those of the sizes that one run meets most
f32 = np.float32


class CropBox(NamedTuple):
    """A piece of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, pixels: Array) -> Array:
        """The piece of an array (h, w, C)."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


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
    picture = as_picture(image)
    _check(size)
    out = np.empty((*size, 3), f32)
    for rows in _blocks(size[0]):
        values = _bilinear_rows(picture, size, rows)
        for c in range(3):
            out[rows, :, c] = values[:, c::4]
    return out


def resize_area(image: Image.Image | Array, size: tuple[int, int]) -> Array:
    """The mean of the area each new pixel covers, parts of pixels included: RGB to float32 (H, W, 3) in [0, 255].

    Not torch's mode="area", which widens each area to whole pixels.
    """
    _check(size)
    return np.stack(_area(as_picture(image), size), axis=-1)


def resize(image: Image.Image | Array, size: tuple[int, int]) -> Array:
    """big_vision's resize: bilinear without antialiasing, truncated; uint8 (H, W, 3) of ``size`` (height, width)."""
    picture = as_picture(image)
    _check(size)
    out = np.empty((size[0], 4 * size[1]), np.uint8)
    for rows in _blocks(size[0]):
        out[rows] = _bilinear_rows(picture, size, rows)  # values between those of pixels: truncated, nothing to clip
    return np.asarray(Image.frombytes("RGB", size[::-1], out.tobytes(), "raw", "RGBX"))


def resize_small(image: Image.Image | Array, small: int, window: CropBox | None = None) -> Array:
    """big_vision's resize_small: short side to ``small`` pixels, method area, truncated; uint8 (H, W, 3).

    With a ``window`` of the resized image only that is computed, to the same values.
    """
    picture = as_picture(image)
    planes = _area(picture, small_size((picture.height, picture.width), small), window)
    return np.asarray(Image.merge("RGB", [Image.fromarray(to_uint8(plane)) for plane in planes]))


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


def central_window(whole: tuple[int, int], size: tuple[int, int]) -> CropBox:
    """The centre of ``size`` of an image of size ``whole``, both (height, width); offsets rounded down.

    Raises:
        UserError: the image is smaller than the crop.
    """
    spare_y, spare_x = _spare(whole, size)
    return CropBox(spare_y // 2, spare_x // 2, *size)


def random_window(whole: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> CropBox:
    """A uniformly drawn piece of ``size`` of an image of size ``whole``, both (height, width).

    Raises:
        UserError: the image is smaller than the crop.
    """
    spare_y, spare_x = _spare(whole, size)
    return CropBox(int(rng.integers(spare_y + 1)), int(rng.integers(spare_x + 1)), *size)


def central_crop(pixels: Array, size: tuple[int, int]) -> Array:
    """The `central_window` of an array (h, w, C)."""
    return central_window(_size(pixels), size).cut(pixels)


def random_crop(pixels: Array, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """A `random_window` of an array (h, w, C)."""
    return random_window(_size(pixels), size, rng).cut(pixels)


def _size(pixels: Array) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def _spare(whole: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    (h, w), (H, W) = whole, size
    if h < H or w < W:
        raise UserError(
            f"cannot cut {H} x {W} pixels (height x width) out of an image of {h} x {w}; resize it to more."
        )
    return h - H, w - W


def _check(size: tuple[int, int]) -> None:
    if len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise UserError(f"an image is resized to two positive integers (height, width), got {size!r}.")


def _blocks(rows: int) -> list[slice]:
    """Parts of an image whose intermediate values stay in the processor's cache."""
    return [slice(start, min(rows, start + BLOCK)) for start in range(0, rows, BLOCK)]


class _Pair(NamedTuple):
    """For each new pixel the two old ones around its centre, and how far it is on the way to the second."""

    first: Array
    second: Array
    part: Array  # float32


@functools.lru_cache(KEPT_TAPS)
def _pairs(old: int, new: int) -> _Pair:
    centre = (np.arange(new, dtype=f32) + f32(0.5)) * (f32(old) / f32(new)) - f32(0.5)
    floor = np.floor(centre)
    first = np.maximum(floor, 0).astype(np.intp)
    second = np.minimum(np.ceil(centre), old - 1).astype(np.intp)
    return _Pair(first, second, centre - floor)


def _bilinear_rows(image: Image.Image, size: tuple[int, int], rows: slice) -> Array:
    """Some rows of the result, float32 (rows, W * 4): four values a pixel, which numpy gathers several times as fast as three."""
    y, x = _pairs(image.height, size[0]), _pairs(image.width, size[1])
    first, second = y.first[rows], y.second[rows]  # old rows, both rising
    top, bottom = int(first[0]), int(second[-1]) + 1
    band = image.crop((0, top, image.width, bottom)).tobytes("raw", "RGBX")
    packed = np.frombuffer(band, np.uint32).reshape(-1, image.width)
    first, second = first - top, second - top
    if len(packed) > 2 * len(first):  # some are between those that are read
        packed = packed[np.stack([first, second], 1).ravel()]
        first = np.arange(0, len(packed), 2)
        second = first + 1
    left, right = (
        packed.take(column, axis=1).view(np.uint8).astype(f32).reshape(len(packed), -1)
        for column in (x.first, x.second)
    )
    across = _between(left, right, np.repeat(x.part, 4))
    return _between(across.take(first, axis=0), across.take(second, axis=0), y.part[rows, None])


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


def _overlaps(old: int, new: int, start: int, count: int) -> _Overlaps:
    """Of the new pixels from ``start`` on."""
    scale = f32(old) / f32(new)
    begin = np.arange(start, start + count, dtype=f32) * scale
    end = np.arange(start + 1, start + count + 1, dtype=f32) * scale
    first, last = np.floor(begin).astype(np.intp), np.ceil(end).astype(np.intp)
    places = first + np.arange((last - first).max())[:, None]
    here = places.astype(f32)
    from_here = np.where(here < begin, here + f32(1) - begin, f32(1))
    weights = np.where(here + f32(1) > end, np.where(here < begin, scale, end - here), from_here)
    weights = np.where(places < last, weights, f32(0)).astype(f32)
    return _Overlaps(np.minimum(places, old - 1), weights)


def _area(image: Image.Image, size: tuple[int, int], window: CropBox | None = None) -> list[Array]:
    """Three planes (H, W), float32: of the whole image or of a window of the result."""
    top, left, height, width = window or (0, 0, *size)
    y, x = _overlaps(image.height, size[0], top, height), _overlaps(image.width, size[1], left, width)
    scale = f32(1) / ((f32(image.height) / f32(size[0])) * (f32(image.width) / f32(size[1])))
    used = slice(int(y.places.min()), int(y.places.max()) + 1)
    planes = []
    for band in image.split():
        values = np.asarray(band)[used]
        across = np.empty((len(values), width), f32)
        for rows in _blocks(len(values)):
            _sum_taps(values[rows], x.places, x.weights, 1, across[rows])
        whole = np.empty((height, width), f32)
        for rows in _blocks(height):
            _sum_taps(across, y.places[:, rows] - used.start, y.weights[:, rows, None], 0, whole[rows])
        whole *= scale
        planes.append(whole)
    return planes


def _sum_taps(values: Array, places: Array, weights: Array, axis: int, out: Array) -> None:
    """``out`` becomes the sum over k of the values at places[k] along ``axis``, times weights[k], added in order."""
    np.multiply(values.take(places[0], axis), weights[0], out=out)
    for k in range(1, len(places)):
        out += values.take(places[k], axis) * weights[k]
