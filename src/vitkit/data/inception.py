"""The inception crop as TensorFlow draws it: tf.image.sample_distorted_bounding_box, then a resize. Pillow and numpy only.

Not torchvision's RandomResizedCrop: here the aspect ratio is uniform and then the height, so that the mean area is about 0.34 to
0.38 of the image instead of 0.53; and a crop smaller than the image never reaches its last row or column.
Source: arXiv 1409.4842, section 6; tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from vitkit.data.resizing import CropBox, as_picture, resize, resize_bilinear

__all__ = ["AREA", "ASPECT", "ATTEMPTS", "inception_box", "inception_crop"]

Array = np.ndarray[Any, Any]
AREA, ASPECT, ATTEMPTS = (0.05, 1.0), (0.75, 1.33), 100  # of both reference code bases


def inception_box(
    rng: np.random.Generator,
    size: tuple[int, int],
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
    attempts: int = ATTEMPTS,
) -> CropBox:
    """Draw a crop of an image of ``size`` (height, width); ``area`` is of the image's, ``aspect`` is width / height.

    The whole image where no attempt fits.
    """
    height, width = size
    least, most = area[0] * width * height, area[1] * width * height
    for _ in range(attempts):
        found = _crop_size(rng, size, least, most, rng.uniform(*aspect))
        if found:
            h, w = found
            top = int(rng.integers(height - h)) if h < height else 0
            left = int(rng.integers(width - w)) if w < width else 0
            return CropBox(top, left, h, w)
    return CropBox(0, 0, height, width)


def _crop_size(
    rng: np.random.Generator, size: tuple[int, int], least: float, most: float, aspect: float
) -> tuple[int, int] | None:
    """(height, width) of an area from ``least`` to ``most`` pixels, None where there is none. `round` is half to even."""
    height, width = size
    tallest = round(math.sqrt(most / aspect))
    if round(tallest * aspect) > width:
        tallest = int((width + 0.5 - 1e-7) / aspect)
        if round(tallest * aspect) > width:
            tallest -= 1
    tallest = min(tallest, height)
    shortest = min(round(math.sqrt(least / aspect)), tallest)
    h = shortest + (int(rng.integers(tallest - shortest + 1)) if shortest < tallest else 0)
    w = round(h * aspect)
    if w * h < least:  # rounding may have left the range by a pixel
        h += 1
        w = round(h * aspect)
    if w * h > most:
        h -= 1
        w = round(h * aspect)
    fits = least <= w * h <= most and 0 < h <= height and 0 < w <= width
    return (h, w) if fits else None


def inception_crop(
    image: Image.Image | Array,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    cast: bool = True,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
) -> Array:
    """A drawn piece of an RGB image, resized bilinearly without antialiasing to ``size`` (height, width), (H, W, 3).

    uint8, truncated, with ``cast`` as in big_vision; else float32 in [0, 255] as in vit_jax.
    """
    picture = as_picture(image)
    box = inception_box(rng, (picture.height, picture.width), area, aspect)
    piece = picture.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return resize(piece, size) if cast else resize_bilinear(piece, size)
