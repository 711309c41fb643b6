"""Random erasing: a rectangle of a view replaced by noise or by the mean colour. numpy only.

Source: arXiv 1708.04896, algorithm 1, with timm's parameters and order of draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitkit.config import UserError, did_you_mean

__all__ = ["ERASE_MODES", "Erase", "erase", "rising_pair"]

Array = np.ndarray[Any, Any]
ERASE_MODES = ("const", "rand", "pixel")
ATTEMPTS = 10


@dataclass(frozen=True)
class Erase:
    """How often, how much and with what; defaults are timm's but for the probability, which is 0 (off)."""

    probability: float = 0.0
    area: tuple[float, float] = (0.02, 1 / 3)  # of the image's, all rectangles together
    aspect: tuple[float, float] = (0.3, 1 / 0.3)  # height / width, drawn log-uniformly
    mode: str = "const"  # const: the mean colour | rand: one normal colour | pixel: normal noise; of the model's input
    count: tuple[int, int] = (1, 1)  # rectangles, drawn uniformly from this range

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"the probability to erase must be in [0, 1], got {self.probability}.")
        if self.mode not in ERASE_MODES:
            known = ", ".join(ERASE_MODES)
            raise UserError(f"erase_mode is {self.mode!r}; known: {known}.{did_you_mean(self.mode, ERASE_MODES)}")
        for name in ("area", "aspect", "count"):
            object.__setattr__(self, name, rising_pair(f"erase_{name}", getattr(self, name)))
        if self.area[1] > 1:
            raise UserError(f"erase_area is of parts of the image, at most 1, got {self.area[1]}.")
        if not all(type(n) is int for n in self.count):
            raise UserError(f"erase_count must be two whole numbers, got {self.count}.")


def rising_pair(name: str, values: object) -> tuple[float, float]:
    """Two positive numbers, the smaller first, as a tuple.

    Raises:
        UserError: anything else.
    """
    if isinstance(values, tuple | list) and len(values) == 2 and all(isinstance(v, int | float) for v in values):
        low, high = values
        if 0 < low <= high < math.inf:
            return low, high
    raise UserError(f"{name} must be two positive numbers, the smaller first, got {values!r}.")


def erase(pixels: Array, how: Erase, mean: Array, std: Array, rng: np.random.Generator) -> Array:
    """Erase from a view (H, W, C), float32, in units where the model's input is (pixels - mean) / std; overwrites it.

    What is erased is 0 (const) or standard normal (rand, pixel) to the model. A rectangle that does not fit into the image in
    ten attempts is left out.
    """
    if not how.probability or rng.random() >= how.probability:
        return pixels
    H, W, C = pixels.shape
    count = int(rng.integers(how.count[0], how.count[1] + 1))
    for _ in range(count):
        box = _box(rng, (H, W), how, count)
        if box is None:
            continue
        top, left, h, w = box
        shape = {"const": (0, 0, C), "rand": (1, 1, C), "pixel": (h, w, C)}[how.mode]
        noise = rng.standard_normal(shape, np.float32) if how.mode != "const" else np.zeros((1, 1, C), np.float32)
        pixels[top : top + h, left : left + w] = np.asarray(mean, np.float32) + np.asarray(std, np.float32) * noise
    return pixels


def _box(rng: np.random.Generator, size: tuple[int, int], how: Erase, count: int) -> tuple[int, int, int, int] | None:
    """(top, left, height, width)."""
    H, W = size
    for _ in range(ATTEMPTS):
        area = rng.uniform(*how.area) * H * W / count
        aspect = math.exp(rng.uniform(math.log(how.aspect[0]), math.log(how.aspect[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < H and w < W:
            return int(rng.integers(H - h + 1)), int(rng.integers(W - w + 1)), h, w
    return None
