"""The fine-tuning recipe, chosen from images per class, model and resolution.

The numbers were chosen on training photos of shared sets, but for stochastic depth, which was kept with test figures in sight; all
settings tried, their values and that story are in docs/results/finetune-recipe.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitkit.config import UserError, from_dict
from vitkit.data.augment import Augment
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig
from vitkit.optim import DECAYS, OptimConfig
from vitkit.planning import read_train_config
from vitkit.train import TrainConfig, best_blocks, best_precision

__all__ = [
    "SMALL_MODEL",
    "FinetuneRecipe",
    "Plan",
    "choose_recipe",
    "run_size",
    "scratch_config",
    "train_config",
    "validation_fraction",
]

MULTILABEL_CROP = 0.5  # of the area, at the least
SMALLEST_CUT = 14  # patches a side; of fewer none are cut off for training
ENLARGED_UP_TO = 224  # pixels; models of larger images run at their own size
SMALL_SIDE = 16  # smaller images are enlarged to this before patches are cut
SMALL_MODEL = 64  # pixels; models of at most such images, such as `box`, are quick and run at the photos' size up to it
SMALL_GRID = 8  # patches a side that they have at the least


@dataclass(frozen=True)
class FinetuneRecipe:
    """What ``--set name=value`` may change; stored with the run."""

    epochs: float
    batch_size: int
    lr: float
    layer_decay: float
    weight_decay: float
    warmup: float  # part of the steps
    decay: str  # cosine | linear | constant
    smoothing: float
    drop_path: float
    ema: float
    crop_area: float  # smallest part of an image that a training crop keeps
    flip: bool  # allowed; the run turns it off where mirrored images change class
    jitter: float
    shift: float
    train_size: tuple[int, int]  # (H, W) trained at; the released model runs at the model's image size
    evaluations: int  # on the validation part, evenly spread
    patience: int  # evaluations in a row that are significantly below the best before stopping

    def __post_init__(self) -> None:
        size = self.train_size
        object.__setattr__(self, "train_size", (size, size) if isinstance(size, int) else tuple(size))
        if min(self.epochs, self.batch_size, self.evaluations) <= 0 or self.patience < 0:
            raise UserError("epochs, batch_size and evaluations must be above 0, patience must not be negative.")
        if self.lr < 0 or self.weight_decay < 0 or not 0 < self.layer_decay <= 1:
            raise UserError("lr and weight_decay must not be negative, layer_decay must be in (0, 1].")
        for name in ("warmup", "smoothing", "drop_path", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.decay not in DECAYS:
            raise UserError(f"decay is {self.decay!r}; known: {', '.join(DECAYS)}.")
        if len(self.train_size) != 2 or min(self.train_size) < 1:
            raise UserError(f"train_size must be one or two positive integers, got {size!r}.")


def validation_fraction(images_per_class: float) -> float:
    """Part of a set without validation split that is held out: less where photos are few and each one teaches much."""
    return 0.1 if images_per_class < 50 else 0.2


def choose_recipe(
    *, images: int, config: ViTConfig, pretrained: bool, train: str, upscaled: bool, multilabel: bool = False
) -> FinetuneRecipe:
    """Choose the recipe.

    Args:
        images: training images.
        config: the model at the size it will run at.
        pretrained: weights were given, as opposed to a random start.
        train: all | head | lora.
        upscaled: the images are smaller than the model's size, so that random crops would only blur them.
        multilabel: an image may have any number of classes.
    """
    if multilabel:
        one = choose_recipe(images=images, config=config, pretrained=pretrained, train=train, upscaled=upscaled)
        # A crop may cut away what a label names. Smoothing towards 0.5 would lift every rare class above its frequency.
        # Reasons, not proofs: single runs, docs/results/finetune-recipe.md, tell these settings from others by no margin.
        return dataclasses.replace(one, crop_area=max(one.crop_area, MULTILABEL_CROP), smoothing=0.0)
    if train not in ("all", "head", "lora"):
        raise UserError(f"--train is {train!r}; known: all, head, lora.")
    if not pretrained:
        return _scratch_recipe(images, config)
    frozen = train != "all"
    if _is_small(config) and not frozen:
        return _small_recipe(images, config, upscaled)
    batch_size = 32 if images < 2_000 else 64 if images < 20_000 else 128
    return FinetuneRecipe(
        epochs=min(30.0, max(3.0, 6_300 / images)),
        batch_size=batch_size,
        lr=2e-3 if frozen else 5e-4,
        layer_decay=1.0 if frozen else 0.75,
        weight_decay=0.05,
        warmup=0.1,
        decay="cosine",
        smoothing=0.1,
        drop_path=0.1 if train == "all" else 0.0,
        ema=0.0,
        crop_area=0.5 if upscaled else 0.25,
        flip=True,
        jitter=0.0,
        shift=0.0,
        train_size=_train_size(config),
        evaluations=8,
        patience=5,
    )


def run_size(config: ViTConfig, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size a pre-trained model runs at after fine-tuning: 8/7 of its own where the photos are larger, up to 224 pixels; a
    model of at most 64 pixels at the photos' own size up to that.

    Training stays as small as it was, see `_train_size`. Chosen on training photos: docs/results/finetune-recipe.md; that of small
    models was not compared with others (docs/results/box.md).

    Args:
        config: the weights' own.
        sizes: (height, width) of the training images.
    """
    if _is_small(config):
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


