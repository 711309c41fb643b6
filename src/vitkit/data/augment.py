"""Random views of a training image. Every draw comes from the generator passed in. Pillow and numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from vitkit.config import UserError
from vitkit.data.pixels import INTERPOLATIONS, Bands, Picture, Preprocess, fit_image, picture_of

__all__ = ["Augment", "augment_image", "crop_box"]


@dataclass(frozen=True)
class Augment:
    """Which random changes a training image goes through; all off by default."""

    crop_area: float = 1.0  # smallest part of the image's area that a random crop keeps; 1: no random crop
    crop_aspect: float = 4 / 3  # a crop's aspect ratio is drawn from [1 / this, this], relative to the model's
    flip: bool = False  # mirrored left to right with probability 0.5
    jitter: float = 0.0  # brightness, contrast and saturation factors drawn from [1 - this, 1 + this]
    shift: float = 0.0  # whole image moved by up to this part of its size, edges repeated

    def __post_init__(self) -> None:
        if not 0 < self.crop_area <= 1 or self.crop_aspect < 1:
            raise UserError("crop_area must be in (0, 1] and crop_aspect at least 1.")
        if not 0 <= self.jitter < 1 or not 0 <= self.shift < 1:
            raise UserError("jitter and shift must be in [0, 1).")

    @property
    def whole(self) -> bool:
        """Images may be shrunk first: views are resized with antialiasing."""
        return False

    def __call__(self, image: Picture, record: Preprocess, rng: np.random.Generator) -> np.ndarray:
        """One view: `augment_image`."""
        return augment_image(image, record, self, rng)


def crop_box(
    rng: np.random.Generator, size: tuple[int, int], target_aspect: float, augment: Augment
) -> tuple[float, float, float, float]:
    """Draw a crop (left, top, right, bottom) of an image of ``size`` (width, height): area uniform, aspect log-uniform.

    Source: arXiv 1409.4842, section 6 (inception crop), with ten tries and then the largest centre crop.
    """
    width, height = size
    limit = math.log(augment.crop_aspect)
    for _ in range(10):
        area = width * height * rng.uniform(augment.crop_area, 1)
        aspect = target_aspect * math.exp(rng.uniform(-limit, limit))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * target_aspect), min(height, width / target_aspect)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def augment_image(image: Picture, record: Preprocess, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """An upright image to one random view (H, W, C) of the record's size, uint8 of RGB and float32 of `Bands`.

    Raises:
        UserError: jitter, which changes the colours of RGB images, asked of other channels.
    """
    if augment.jitter and isinstance(image, Bands):
        raise UserError(f"jitter {augment.jitter:g} changes colours of RGB images; leave it at 0 with --channels.")
    H, W = record.image_size
    filter_ = INTERPOLATIONS[record.interpolation]
    if augment.crop_area < 1:
        whole = record.fit != "crop"  # whole-image fits distort or pad first, and crop from that
        source = picture_of(fit_image(image, record)) if record.fit == "pad" else image
        aspect = source.size[0] / source.size[1] if whole else W / H
        image = source.resize((W, H), filter_, box=crop_box(rng, source.size, aspect, augment))
    else:
        image = picture_of(fit_image(image, record))
    if augment.shift:
        image = _shift(image, augment.shift, rng)
    if augment.flip and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augment.jitter and isinstance(image, Image.Image):
        low, high = 1 - augment.jitter, 1 + augment.jitter
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(rng.uniform(low, high))
    return _array(image)


def _array(image: Picture) -> np.ndarray:
    return image.array() if isinstance(image, Bands) else np.asarray(image)


def _shift(image: Picture, part: float, rng: np.random.Generator) -> Picture:
    """Move by a uniform, possibly fractional offset; what comes in from outside repeats the edge."""
    pixels = _array(image)
    pad_y, pad_x = (math.ceil(part * n) + 1 for n in pixels.shape[:2])
    padded = picture_of(np.pad(pixels, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="edge"))
    left = pad_x + rng.uniform(-part, part) * image.width
    top = pad_y + rng.uniform(-part, part) * image.height
    return padded.resize(image.size, Image.Resampling.BILINEAR, box=(left, top, left + image.width, top + image.height))
