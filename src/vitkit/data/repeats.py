"""Repeated augmentation: each image several times in a batch, every time with other random changes. numpy only.

Source: arXiv 1901.09335, section 3.2 (batches of B / r different images, each r times); DeiT trains with r = 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vitkit.config import UserError

__all__ = ["ViewKey", "check_repeats", "repeated_keys", "view_generator"]


class ViewKey(NamedTuple):
    """Which view: the random changes are a function of the seed and these."""

    epoch: int  # passes over the data begun before
    image: int  # its index
    copy: int  # 0 .. repeats - 1


def check_repeats(batch_size: int, repeats: int) -> None:
    """Raise where batches cannot hold each image so often.

    Raises:
        UserError: repeats below 1, or that do not divide the batch.
    """
    if type(repeats) is not int or repeats < 1:
        raise UserError(f"repeats must be a positive integer, got {repeats!r}.")
    if batch_size % repeats:
        raise UserError(
            f"a batch of {batch_size} cannot hold each image {repeats} times; choose a batch_size that {repeats} divides."
        )


def repeated_keys(
    length: int, batch_size: int, steps: range, seed: int, repeats: int = 1
) -> Iterator[tuple[ViewKey, ...]]:
    """The global batch of each of ``steps``: B / r images in shuffled order, then the same images again, r times in all.

    Copies of an image are B / r places apart: ranks that take consecutive parts get different copies, and mixing neighbours
    (`mixing`) mixes different images. An epoch takes r times as many steps as without. With ``repeats`` 1 it is the plain
    shuffled order.

    Raises:
        UserError: as `check_repeats`; no images.
    """
    check_repeats(batch_size, repeats)
    if length < 1:
        raise UserError("there are no images to draw batches from.")
    epoch, order = -1, np.empty(0, np.int64)
    distinct = batch_size // repeats
    for step in steps:
        images = []
        for place in range(step * distinct, (step + 1) * distinct):
            if place // length != epoch:
                epoch = place // length
                order = np.random.default_rng([seed, epoch]).permutation(length)
            images.append((epoch, int(order[place % length])))
        yield tuple(ViewKey(*image, copy) for copy in range(repeats) for image in images)


def view_generator(seed: int, key: ViewKey) -> np.random.Generator:
    """The generator of one view; that of copy 0 is ``default_rng([seed, epoch, index])``, which numpy pads with zeros."""
    return np.random.default_rng([seed, key.epoch, key.image, key.copy])
