"""Bundles of small models with drawn weights."""

from __future__ import annotations

from pathlib import Path

import torch

from vitkit.bundle import Bundle
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import VisionTransformer, ViTConfig


def made(folder: Path, classes: tuple[str, ...] | None, outputs: int | None = None) -> Path:
    """A bundle of a small model with drawn weights."""
    count = len(classes or ()) if outputs is None else outputs
    config = ViTConfig(
        embed_dim=32, depth=2, num_heads=2, mlp_dim=48, patch_size=(4, 4), image_size=(16, 16), num_classes=count
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    if model.head is not None:
        model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return Bundle(model.eval(), Preprocess((16, 16)), classes).save(folder)
