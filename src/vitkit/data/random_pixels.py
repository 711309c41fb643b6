"""Images of random pixels, where there are no others: to warm an engine, to time it, to compare it with another."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vitkit.data.pixels import Preprocess, normalise, to_planes

__all__ = ["random_images"]

Array = np.ndarray


def random_images(record: Preprocess, count: int) -> Array:
    """Normalised images (count, C, H, W) of random pixels: patches of colour, so that tokens differ, and noise."""
    rng, (H, W), C = np.random.default_rng(0), record.image_size, record.channels
    made = []
    for number in range(count):
        coarse = rng.integers(0, 256, (2 + number % 7, 2 + number % 5, C), np.uint8)
        planes = [
            np.asarray(Image.fromarray(coarse[..., c]).resize((W, H), Image.Resampling.BILINEAR)) for c in range(C)
        ]
        noisy = np.stack(planes, axis=-1).astype(np.int16) + rng.integers(-20, 21, (H, W, C))
        pixels = noisy.clip(0, 255).astype(np.uint8)
        made.append(to_planes(normalise(pixels if C == 3 else pixels.astype(np.float32) / 255, record)))
    return np.stack(made)
