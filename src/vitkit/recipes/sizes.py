"""The sizes that a model trains and runs at after fine-tuning, and the model that is trained from random weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitkit.models.vit import ViTConfig

__all__ = ["SMALL_MODEL", "SMALL_SIDE", "is_small", "run_size", "scratch_config", "train_size"]

SMALLEST_CUT = 14  # patches a side; of fewer none are cut off for training
ENLARGED_UP_TO = 224  # pixels; models of larger images run at their own size
SMALL_SIDE = 16  # smaller images are enlarged to this before patches are cut
SMALL_MODEL = 64  # pixels; models of at most such images, such as `box`, are quick and run at the photos' size up to it
SMALL_GRID = 8  # patches a side that they have at the least


def run_size(config: ViTConfig, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size a pre-trained model runs at after fine-tuning: 8/7 of its own where the photos are larger, up to 224 pixels; a
    model of at most 64 pixels at the photos' own size up to that.

    Training stays as small as it was, see `train_size`. Chosen on training photos: docs/results/finetune-recipe.md; that of small
    models was not compared with others (docs/results/box.md).

    Args:
        config: the weights' own.
        sizes: (height, width) of the training images.
    """
    if is_small(config):
        h, w = (
            min(SMALL_MODEL, round(n)) // p * p
            for n, p in zip(np.median(sizes, axis=0), config.patch_size, strict=True)
        )
        side = max(min(h, w), max(config.image_size))
        return (side, side) if config.image_size[0] == config.image_size[1] else config.image_size
    if config.stem is not None or min(config.grid) < SMALLEST_CUT or max(config.image_size) > ENLARGED_UP_TO:
        return config.image_size
    h, w = (round(n * 8 / 7) * p for n, p in zip(config.grid, config.patch_size, strict=True))
    larger = np.median(np.array(sizes), axis=0) >= (h, w)
    return (h, w) if larger.all() else config.image_size


def train_size(config: ViTConfig) -> tuple[int, int]:
    """6/7 of the size that the model runs at, 3/4 of a small model's enlarged one: whole patches, at least 12 a side.

    Random crops show objects larger than they are at test time; training smaller evens that out (arXiv 1906.06423) and
    costs a third less.
    """
    grid = config.grid
    if is_small(config):
        h, w = (round(n * 3 / 4) * p for n, p in zip(grid, config.patch_size, strict=True))
        return h, w
    if min(grid) < SMALLEST_CUT or config.stem is not None:
        return config.image_size
    part = 3 / 4 if min(grid) >= 16 and max(config.image_size) <= ENLARGED_UP_TO * 8 / 7 else 6 / 7
    h, w = (round(n * part) * p for n, p in zip(grid, config.patch_size, strict=True))
    return h, w


def is_small(config: ViTConfig) -> bool:
    """Is it a model of small images? It is quick, so that many more of them can be looked at, and needs to, since it knows less."""
    return config.stem is None and max(config.image_size) <= SMALL_MODEL and min(config.grid) >= SMALL_GRID


def scratch_config(
    sizes: Sequence[tuple[int, int]], image_size: tuple[int, int] | None, num_classes: int, channels: int = 3
) -> ViTConfig:
    """A small model for training from random weights, its width chosen by the number of images.

    Args:
        sizes: (height, width) of the training images.
        image_size: the size to run at; None takes the images' own, between 16 and 64 pixels.
        num_classes: classes.
        channels: of the images.
    """
    if image_size is None:
        side = int(np.median(np.min(np.array(sizes), axis=1)))
        side = min(max(side, SMALL_SIDE), 64)
        image_size = (side, side)
    patch = min(max(4, round(min(image_size) / 8)), *image_size)  # about 8 x 8 patches
    embed_dim, depth, num_heads = (
        (64, 4, 2) if len(sizes) < 5_000 else (128, 6, 4) if len(sizes) < 25_000 else (192, 9, 6)
    )
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_dim=2 * embed_dim,
        patch_size=(patch, patch),
        image_size=(image_size[0] // patch * patch, image_size[1] // patch * patch),
        in_channels=channels,
        num_classes=num_classes,
        pool="mean",
        cls_token=False,
    )
