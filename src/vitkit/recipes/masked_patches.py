"""The paper's self-supervised pre-training: masked patch prediction (arXiv 2010.11929, appendix B.1.2; VIT_SPEC 7).

    vit pretrain masked_b16 data=FOLDER --out RUN

The paper trained on JFT-300M for 1,000,000 steps; it says that 100,000 suffice nearly, and that ImageNet alone gains as much.
Weight decay and dropout are not stated: those of table 3 for JFT were taken.
"""

from __future__ import annotations

from vitkit.data.pixels import Preprocess
from vitkit.data.reference import ReferenceAugment
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig
from vitkit.recipes.recipe import Expected, Recipe

__all__ = ["RECIPES"]

RECIPES = (
    Recipe(
        name="masked_b16",
        title="ViT-B/16 by masked patch prediction, 1,000,000 steps (appendix B.1.2)",
        data="any images; labels are not read (the paper's: JFT-300M)",
        images=303_000_000,
        model=ViTConfig.named("B/16", num_classes=0, gelu="tanh"),
        steps=1_000_000,
        batch_size=4096,
        objective="masked_patch",
        optim=OptimConfig(lr=2e-4, weight_decay=0.1, warmup_steps=10_000, clip_norm=None),
        augment=ReferenceAugment(cast=False),
        preprocess=Preprocess((224, 224), fit="crop", crop_fraction=0.875, interpolation="bilinear"),
        expected=(Expected(0.799, "ImageNet top-1 after fine-tuning", "arXiv 2010.11929, appendix B.1.2"),),
    ),
)
