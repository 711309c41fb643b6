"""Heat maps over the original image, at its own aspect ratio: what a person looks at. Pillow and numpy only."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from vitkit.analysis.attention import patch_pixels
from vitkit.data.containers import ImageSource
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import (
    MAX_PIXELS,
    Bands,
    Picture,
    Preprocess,
    fit_image,
    normalise,
    open_picture,
    picture_size,
    upright,
)
from vitkit.data.seen import Box, input_box
from vitkit.models.vit import ViTConfig

__all__ = [
    "MOST",
    "View",
    "colours",
    "covered",
    "displayed",
    "jpeg",
    "legend",
    "open_view",
    "overlay",
    "peak",
    "png",
    "spread",
]

Array = np.ndarray
MOST = 1600  # pixels of a picture's long side
LEAST = 336  # a smaller image is enlarged in whole steps up to here, so that it can be looked at
# Little to much. The lightness of each is above that of the one before, so that the order survives in gray.
STOPS = np.array(
    ((22, 13, 60), (74, 20, 112), (143, 36, 108), (207, 62, 74), (245, 117, 35), (252, 186, 42), (255, 247, 168)), np.float32
)  # fmt: skip
WEIGHTS = np.array((0.299, 0.587, 0.114), np.float32)  # of RGB in brightness (ITU-R BT.601)
KEPT_COLOUR = 0.35  # of the image under the heat
BRIGHTNESS = 0.72  # of the image under the heat, so that in gray too what is white stays below what is hot
FAINT, STRONG = 0.38, 0.78  # how much of the heat's colour covers the image, where there is none of it and where most
DIMMED = 0.26  # brightness of what the model does not see


class View(NamedTuple):
    """One image, ready for the model and for a person."""

    pixels: Tensor  # (C, H, W), the model's input
    shown: Image.Image  # RGB, upright, at most `MOST` pixels long
    size: tuple[int, int]  # (height, width) of the upright original in its file
    box: Box  # where the map lies over the original, in its pixels; beyond its edges where that is padded

    @property
    def seen(self) -> Box:
        """What the model sees of the original, in its pixels."""
        return self.box.within(self.size)

    @property
    def seen_share(self) -> float:
        """The part of the original's area that the model sees."""
        return self.seen.area / (self.size[0] * self.size[1])

    def over(self, values: Array) -> Image.Image:
        """The map (h, w) over the image."""
        return overlay(self.shown, values, self._shown_box())

    def _shown_box(self) -> Box:
        return self.box.scaled(self.shown.width / self.size[1], self.shown.height / self.size[0])


def covered(config: ViTConfig) -> tuple[int, int]:
    """(height, width) of the model's pixels that its patches cover: those that fill no patch are dropped, and a ResNet pads."""
    height, width = patch_pixels(config)
    return config.grid[0] * height, config.grid[1] * width


def open_view(
    source: ImageSource | Image.Image | Array,
    record: Preprocess,
    config: ViTConfig,
    *,
    max_pixels: int = MAX_PIXELS,
    most: int = MOST,
) -> View:
    """Open an image as every command does, for the model and for the eye.

    Raises:
        ImageError: as `open_picture`, or an image without pixels.
    """
    if isinstance(source, Image.Image | np.ndarray):
        picture = upright(source, record)
    else:
        picture = open_picture(source, record.channels, max_pixels)
    pixels = to_tensor(normalise(fit_image(picture, record), record))
    width, height = picture.size  # of a large image less than in its file
    full = picture_size(picture)
    box = input_box(record, (height, width), covered(config)).scaled(full[1] / width, full[0] / height)
    return View(pixels, displayed(picture, most), full, box)


def displayed(picture: Picture, most: int = MOST) -> Image.Image:
    """RGB for the eye, at most ``most`` pixels long, small ones enlarged in whole steps.

    Of other channels than three: the first as gray where there are fewer, else the first three, each from its 2nd to its 98th
    percentile.
    """
    longest = max(picture.size)
    if longest > most:
        size = (max(1, round(picture.width * most / longest)), max(1, round(picture.height * most / longest)))
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    image = _visible(picture) if isinstance(picture, Bands) else picture
    if (times := LEAST // longest) > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return image


def _visible(picture: Bands) -> Image.Image:
    values = picture.array()  # (H, W, C)
    values = values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, axis=2)
    low, high = np.quantile(values, (0.02, 0.98), axis=(0, 1))
    scaled = (values - low) / np.where(high > low, high - low, 1)
    return Image.fromarray(np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8))


