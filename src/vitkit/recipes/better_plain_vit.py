""" "Better plain ViT baselines": S/16 on ImageNet-1k in 90, 150 and 300 epochs (arXiv 2205.01580; VIT_SPEC 4.3).

    vit pretrain better_s16_90ep data=FOLDER --out RUN

Softmax, batch 1024, fixed sin-cos positions, mean pooling, RandAugment(2, 10) and mixup 0.2. 90 epochs took the authors 6h30 on a
TPUv3-8.
"""

from __future__ import annotations

from vitkit.data.mixing import Mixing
from vitkit.data.pixels import Preprocess
from vitkit.data.reference import ReferenceAugment
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Expected, Recipe

__all__ = ["RECIPES"]

TOP1 = {90: 0.765, 150: 0.785, 300: 0.800}


def _recipe(epochs: int, top1: float) -> Recipe:
    return Recipe(
        name=f"better_s16_{epochs}ep",
        title=f"better plain ViT-S/16 on ImageNet-1k, {epochs} epochs",
        data="ImageNet-1k, 99 % of its training images",
        images=1_268_355,
        model=ViTConfig.named(
            "S/16", cls_token=False, pool="mean", position="sincos2d", representation_size=384, gelu="tanh"
        ),
        epochs=float(epochs),
        batch_size=1024,
        optim=OptimConfig(lr=1e-3, moment="bf16", weight_decay=1e-4, weight_decay_by="absolute", warmup_steps=10_000),
        augment=ReferenceAugment(layers=2, magnitude=10),
        mixing=Mixing(mixup=0.2),
        preprocess=Preprocess((224, 224), fit="crop", crop_fraction=0.875, interpolation="bilinear"),
        expected=(Expected(top1, "ImageNet-1k validation top-1", "arXiv 2205.01580"),),
    )


RECIPES = tuple(_recipe(epochs, top1) for epochs, top1 in TOP1.items())
