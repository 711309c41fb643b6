"""Pre-training as in table 3 of the paper: every Vision Transformer and hybrid row (arXiv 2010.11929; VIT_SPEC 4.1).

    vit pretrain paper_b16_imagenet21k data=FOLDER --out RUN

Adam with decoupled weight decay, batch 4096, 10,000 steps of warm-up, 224 pixels, a tanh layer before the head: jobs for a
cluster. What the paper does not say and was chosen here: the loss (sigmoid on JFT and ImageNet-21k as in big_vision, softmax on
ImageNet), and the views (inception crops and mirroring, as the official code's fine-tuning).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from vitkit.data.pixels import Preprocess
from vitkit.data.reference import ReferenceAugment
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Expected, Recipe

__all__ = ["DATA", "RECIPES"]


class Data(NamedTuple):
    """A pre-training set."""

    words: str
    images: int
    classes: int


DATA = {
    "jft300m": Data("JFT-300M (not public): 303 million images, labels of 18,291 classes", 303_000_000, 18_291),
    "imagenet21k": Data("ImageNet-21k with all 21,843 classes, 14,197,122 images", 14_197_122, 21_843),
    "imagenet": Data("ImageNet-1k, 1,281,167 training images", 1_281_167, 1_000),
}


class Row(NamedTuple):
    """One model of a row of table 3."""

    model: str
    data: str
    epochs: int
    lr: float
    decay: str
    weight_decay: float
    dropout: float


ROWS = (
    *(Row(model, "jft300m", 7, 8e-4, "linear", 0.1, 0.0) for model in ("B/16", "B/32")),
    Row("L/32", "jft300m", 7, 6e-4, "linear", 0.1, 0.0),
    *(Row("L/16", "jft300m", epochs, 4e-4, "linear", 0.1, 0.0) for epochs in (7, 14)),
    Row("H/14", "jft300m", 14, 3e-4, "linear", 0.1, 0.0),
    *(Row(model, "jft300m", 7, 8e-4, "linear", 0.1, 0.0) for model in ("R50+B/16", "R50+B/32")),
    Row("R50+L/32", "jft300m", 7, 2e-4, "linear", 0.1, 0.0),
    *(Row("R50+L/16", "jft300m", epochs, 4e-4, "linear", 0.1, 0.0) for epochs in (7, 14)),
    *(Row(model, "imagenet21k", 90, 1e-3, "linear", 0.03, 0.1) for model in ("B/16", "B/32")),
    *(
        Row(model, "imagenet21k", epochs, 1e-3, "linear", 0.03, 0.1)
        for model in ("L/16", "L/32")
        for epochs in (30, 90)
    ),
    *(Row(model, "imagenet", 300, 3e-3, "cosine", 0.3, 0.1) for model in ("B/16", "B/32", "L/16", "L/32")),
)
# exaFLOPs of the whole job as table 6 of the paper prints them (VIT_SPEC 10).
EXAFLOPS = {
    ("B/32", 7): 55, ("B/16", 7): 224, ("L/32", 7): 196, ("L/16", 7): 783, ("L/16", 14): 1567, ("H/14", 14): 4262,
    ("R50+B/32", 7): 106, ("R50+B/16", 7): 274, ("R50+L/32", 7): 246, ("R50+L/16", 7): 859, ("R50+L/16", 14): 1668,
}  # fmt: skip
# ImageNet top-1 after fine-tuning, table 5 of the paper (VIT_SPEC 7).
FINE_TUNED = {
    ("B/16", "imagenet"): 0.7791, ("B/16", "imagenet21k"): 0.8397, ("B/16", "jft300m"): 0.8415,
}  # fmt: skip


def _recipe(row: Row) -> Recipe:
    data = DATA[row.data]
    model = ViTConfig.named(row.model, num_classes=data.classes, dropout=row.dropout, gelu="tanh")
    model = dataclasses.replace(model, representation_size=model.embed_dim)
    short = row.model.replace("/", "").replace("+", "_").lower()
    several = len({other.epochs for other in ROWS if (other.model, other.data) == (row.model, row.data)}) > 1
    top1 = FINE_TUNED.get((row.model, row.data))
    expected = [Expected(top1, "ImageNet top-1 after fine-tuning at 384", "arXiv 2010.11929, table 5")] if top1 else []
    flops = f"; the paper counts {EXAFLOPS[row.model, row.epochs]} exaFLOPs" if row.data == "jft300m" else ""
    return Recipe(
        name=f"paper_{short}_{row.data}{f'_{row.epochs}ep' if several else ''}",
        title=f"ViT-{row.model} on {row.data}, {row.epochs} epochs (table 3){flops}",
        data=data.words,
        images=data.images,
        model=model,
        epochs=float(row.epochs),
        batch_size=4096,
        objective="softmax" if row.data == "imagenet" else "sigmoid",
        head_bias=0.0 if row.data == "imagenet" else -10.0,
        optim=OptimConfig(
            lr=row.lr, weight_decay=row.weight_decay, decay=row.decay, warmup_steps=10_000,
            clip_norm=1.0 if row.data == "imagenet" else None,
        ),
        augment=ReferenceAugment(cast=False),
        preprocess=Preprocess((224, 224), fit="crop", crop_fraction=0.875, interpolation="bilinear"),
        expected=tuple(expected),
        notes="loss and views are not in the paper: see the module",
    )  # fmt: skip


RECIPES = tuple(_recipe(row) for row in ROWS)
