"""Pre-training of "How to train your ViT?" with its augmentation by model (arXiv 2106.10270; VIT_SPEC 4.2).

    vit pretrain augreg_i1k_s16 data=FOLDER --out RUN
    vit pretrain augreg_i1k_s16 data=FOLDER augment.layers=2 augment.magnitude=20 mixing.mixup=0.8 --out RUN

Settings by the paper's names are in `vitkit.data.augreg`; each recipe has big_vision's default for its model.
"""

from __future__ import annotations

import dataclasses

from vitkit.data.augreg import augreg
from vitkit.data.mixing import Mixing
from vitkit.data.pixels import Preprocess
from vitkit.data.reference import ReferenceAugment
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Recipe

__all__ = ["RECIPES"]

# model -> augmentation by the paper's names
I1K = {"Ti/16": "light1", "S/32": "medium2", "S/16": "medium2", "B/32": "medium2", "B/16": "medium2", "L/16": "medium2"}
I21K = {"Ti/16": "none", "S/32": "none", "S/16": "light1", "B/32": "light2", "B/16": "light2", "L/16": "medium2"}


def _recipe(model: str, setting: str, i21k: bool) -> Recipe:
    found = augreg(setting, names="paper")
    classes, images = (21_843, 14_145_922) if i21k else (1_000, 1_268_355)
    config = ViTConfig.named(model, num_classes=classes, gelu="tanh")
    if i21k:
        config = dataclasses.replace(config, cls_token=False, pool="mean")
    else:
        config = dataclasses.replace(config, representation_size=config.embed_dim)
    data = (
        "ImageNet-21k without 51,200 test and validation images" if i21k else "ImageNet-1k, 99 % of its training images"
    )
    return Recipe(
        name=f"augreg_{'i21k' if i21k else 'i1k'}_{model.replace('/', '').lower()}",
        title=f"ViT-{model} on {data}, 300 epochs, augmentation {setting}",
        data=data,
        images=images,
        model=config,
        epochs=300.0,
        batch_size=4096,
        objective="sigmoid",
        head_bias=-10.0 if i21k else -6.9,
        optim=OptimConfig(lr=1e-3, moment="bf16", weight_decay=1e-4, weight_decay_by="absolute", warmup_steps=10_000),
        augment=ReferenceAugment(layers=found.layers, magnitude=found.magnitude),
        mixing=Mixing(mixup=found.mixup),
        preprocess=Preprocess((224, 224), fit="crop", crop_fraction=0.875, interpolation="bilinear"),
    )


RECIPES = tuple(
    _recipe(model, setting, i21k) for i21k, table in ((False, I1K), (True, I21K)) for model, setting in table.items()
)
