"""Pre-training for transfer at the smallest scale: Tiny-ImageNet at 32 pixels, by labels or by masked patches.

vit pretrain tiny_imagenet_small data=FOLDER --out RUN
vit pretrain tiny_imagenet_small_masked data=FOLDER --out RUN
"""

from __future__ import annotations

import dataclasses

from vitkit.data.augment import Augment
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Expected, Recipe

__all__ = ["RECIPES"]

SUPERVISED = Recipe(
    name="tiny_imagenet_small",
    title="width 96, depth 6 on Tiny-ImageNet at 32 pixels, 6 epochs",
    data="Tiny-ImageNet, 100,000 training and 10,000 validation images of 32 x 32 pixels",
    images=100_000,
    model=ViTConfig(
        embed_dim=96, depth=6, num_heads=3, mlp_dim=384, patch_size=(4, 4), image_size=(32, 32), num_classes=200,
        cls_token=False, pool="mean", gelu="erf",
    ),
    epochs=6.0,
    batch_size=256,
    optim=OptimConfig(lr=2e-3, weight_decay=0.05),
    augment=Augment(crop_area=0.8, flip=True),
    preprocess=Preprocess((32, 32), fit="squash"),
    expected=(Expected(0.210, "validation top-1, seed 0", "measured: docs/results/pretraining.md"),),
)  # fmt: skip

RECIPES = (
    SUPERVISED,
    dataclasses.replace(
        SUPERVISED,
        name="tiny_imagenet_small_masked",
        title="the same model by masked patch prediction",
        model=dataclasses.replace(SUPERVISED.model, num_classes=0),
        objective="masked_patch",
        expected=(),
    ),
)