def colours(heat: Array) -> Array:
    """Heat (...) in [0, 1] to RGB (..., 3) in [0, 255], float32; the more, the lighter."""
    at = np.clip(heat, 0, 1) * (len(STOPS) - 1)
    low = np.minimum(at.astype(np.int64), len(STOPS) - 2)
    part = (at - low)[..., None].astype(np.float32)
    return STOPS[low] * (1 - part) + STOPS[low + 1] * part


def spread(values: Array, box: Box, size: tuple[int, int]) -> tuple[Array, tuple[int, int, int, int]]:
    """A map (h, w) that lies over ``box`` of an image of ``size`` (height, width), at each pixel that it covers.

    Between the middles of patches it is interpolated linearly. Returns it with the (left, top, right, bottom) that it covers, at
    least one pixel.
    """
    across, left, right = _samples(box.left, box.right, values.shape[1], size[1])
    down, top, bottom = _samples(box.top, box.bottom, values.shape[0], size[0])
    return down @ values.astype(np.float32) @ across.T, (left, top, right, bottom)


def _samples(start: float, stop: float, cells: int, length: int) -> tuple[Array, int, int]:
    """Weights (n, cells) of the cells between start and stop at the middles of the n pixels there, of ``length``."""
    first = min(max(0, round(start)), length - 1)
    last = max(first + 1, min(length, round(stop)))
    middle = np.arange(first, last) + 0.5
    at = np.clip((middle - start) / (stop - start) * cells - 0.5, 0, cells - 1)
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(cells)), 0, None)
    return weights.astype(np.float32), first, last


def overlay(image: Image.Image, values: Array, box: Box) -> Image.Image:
    """A map (h, w), not negative, over an RGB image, in colours from 0 to the map's largest value.

    What lies outside of ``box``, where the map lies in the image's pixels, is dimmed and a thin line drawn around the rest.
    """
    most = float(values.max())
    heat, (left, top, right, bottom) = spread(values / most if most > 0 else values, box, (image.height, image.width))
    pixels = np.asarray(image, np.float32)
    result = pixels * DIMMED
    part = pixels[top:bottom, left:right]
    gray = (part @ WEIGHTS)[..., None]
    strength = (FAINT + (STRONG - FAINT) * np.clip(heat, 0, 1))[..., None].astype(np.float32)
    under = BRIGHTNESS * (KEPT_COLOUR * part + (1 - KEPT_COLOUR) * gray)
    result[top:bottom, left:right] = (1 - strength) * under + strength * colours(heat)
    done = Image.fromarray(np.round(result).astype(np.uint8))
    if (left, top, right, bottom) != (0, 0, *image.size):
        _outline(done, (left, top, right, bottom))
    return done


def _outline(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """A light line just inside of what is seen, with a dark one inside of it: visible on any image."""
    from PIL import ImageDraw

    left, top, right, bottom = box
    draw = ImageDraw.Draw(image)
    thick = max(1, round(max(image.size) / 600))
    for inset, colour in ((thick, (0, 0, 0)), (0, (255, 255, 255))):
        if right - left > 4 * thick and bottom - top > 4 * thick:
            edges = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
            draw.rectangle(edges, outline=colour, width=thick)


def peak(values: Array, box: Box) -> tuple[float, float]:
    """(x, y) of the middle of the largest cell of a map (h, w) that lies over ``box``, in the same pixels."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    h, w = values.shape
    return (
        box.left + (column + 0.5) / w * (box.right - box.left),
        box.top + (row + 0.5) / h * (box.bottom - box.top),
    )


def legend() -> str:
    """The colours from little to much, as the stops of a CSS gradient."""
    return ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in STOPS)


def png(image: Image.Image) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def jpeg(image: Image.Image, side: int) -> bytes:
    """The image as a small file for a page, at most ``side`` pixels long."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=84)
    return buffer.getvalue()
