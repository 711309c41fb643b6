"""The original RandAugment with its quirks, as AugReg and "Better plain ViT" were trained. Pillow and numpy only.

Every operation takes and gives uint8 (H, W, 3). What differs from what the names suggest, and from Pillow:

- one fixed magnitude for all operations; each drawn operation is always applied;
- Solarize's threshold wraps at 256: magnitudes 0, 10 and 20 invert the whole image, 15 inverts the upper half;
- Contrast pulls towards a constant of (number of pixels / 256, at most 255), not towards the mean grey;
- Posterize keeps at least one bit; at magnitude 20 and above it changes nothing;
- magnitude 0 is no identity: factors of 0.1 leave nearly black, grey or constant images;
- Sharpness leaves the border as it is; blending truncates instead of rounding;
- shears keep the first row or column in place; pixels from outside are grey (128).

Source: arXiv 1909.13719; big_vision `pp/autoaugment.py`, forked from tensorflow/tpu.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from vitkit.config import UserError
from vitkit.data.resizing import as_pixels, to_uint8

__all__ = [
    "OPERATIONS",
    "adjust_brightness",
    "adjust_color",
    "adjust_contrast",
    "adjust_sharpness",
    "apply_operation",
    "auto_contrast",
    "check_randaugment",
    "cut_out",
    "equalize",
    "invert",
    "posterize",
    "randaugment",
    "rotate",
    "shear_x",
    "shear_y",
    "solarize",
    "solarize_add",
    "translate_x",
    "translate_y",
]

Array = np.ndarray[Any, Any]
Draw = np.random.Generator
GREY = 128  # of pixels from outside and cut out
GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)  # tf.image.rgb_to_grayscale
BLOCK = 32  # rows
MAX_LAYERS, MAX_MAGNITUDE = 16, 100
f32 = np.float32


def invert(image: Array) -> Array:
    """255 - x."""
    return 255 - image


def posterize(image: Array, bits: int) -> Array:
    """Keep the upper ``bits``; fewer than 1 is 1, since a shift by 8 is one by 7, and more than 8 is 8."""
    shift = min(max(8 - bits, 0), 7)
    return image >> shift << shift


def solarize(image: Array, threshold: int) -> Array:
    """Invert values from ``threshold`` on, which wraps at 256 as uint8 does: 256 inverts everything."""
    values = np.arange(256, dtype=np.uint8)
    return _mapped(image, np.where(values < threshold % 256, values, 255 - values))


def solarize_add(image: Array, addition: int) -> Array:
    """Add to values below 128, clipped to [0, 255]."""
    values = np.arange(256)
    return _mapped(image, np.where(values < 128, np.clip(values + addition, 0, 255), values))


def auto_contrast(image: Array) -> Array:
    """Stretch each channel to [0, 255], truncated; a channel of one value stays."""
    tables = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    for table, counts in zip(tables, _histogram(image), strict=True):
        present = counts.nonzero()[0]
        low, high = f32(present[0]), f32(present[-1])
        if high > low:
            scale = f32(255) / (high - low)
            table[:] = to_uint8(np.arange(256, dtype=f32) * scale + -low * scale)
    return _mapped_channels(image, tables)


def equalize(image: Array) -> Array:
    """Equalize each channel's histogram by Pillow's rule, in whole numbers."""
    tables = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    for table, counts in zip(tables, _histogram(image), strict=True):
        step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        if step:
            table[1:] = np.clip((counts.cumsum()[:-1] + step // 2) // step, 0, 255)
            table[0] = 0
    return _mapped_channels(image, tables)


def adjust_color(image: Array, factor: float) -> Array:
    """Blend from grey (0.2989 R + 0.5870 G + 0.1140 B, times 255.5 / 255, truncated) to the image."""
    out = np.empty_like(image)
    for rows in _blocks(image):
        planes = [image[rows, :, c].astype(f32) for c in range(3)]
        grey = np.zeros_like(planes[0])
        for plane, weight in zip(planes, GREY_WEIGHTS, strict=True):  # to [0, 1] and back, in TensorFlow's order
            grey += plane * f32(1 / 255) * f32(weight)
        grey = (grey * f32(255.5)).astype(np.uint8).astype(f32)
        for c, plane in enumerate(planes):
            out[rows, :, c] = _blend(grey, plane, factor)
    return out


def adjust_contrast(image: Array, factor: float) -> Array:
    """Blend from the constant min(255, H * W // 256) to the image."""
    constant = min(255, image.shape[0] * image.shape[1] // 256)
    return _mapped(image, _blend(np.full(256, constant, f32), np.arange(256, dtype=f32), factor))


def adjust_brightness(image: Array, factor: float) -> Array:
    """Blend from black to the image."""
    return _mapped(image, _blend(np.zeros(256, f32), np.arange(256, dtype=f32), factor))


def adjust_sharpness(image: Array, factor: float) -> Array:
    """Blend from a smoothed image (3 x 3 kernel of ones with 5 in the middle, over 13, truncated; border kept) to the image.

    In whole numbers. TensorFlow sums in float32, in an order that depends on the machine, and where 13 divides a sum it may
    truncate to one level less: 0.4 % of the values of a photo-like image.
    """
    out = image.copy()  # where the smoothed image is the image itself, so is every blend
    for rows in _blocks(image[1:-1]):
        values = image[rows.start : rows.stop + 2].astype(np.uint16)
        down = values[:-2] + values[1:-1] + values[2:]
        smooth = down[:, :-2] + down[:, 1:-1] + down[:, 2:]
        center = values[1:-1, 1:-1]
        smooth += 4 * center
        smooth //= 13
        out[rows.start + 1 : rows.stop + 1, 1:-1] = _blend(smooth.astype(f32), center.astype(f32), factor)
    return out


def cut_out(image: Array, center: tuple[int, int], half: int) -> Array:
    """A grey square of side 2 * ``half`` around the pixel ``center`` (row, column), cut at the borders."""
    out = image.copy()
    (row, column) = center
    out[max(0, row - half) : max(0, row + half), max(0, column - half) : max(0, column + half)] = GREY
    return out


def rotate(image: Array, degrees: float) -> Array:
    """About the centre, counter-clockwise."""
    H, W = image.shape[:2]
    angle = f32(degrees) * f32(math.pi / 180)
    cos, sin = np.cos(angle), np.sin(angle)
    right, bottom = f32(W - 1), f32(H - 1)
    x0 = (right - (cos * right - sin * bottom)) / f32(2)
    y0 = (bottom - (sin * right + cos * bottom)) / f32(2)
    return _sampled(image, (cos, -sin, x0), (sin, cos, y0))


def shear_x(image: Array, level: float) -> Array:
    """Pixel (x, y) shows (x + level * y, y)."""
    return _sampled(image, (f32(1), f32(level), f32(0)), (f32(0), f32(1), f32(0)))


def shear_y(image: Array, level: float) -> Array:
    """Pixel (x, y) shows (x, y + level * x)."""
    return _sampled(image, (f32(1), f32(0), f32(0)), (f32(level), f32(1), f32(0)))


def translate_x(image: Array, pixels: float) -> Array:
    """Pixel (x, y) shows (x + pixels, y)."""
    return _sampled(image, (f32(1), f32(0), f32(pixels)), (f32(0), f32(1), f32(0)))


def translate_y(image: Array, pixels: float) -> Array:
    """Pixel (x, y) shows (x, y + pixels)."""
    return _sampled(image, (f32(1), f32(0), f32(0)), (f32(0), f32(1), f32(pixels)))


def _sign(rng: Draw) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _cut_out_somewhere(image: Array, v: float, rng: Draw) -> Array:
    center = int(rng.integers(image.shape[0])), int(rng.integers(image.shape[1]))
    return cut_out(image, center, int(v * 40))


# Name -> what it does at v = magnitude / 10, in the reference's order.
OPERATIONS: dict[str, Callable[[Array, float, Draw], Array]] = {
    "AutoContrast": lambda image, _v, _rng: auto_contrast(image),
    "Equalize": lambda image, _v, _rng: equalize(image),
    "Invert": lambda image, _v, _rng: invert(image),
    "Rotate": lambda image, v, rng: rotate(image, _sign(rng) * v * 30),
    "Posterize": lambda image, v, _rng: posterize(image, int(v * 4)),
    "Solarize": lambda image, v, _rng: solarize(image, int(v * 256)),
    "Color": lambda image, v, _rng: adjust_color(image, v * 1.8 + 0.1),
    "Contrast": lambda image, v, _rng: adjust_contrast(image, v * 1.8 + 0.1),
    "Brightness": lambda image, v, _rng: adjust_brightness(image, v * 1.8 + 0.1),
    "Sharpness": lambda image, v, _rng: adjust_sharpness(image, v * 1.8 + 0.1),
    "ShearX": lambda image, v, rng: shear_x(image, _sign(rng) * v * 0.3),
    "ShearY": lambda image, v, rng: shear_y(image, _sign(rng) * v * 0.3),
    "TranslateX": lambda image, v, rng: translate_x(image, _sign(rng) * v * 100),
    "TranslateY": lambda image, v, rng: translate_y(image, _sign(rng) * v * 100),
    "Cutout": _cut_out_somewhere,
    "SolarizeAdd": lambda image, v, _rng: solarize_add(image, int(v * 110)),
}


def check_randaugment(layers: int, magnitude: float) -> None:
    """Raise where RandAugment cannot run so.

    Raises:
        UserError: a number outside its range.
    """
    if type(layers) is not int or not 0 <= layers <= MAX_LAYERS:
        raise UserError(f"RandAugment's layers must be an integer from 0 to {MAX_LAYERS}, got {layers!r}.")
    number = isinstance(magnitude, int | float) and not isinstance(magnitude, bool)
    if not number or not 0 <= magnitude <= MAX_MAGNITUDE:  # NaN fails too
        raise UserError(
            f"RandAugment's magnitude must be from 0 to {MAX_MAGNITUDE}, got {magnitude!r}; usual are 0 to 30."
        )


def apply_operation(name: str, image: Array, magnitude: float, rng: Draw) -> Array:
    """One operation of `OPERATIONS`; signs and places are drawn from ``rng``."""
    return OPERATIONS[name](image, magnitude / 10, rng)


def randaugment(image: Array, layers: int, magnitude: float, rng: Draw) -> Array:
    """``layers`` operations drawn uniformly with repetition, each at ``magnitude``; uint8 (H, W, 3).

    Raises:
        UserError: numbers as in `check_randaugment`; another kind of image.
    """
    check_randaugment(layers, magnitude)
    image = as_pixels(image)
    names = tuple(OPERATIONS)
    for _ in range(layers):
        image = apply_operation(names[int(rng.integers(len(names)))], image, magnitude, rng)
    return image


def _blend(start: Array, end: Array, factor: float) -> Array:
    """start + factor * (end - start), clipped and truncated to uint8; float32, ``end`` is overwritten."""
    if factor == 1:  # float32 would be exact too, but for nothing
        return end.astype(np.uint8)
    end -= start
    end *= f32(factor)
    end += start
    np.clip(end, 0, 255, out=end)
    return end.astype(np.uint8)


def _blocks(image: Array) -> list[slice]:
    """Parts of its rows whose float32 values stay in the processor's cache."""
    return [slice(start, min(len(image), start + BLOCK)) for start in range(0, len(image), BLOCK)]


def _mapped(image: Array, table: Array) -> Array:
    """Each value replaced by its place in ``table`` (256,)."""
    replaced = image.tobytes().translate(table.astype(np.uint8).tobytes())
    return np.frombuffer(replaced, np.uint8).reshape(image.shape)


def _mapped_channels(image: Array, tables: Array) -> Array:
    """As `_mapped` with a table for each channel (3, 256)."""
    out = np.empty_like(image)
    for c, table in enumerate(tables):
        out[..., c] = table.take(image[..., c])
    return out


def _histogram(image: Array) -> Array:
    """Pixels of each value, (3, 256)."""
    return np.array(Image.fromarray(image).histogram(), np.int64).reshape(3, 256)


def _sampled(image: Array, across: tuple[f32, f32, f32], down: tuple[f32, f32, f32]) -> Array:
    """Pixel (x, y) shows the nearest to (a x + b y + c, d x + e y + f), grey where that lies outside; halves round up."""
    H, W = image.shape[:2]
    x, y = np.arange(W, dtype=f32), np.arange(H, dtype=f32)[:, None]
    column, inside_x = _nearest(across[0] * x + across[1] * y + across[2], W)
    row, inside_y = _nearest(down[0] * x + down[1] * y + down[2], H)
    places = np.where(inside_x & inside_y, row * W + column, H * W)
    source = np.empty(H * W + 1, np.uint32)  # four bytes a pixel, which numpy gathers several times as fast as three
    source[:-1] = np.frombuffer(Image.fromarray(image).tobytes("raw", "RGBX"), np.uint32)
    source[-1] = GREY * 0x01010101
    return np.asarray(Image.frombytes("RGB", (W, H), source.take(places).tobytes(), "raw", "RGBX"))


def _nearest(places: Array, length: int) -> tuple[Array, Array]:
    """Places on an axis to whole ones, halves away from 0, and whether they are inside it."""
    inside = (places > -0.5) & (places < length - 0.5)
    whole = places.astype(np.int32)  # towards 0
    whole += places - whole >= 0.5
    return whole, inside
