"""Do mirrored images keep their class? Asked of the pixels, since a backbone that was trained with mirrored views cannot tell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from vitkit.data.loader import spare_cores
from vitkit.data.pixels import ImageError, Preprocess, fit_image, normalise, open_image
from vitkit.data.samples import Sample
from vitkit.evals.fewshot import fewshot_scores

__all__ = ["Mirrored", "mirror_pixels"]

SIDE = 12  # pixels that images are reduced to
MOST = 1_000  # training images, and validation images, that are looked at
SURE = 0.01  # that so many answers would be lost by chance


class Mirrored(NamedTuple):
    """What a linear rule on tiny pictures gets right of validation images, and of the same mirrored."""

    right: float
    mirrored: float
    matters: bool  # far fewer: on which side things are tells the class


def mirror_pixels(
    training: Sequence[Sample], val: Sequence[Sample], classes: int, record: Preprocess, max_pixels: int
) -> Mirrored | None:
    """Fit on training images, score validation images and their mirror images; None where a file cannot be read any more.

    Photographs of things lose nothing, digits and letters nearly all. One image counts once, whatever the order.
    """
    small = dataclasses.replace(record, image_size=(SIDE, SIDE))

    def read(sample: Sample) -> np.ndarray:
        return normalise(np.asarray(fit_image(open_image(sample.source, max_pixels), small)), small)

    training, val = _spread(training), _spread(val)
    try:
        with ThreadPoolExecutor(max(1, spare_cores())) as pool:
            x, x_val = (np.stack(list(pool.map(read, samples))) for samples in (training, val))
    except ImageError:
        return None
    y, y_val = (np.array([sample.label for sample in samples]) for samples in (training, val))
    both = np.concatenate([x_val, x_val[:, :, ::-1]]).reshape(2 * len(val), -1)
    tensors = [torch.from_numpy(np.ascontiguousarray(each, np.float32)) for each in (x.reshape(len(x), -1), both)]
    answers = fewshot_scores(tensors[0], torch.from_numpy(y), classes, tensors[1]).argmax(1).numpy()
    right, mirrored = answers[: len(val)] == y_val, answers[len(val) :] == y_val
    lost, won = int((right & ~mirrored).sum()), int((~right & mirrored).sum())
    return Mirrored(float(right.mean()), float(mirrored.mean()), _at_least(lost, lost + won) < SURE)


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    every = -(-len(samples) // MOST)
    return list(samples[::every]) if every > 1 else list(samples)


def _at_least(count: int, throws: int) -> float:
    """Probability of at least ``count`` heads in ``throws`` of a fair coin."""
    return sum(math.comb(throws, k) for k in range(count, throws + 1)) / 2**throws
