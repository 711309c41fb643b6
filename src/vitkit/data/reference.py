"""Training and evaluation views with the numerics of the reference code, big_vision and vit_jax. Pillow and numpy only.

A view is uint8 (H, W, 3), or float32 in [0, 1], as `pixels.normalise` takes it. Images must come in their full size: what shrinks
them first changes the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vitkit.config import UserError, did_you_mean
from vitkit.data.erasing import Erase, erase, rising_pair
from vitkit.data.inception import AREA, ASPECT, inception_crop
from vitkit.data.pixels import Picture, Preprocess
from vitkit.data.randaugment import check_randaugment, randaugment
from vitkit.data.resizing import (
    as_picture,
    central_window,
    random_crop,
    random_window,
    resize,
    resize_bilinear,
    resize_small,
    small_size,
)

__all__ = ["CROPS", "ReferenceAugment", "central_view", "reference_view", "squashed_view"]

Array = np.ndarray[Any, Any]
CROPS = ("inception", "resmall_crop", "resize_crop", "none")


@dataclass(frozen=True)
class ReferenceAugment:
    """How a training view is made: crop, mirror, RandAugment, erase, in this order. Callable as `reference_view`.

    Defaults are big_vision's pre-training without RandAugment; vit_jax's is ``cast=False``.
    """

    crop: str = (
        "inception"  # inception: drawn box, resized | resmall_crop: short side to `resize`, by area, random crop |
    )
    # resize_crop: squashed to a square of `resize`, random crop | none: the whole image, squashed to the size
    resize: int = 448  # pixels, for resmall_crop and resize_crop: 448 before a crop of 384
    area: tuple[float, float] = AREA  # inception: part of the image's area
    aspect: tuple[float, float] = ASPECT  # inception: width / height
    flip: bool = True  # mirrored left to right with probability 0.5
    layers: int = 0  # of RandAugment; 0: off
    magnitude: float = 0  # of RandAugment
    cast: bool = True  # to uint8 after resizing, truncated, as big_vision; False: float32, as vit_jax
    erase: float = 0.0  # probability of random erasing, which makes every view float32; what follows as in `Erase`
    erase_mode: str = "const"
    erase_area: tuple[float, float] = Erase.area
    erase_count: tuple[int, int] = Erase.count

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"crop is {self.crop!r}; known: {', '.join(CROPS)}.{did_you_mean(self.crop, CROPS)}")
        if type(self.resize) is not int or self.resize < 1:
            raise UserError(f"resize must be a positive number of pixels, got {self.resize!r}.")
        for name in ("area", "aspect", "erase_area", "erase_count"):
            object.__setattr__(self, name, rising_pair(name, getattr(self, name)))
        if self.area[1] > 1:
            raise UserError(f"area is of parts of the image, at most 1, got {self.area[1]}.")
        _ = self.erasing  # raises
        check_randaugment(self.layers, self.magnitude)
        if self.magnitude and not self.layers:
            raise UserError(
                f"RandAugment's magnitude {self.magnitude:g} does nothing with layers 0; set layers, usually 2."
            )
        if not self.cast and (self.layers or self.crop == "resmall_crop"):
            what = "RandAugment" if self.layers else "crop resmall_crop"
            raise UserError(f"{what} gives uint8 images and cannot be had with cast=False; leave cast at its default.")

    @property
    def erasing(self) -> Erase:
        """The settings of random erasing."""
        return Erase(self.erase, self.erase_area, mode=self.erase_mode, count=self.erase_count)

    @property
    def whole(self) -> bool:
        """Images must come in their full size: what shrinks them first changes the numbers."""
        return True

    def __call__(self, image: Picture, record: Preprocess, rng: np.random.Generator) -> Array:
        """One view: `reference_view`."""
        return reference_view(image, record, self, rng)


def reference_view(image: Picture, record: Preprocess, augment: ReferenceAugment, rng: np.random.Generator) -> Array:
    """An upright RGB image to one random view (H, W, 3) of the record's size.

    uint8; with ``cast`` False or erasing on, float32 in [0, 1] (what is erased with noise may lie outside). The record's fit
    and interpolation have no say.

    Raises:
        UserError: an image that is not RGB; a crop larger than what it is cut from.
    """
    picture = _rgb(image)
    pixels = _cropped(picture, record.image_size, augment, rng)
    if augment.flip and rng.random() < 0.5:
        pixels = _mirrored(pixels)
    if augment.layers:
        pixels = randaugment(pixels, augment.layers, augment.magnitude, rng)
    if not augment.erase:
        return pixels if augment.cast else _unit(pixels)
    mean, std = np.array(record.mean), np.array(record.std)
    return erase(_unit(pixels), augment.erasing, mean, std, rng)


def _cropped(picture: Image.Image, size: tuple[int, int], augment: ReferenceAugment, rng: np.random.Generator) -> Array:
    """(H, W, 3) uint8 or, without ``cast``, float32 in [0, 255]."""
    if augment.crop == "inception":
        return inception_crop(picture, size, rng, cast=augment.cast, area=augment.area, aspect=augment.aspect)
    scaled = resize if augment.cast else resize_bilinear
    if augment.crop == "none":
        return scaled(picture, size)
    if augment.resize < max(size):
        raise UserError(
            f"crop {augment.crop} cuts {size[0]} x {size[1]} pixels (height x width) out of an image resized to "
            f"{augment.resize}; set resize to at least {max(size)}."
        )
    if augment.crop == "resmall_crop":
        whole = small_size((picture.height, picture.width), augment.resize)
        return resize_small(picture, augment.resize, random_window(whole, size, rng))
    return np.ascontiguousarray(random_crop(scaled(picture, (augment.resize, augment.resize)), size, rng))


def _mirrored(pixels: Array) -> Array:
    """Left to right."""
    if pixels.dtype != np.uint8:
        return np.ascontiguousarray(pixels[:, ::-1])
    return np.asarray(Image.fromarray(pixels).transpose(Image.Transpose.FLIP_LEFT_RIGHT))  # several times as fast


def central_view(image: Image.Image | Array, size: tuple[int, int], small: int) -> Array:
    """big_vision's evaluation: short side to ``small`` by area, centre of ``size`` (height, width); uint8 (H, W, 3).

    256 and 224 in pre-training, 448 and 384 in transfer.

    Raises:
        UserError: an image that is not RGB; ``small`` below the size.
    """
    picture = as_picture(image)
    window = central_window(small_size((picture.height, picture.width), small), size)
    return resize_small(picture, small, window)


def squashed_view(image: Image.Image | Array, size: tuple[int, int]) -> Array:
    """vit_jax's evaluation: the whole image bilinearly to ``size`` (height, width), aspect lost; float32 in [0, 1]."""
    return _unit(resize_bilinear(image, size))


def _unit(pixels: Array) -> Array:
    """To [0, 1]; overwrites float32."""
    unit = pixels.astype(np.float32, copy=False)
    unit /= np.float32(255)
    return unit


def _rgb(image: Picture) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise UserError("the reference's augmentation is for RGB images; use the other one with --channels.")
    return as_picture(image)
