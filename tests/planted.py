"""Pictures that look like photographs to a hash, and copies of them: what tests of the audit plant."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["jpeg", "png", "scene"]


def scene(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A smooth random picture of (height, width), unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image, quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