def _train_size(config: ViTConfig) -> tuple[int, int]:
    """6/7 of the size that the model runs at, 3/4 of a small model's enlarged one: whole patches, at least 12 a side.

    Random crops show objects larger than they are at test time; training smaller evens that out (arXiv 1906.06423) and
    costs a third less.
    """
    grid = config.grid
    if _is_small(config):
        h, w = (round(n * 3 / 4) * p for n, p in zip(grid, config.patch_size, strict=True))
        return h, w
    if min(grid) < SMALLEST_CUT or config.stem is not None:
        return config.image_size
    part = 3 / 4 if min(grid) >= 16 and max(config.image_size) <= ENLARGED_UP_TO * 8 / 7 else 6 / 7
    h, w = (round(n * part) * p for n, p in zip(grid, config.patch_size, strict=True))
    return h, w


def _is_small(config: ViTConfig) -> bool:
    """Is it a model of small images? It is quick, so that many more of them can be looked at, and needs to, since it knows less."""
    return config.stem is None and max(config.image_size) <= SMALL_MODEL and min(config.grid) >= SMALL_GRID


def _small_recipe(images: int, config: ViTConfig, upscaled: bool) -> FinetuneRecipe:
    """From a small pre-trained model. Rate and layer decay were chosen on training images of three sets: docs/results/box.md.

    Larger views are seen less often, down to what other models see, so that a run takes about as long at every size.
    """
    h, w = (n // p for n, p in zip(_train_size(config), config.patch_size, strict=True))
    seen = min(25_000.0, max(6_300.0, 25_000 * 36 / (h * w)))
    return FinetuneRecipe(
        epochs=min(100.0, max(3.0, seen / images)),
        batch_size=32 if images < 500 else 64 if images < 20_000 else 128,
        lr=2e-3,
        layer_decay=0.85,
        weight_decay=0.05,
        warmup=0.1,
        decay="cosine",
        smoothing=0.1,
        drop_path=0.0,
        ema=0.0,
        crop_area=0.5,
        flip=True,
        jitter=0.0,
        shift=0.06 if upscaled else 0.0,
        train_size=_train_size(config),
        evaluations=8,
        patience=5,
    )


def _scratch_recipe(images: int, config: ViTConfig) -> FinetuneRecipe:
    """From random weights: many passes, large batches, and views that move, scale and stretch the image."""
    return FinetuneRecipe(
        epochs=min(300.0, max(20.0, 190_000 / images)),
        batch_size=128,
        lr=2e-3,
        layer_decay=1.0,
        weight_decay=0.2,
        warmup=0.1,
        decay="cosine",
        smoothing=0.1,
        drop_path=0.0,
        ema=0.99,
        crop_area=0.6 if min(config.image_size) <= SMALL_SIDE else 0.35,
        flip=True,
        jitter=0.0,
        shift=0.06,
        train_size=config.image_size,
        evaluations=10,
        patience=5,
    )


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


@dataclass(frozen=True)
class Plan:
    """Everything decided before step 0, also what was decided by timing or memory. Stored as ``plan.json``."""

    preprocess: Preprocess
    fit_reason: str
    recipe: FinetuneRecipe
    train: TrainConfig
    threads: int  # that compute; sums depend on it in the last digit
    estimate_seconds: float

    def augment(self) -> Augment:
        """The random views of training images."""
        r = self.recipe
        return Augment(crop_area=r.crop_area, flip=r.flip, jitter=r.jitter, shift=r.shift)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Plan:
        """Read the JSON form.

        Raises:
            UserError: unknown or missing fields.
        """
        try:
            train = read_train_config(values["train"], where)
            return cls(
                preprocess=from_dict(Preprocess, values["preprocess"], f"{where}: preprocess"),
                fit_reason=values["fit_reason"],
                recipe=from_dict(FinetuneRecipe, values["recipe"], f"{where}: recipe"),
                train=train,
                threads=values["threads"],
                estimate_seconds=values["estimate_seconds"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{where} is not a plan: {error} is missing or of the wrong kind.") from None


def train_config(recipe: FinetuneRecipe, images: int, seed: int) -> TrainConfig:
    """The loop's configuration of a recipe; the microbatch is the whole batch until a step was measured."""
    batch_size = min(recipe.batch_size, images)
    steps = max(1, round(recipe.epochs * images / batch_size))
    precision, fused = best_precision()
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        microbatch_size=batch_size,
        seed=seed,
        eval_every=max(1, -(-steps // recipe.evaluations)),
        patience=recipe.patience,
        precision=precision,
        fused_attention=fused,
        compiled_blocks=best_blocks(precision),
        optim=OptimConfig(
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            warmup=recipe.warmup,
            decay=recipe.decay,
            ema=recipe.ema,
        ),
    )
