"""Fine-tuning as in table 4 of the paper, one recipe for each data set (arXiv 2010.11929; VIT_SPEC 5.1).

    vit pretrain paper_finetune_cifar10 start=WEIGHTS data=FOLDER --out RUN

SGD with momentum 0.9, batch 512, cosine, no weight decay, clipping at norm 1, 384 pixels, a new head of zeros. The paper chooses
the learning rate from ``rates`` on a held-out part of the training set; the recipe has one of them, ``optim.lr`` sets another. The
warm-up is the official code's (500 steps, 100 of short jobs): the paper does not say.
"""

from __future__ import annotations

from typing import NamedTuple

from vitkit.data.pixels import Preprocess
from vitkit.data.reference import ReferenceAugment
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Recipe

__all__ = ["RECIPES"]

SMALL = (0.001, 0.003, 0.01, 0.03)


class Row(NamedTuple):
    """One row of table 4."""

    name: str
    words: str
    images: int
    classes: int
    steps: int
    rates: tuple[float, ...]
    lr: float


ROWS = (
    Row("imagenet", "ImageNet-1k", 1_281_167, 1_000, 20_000, (0.003, 0.01, 0.03, 0.06), 0.03),
    Row("cifar100", "CIFAR-100", 50_000, 100, 10_000, SMALL, 0.01),
    Row("cifar10", "CIFAR-10", 50_000, 10, 10_000, SMALL, 0.01),
    Row("pets", "Oxford-IIIT Pets", 3_680, 37, 500, SMALL, 0.01),
    Row("flowers102", "Oxford Flowers-102, train and validation", 2_040, 102, 500, SMALL, 0.01),
    Row("vtab", "one of VTAB's 19 tasks, 1,000 images", 1_000, 10, 2_500, (0.01,), 0.01),
)


def _recipe(row: Row) -> Recipe:
    return Recipe(
        name=f"paper_finetune_{row.name}",
        title=f"fine-tuning on {row.words} (table 4)",
        data=row.words,
        images=row.images,
        model=ViTConfig.named("B/16", image_size=(384, 384), num_classes=row.classes, gelu="tanh"),
        steps=row.steps,
        batch_size=512,
        optim=OptimConfig(
            optimiser="sgd", moment="bf16", lr=row.lr, weight_decay=0.0, decay="cosine",
            warmup_steps=100 if row.steps == 500 else 500, clip_norm=1.0,
        ),
        augment=ReferenceAugment(crop="resize_crop", resize=448, cast=False),
        preprocess=Preprocess((384, 384), fit="squash", interpolation="bilinear"),
        needs_start=True,
        rates=row.rates,
        notes="the model is that of start=...; views are BiT's at 448 and 384 pixels",
    )  # fmt: skip


RECIPES = tuple(_recipe(row) for row in ROWS)
