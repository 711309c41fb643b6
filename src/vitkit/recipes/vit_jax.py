"""The official JAX code's fine-tuning defaults, by data set (VIT_SPEC 5.2; google-research/vision_transformer, vit_jax/configs).

    vit pretrain vit_jax_cifar10 start=WEIGHTS data=FOLDER --out RUN

Inception crops to 384 pixels in float, mirroring, softmax; SGD with a bf16 momentum, base rate 0.03.
"""

from __future__ import annotations

from vitkit.data.pixels import Preprocess
from vitkit.data.reference import ReferenceAugment
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Recipe

__all__ = ["RECIPES"]

# name -> words, training images, classes, steps, base rate (b16 on cifar10 has its own)
ROWS = {
    "cifar10": ("CIFAR-10, 98 % of its training images", 49_000, 10, 10_000, 0.01),
    "cifar100": ("CIFAR-100, 98 % of its training images", 49_000, 100, 10_000, 0.03),
    "imagenet": ("ImageNet-1k, 99 % of its training images", 1_268_355, 1_000, 20_000, 0.03),
}


def _recipe(name: str, words: str, images: int, classes: int, steps: int, lr: float) -> Recipe:
    return Recipe(
        name=f"vit_jax_{name}",
        title=f"the official code's fine-tuning on {words}",
        data=words,
        images=images,
        model=ViTConfig.named("B/16", image_size=(384, 384), num_classes=classes, gelu="tanh"),
        steps=steps,
        batch_size=512,
        optim=OptimConfig(optimiser="sgd", moment="bf16", lr=lr, weight_decay=0.0, warmup_steps=500),
        augment=ReferenceAugment(cast=False),
        preprocess=Preprocess((384, 384), fit="squash", interpolation="bilinear"),
        needs_start=True,
    )


RECIPES = tuple(_recipe(name, *told) for name, told in ROWS.items())
