"""The evaluation preprocessings of the official code beside a model's own. Pillow and numpy only.

Each ends in a model's own size, mean and std; sizes other than 224 scale the resize with them, by 256/224.
Source: big_vision `evaluators/fewshot_lsr` with `pp/ops_image.py`, vit_jax `input_pipeline.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from vitkit.config import UserError, did_you_mean
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import MAX_PIXELS, Preprocess, load_input, normalise, open_picture
from vitkit.data.reference import central_view, squashed_view
from vitkit.data.resizing import central_crop, resize

__all__ = ["VIEWS", "check_view", "describe_view", "load_view"]

Array = np.ndarray[Any, Any]
MOST = 4  # channels whose mean and deviation are told
VIEWS = {
    "own": "the model's own: {size}, {fit}, {interpolation}, mean {mean}, std {std}",
    "fewshot": "big_vision's few-shot: the whole image bilinearly to {resized}, without antialiasing, the centre of {size}",
    "resize_small": "big_vision's: the short side to {small} by area, the centre of {size}",
    "squash": "vit_jax's: the whole image bilinearly to {size}, without antialiasing",
}


def check_view(view: str, record: Preprocess) -> None:
    """Check that a model's images can be prepared so.

    Raises:
        UserError: no such preprocessing, or one for RGB images and a model of other channels.
    """
    if view not in VIEWS:
        raise UserError(f"--preprocess {view!r}; known: {', '.join(VIEWS)}.{did_you_mean(view, VIEWS)}")
    if view != "own" and record.channels != 3:
        raise UserError(f"--preprocess {view} is for RGB images, the model takes {record.channels} channels; use own.")


def describe_view(view: str, record: Preprocess) -> str:
    """What is done, in words."""
    size, resized = record.image_size, _before(record.image_size)
    words = {name: f"{pair[0]} x {pair[1]}" for name, pair in (("size", size), ("resized", resized))}
    words["fit"] = f"crop of {record.crop_fraction:g}" if record.fit == "crop" else record.fit.replace("_", " ")
    words["interpolation"] = record.interpolation
    for name, values in (("mean", record.mean), ("std", record.std)):
        words[name] = " ".join(f"{v:.3g}" for v in values[:MOST]) + (" ..." if len(values) > MOST else "")
    return VIEWS[view].format(small=max(resized), **words)


def load_view(source: ImageSource, record: Preprocess, view: str = "own", max_pixels: int = MAX_PIXELS) -> Array:
    """A file to the model's input, float32 (H, W, C), in one of `VIEWS`.

    Raises:
        ImageError: as `open_picture`.
    """
    if view == "own":
        return load_input(source, record, max_pixels)
    image = open_picture(source, record.channels, max_pixels)
    assert isinstance(image, Image.Image)
    return normalise(_fit(image, record.image_size, view), record)


def _fit(image: Image.Image, size: tuple[int, int], view: str) -> Array:
    """uint8 (H, W, 3), or float32 in [0, 1]."""
    if view == "fewshot":
        return central_crop(resize(image, _before(size)), size)
    if view == "resize_small":
        return central_view(image, size, max(_before(size)))
    return squashed_view(image, size)


def _before(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) before the crop: 256 before 224."""
    return round(size[0] * 256 / 224), round(size[1] * 256 / 224)
