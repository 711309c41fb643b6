"""The backbone that ships, `box`: Tiny-ImageNet by its labels, first at 16 pixels, then at 24. An hour on two cores.

    vit pretrain box_16 data=FOLDER --out runs/box_16
    vit pretrain box data=FOLDER start=runs/box_16/model --out runs/box
    python tools/release_box.py runs/box --first runs/box_16 --commit COMMIT --data FOLDER --image-size 32

Small views cost little, so that each image is seen often, and what is learnt so runs at larger sizes. How size, resolution,
objective and views were chosen: docs/results/box.md.
"""

from __future__ import annotations

import dataclasses

from vitkit.data.augment import Augment
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Recipe

__all__ = ["RECIPES"]

FIRST = Recipe(
    name="box_16",
    title="width 192, depth 6 on Tiny-ImageNet at 16 pixels, 18 epochs: the first part of box",
    data="Tiny-ImageNet, 100,000 training and 10,000 validation images of 32 x 32 pixels",
    images=100_000,
    model=ViTConfig(
        embed_dim=192, depth=6, num_heads=6, mlp_dim=768, patch_size=(4, 4), image_size=(16, 16), num_classes=200,
        cls_token=False, pool="mean", gelu="erf",
    ),
    epochs=18.0,
    batch_size=256,
    optim=OptimConfig(lr=2e-3, weight_decay=0.05),
    augment=Augment(crop_area=0.35, flip=True),
    preprocess=Preprocess((16, 16), fit="squash"),
    smoothing=0.1,
    initialisation="small",
    evaluations=6,
)  # fmt: skip

RECIPES = (
    FIRST,
    dataclasses.replace(
        FIRST,
        name="box",
        title="the backbone that ships: box_16 goes on at 24 pixels, 5 epochs",
        model=dataclasses.replace(FIRST.model, image_size=(24, 24)),
        preprocess=Preprocess((24, 24), fit="squash"),
        epochs=5.0,
        optim=OptimConfig(lr=1e-3, weight_decay=0.05),
        needs_start=True,
    ),
)
