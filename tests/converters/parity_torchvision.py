"""Models of torchvision that ours are compared with: small, with random weights. Imports nothing of it."""

from __future__ import annotations

from typing import Any

from converters.parity_huggingface import Row

__all__ = ["ROWS"]

BASE: dict[str, Any] = {
    **{"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 48, "mlp_dim": 80},
    "num_classes": 7,
}
ROWS = (
    Row("ViT", "torchvision", "VisionTransformer", BASE, (32, 32)),
    Row("ViT", "torchvision", "VisionTransformer", BASE, (48, 48)),
    Row("ViT", "torchvision", "VisionTransformer", BASE, (24, 24)),
    Row("ViT", "torchvision", "VisionTransformer", {**BASE, "image_size": 42, "patch_size": 7}, (42, 42)),
    Row("ViT with pre_logits", "torchvision", "VisionTransformer", {**BASE, "representation_size": 20}, (32, 32)),
)
