"""A small Vision Transformer on CIFAR-10 from random weights, in a quarter of an hour on two cores.

    vit pretrain cifar10_small data=FOLDER --out RUN

Width 96, depth 6, patches of 4 pixels, 8 epochs; crops, mirroring; small first weights.
"""

from __future__ import annotations

from vitkit.data.augment import Augment
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Expected, Recipe

__all__ = ["RECIPES"]

RECIPES = (
    Recipe(
        name="cifar10_small",
        title="width 96, depth 6 on CIFAR-10, 8 epochs: a quarter of an hour on two cores",
        data="CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels",
        images=50_000,
        model=ViTConfig(
            embed_dim=96, depth=6, num_heads=3, mlp_dim=384, patch_size=(4, 4), image_size=(32, 32), num_classes=10,
            cls_token=False, pool="mean", gelu="erf",
        ),
        epochs=8.0,
        batch_size=256,
        optim=OptimConfig(lr=2e-3, weight_decay=0.05),
        augment=Augment(crop_area=0.8, flip=True),
        preprocess=Preprocess((32, 32), fit="squash"),
        initialisation="small",
        expected=(Expected(0.648, "test top-1, seed 0, a lossy copy of the images", "measured: docs/results/pretraining.md"),),
    ),
)  # fmt: skip
