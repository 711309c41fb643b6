"""Mixing the images and labels of a batch: mixup and cutmix, one draw a step, over the global batch.

Each image is mixed with the one before it in the global batch (the first with the last). What a step draws is a function of
(seed, step), so that results do not depend on how ranks or microbatches cut the batch: a part of it brings along the one image
before it (`mix_part`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vitkit.config import UserError

__all__ = ["Mix", "Mixing", "cut_box", "draw_mix", "mix_batch", "mix_part", "one_hot", "part_with_neighbour"]

STREAM = 0x6D697800  # keeps these draws apart from those of images, whose generators are made of (seed, epoch, index)


@dataclass(frozen=True)
class Mixing:
    """Which mixing a run uses; all off by default."""

    mixup: float = 0.0  # p of Beta(p, p), arXiv 1710.09412; 0: off
    cutmix: float = 0.0  # alpha of Beta(alpha, alpha), arXiv 1905.04899; 0: off
    switch: float = 0.5  # with both: probability of cutmix
    probability: float = 1.0  # that a step mixes at all

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be 0 (off) or a positive number, got {getattr(self, name)}.")
        for name in ("switch", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} of mixing must be in [0, 1], got {getattr(self, name)}.")

    @property
    def on(self) -> bool:
        """Whether any step mixes, and targets must be soft."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


class Mix(NamedTuple):
    """What one step does to all its images."""

    weight: float  # of each image's own label; the rest is the neighbour's
    box: tuple[int, int, int, int] | None = (
        None  # (top, left, bottom, right) of cutmix that shows the neighbour; None: mixup
    )


def draw_mix(mixing: Mixing, image_size: tuple[int, int], seed: int, step: int) -> Mix | None:
    """What ``step`` mixes, of images of ``image_size`` (H, W); None: nothing.

    mixup: a ~ Beta(p, p), the image weighs max(a, 1 - a) (big_vision). cutmix: a box of sides sqrt(1 - a) of the image's,
    its centre anywhere, cut at the borders; the label weighs what remains visible, exactly.
    """
    if not mixing.on:
        return None
    rng = np.random.default_rng([seed, step, STREAM])
    if rng.random() >= mixing.probability:
        return None
    use_cutmix = mixing.cutmix > 0 and (mixing.mixup == 0 or rng.random() < mixing.switch)
    if not use_cutmix:
        weight = float(rng.beta(mixing.mixup, mixing.mixup))
        return Mix(max(weight, 1 - weight))
    H, W = image_size
    side = math.sqrt(1 - float(rng.beta(mixing.cutmix, mixing.cutmix)))
    box = cut_box(image_size, (int(H * side), int(W * side)), (int(rng.integers(H)), int(rng.integers(W))))
    return Mix(1 - (box[2] - box[0]) * (box[3] - box[1]) / (H * W), box)


def cut_box(size: tuple[int, int], sides: tuple[int, int], center: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a box of ``sides`` around ``center``, cut at the borders; all (vertical, horizontal)."""
    starts = [c - side // 2 for c, side in zip(center, sides, strict=True)]
    ends = [start + side for start, side in zip(starts, sides, strict=True)]
    top, left = (max(0, start) for start in starts)
    bottom, right = (min(n, end) for n, end in zip(size, ends, strict=True))
    return top, left, bottom, right


def one_hot(labels: Tensor, outputs: int) -> Tensor:
    """Class indices (B,) to soft targets (B, O) float32; targets (B, O) as they are, in float32."""
    return labels.float() if labels.ndim == 2 else F.one_hot(labels, outputs).float()


def mix_batch(images: Tensor, targets: Tensor, mix: Mix | None) -> tuple[Tensor, Tensor]:
    """Mix a whole global batch: images (B, C, H, W) float, targets (B, O) float.

    Raises:
        UserError: targets that are class indices, which cannot be mixed.
    """
    _check_soft(targets)
    if mix is None:
        return images, targets
    around = [-1, *range(len(images))]
    return mix_part(images[around], targets[around], mix)


def mix_part(images: Tensor, targets: Tensor, mix: Mix | None) -> tuple[Tensor, Tensor]:
    """Mix part of a global batch: images (1 + n, C, H, W) and targets (1 + n, O), the first only lent as a neighbour.

    Returns:
        n images and targets, the same as `mix_batch` gives these places. Computed in the images' dtype.

    Raises:
        UserError: targets that are class indices, which cannot be mixed.
    """
    _check_soft(targets)
    if mix is None:
        return images[1:], targets[1:]
    labels = _weighted(targets, mix.weight)
    if mix.box is None:
        return _weighted(images, mix.weight), labels
    top, left, bottom, right = mix.box
    pasted = images[1:].clone()
    pasted[..., top:bottom, left:right] = images[:-1, ..., top:bottom, left:right]
    return pasted, labels


def _check_soft(targets: Tensor) -> None:
    if not targets.is_floating_point() or targets.ndim != 2:
        found = f"{targets.dtype} of {tuple(targets.shape)}"
        raise UserError(f"mixing needs soft targets of shape (images, classes), got {found}; see `one_hot`.")


def _weighted(values: Tensor, weight: float) -> Tensor:
    return weight * values[1:] + (1 - weight) * values[:-1]


def part_with_neighbour(batch_size: int, start: int, stop: int) -> list[int]:
    """Places in the global batch that a part ``start`` .. ``stop`` - 1 needs for `mix_part`, the neighbour first."""
    if not 0 <= start < stop <= batch_size:
        raise UserError(f"places {start} to {stop} are no part of a batch of {batch_size}.")
    return [(start - 1) % batch_size, *range(start, stop)]
