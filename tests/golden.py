"""The golden vectors' weights and images: an integer rule over the official tensor names and shapes (VIT_SPEC 11)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from vitkit.converters import google
from vitkit.models.vit import VisionTransformer, ViTConfig


def golden_config(**changes: object) -> ViTConfig:
    base = ViTConfig(embed_dim=64, depth=2, num_heads=4, mlp_dim=128, image_size=(64, 64), num_classes=5)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def golden_state(config: ViTConfig) -> dict[str, Tensor]:
    """Every official tensor of a configuration, filled by the rule."""
    with torch.device("meta"):
        ours = VisionTransformer(config).state_dict()
    shapes = {
        name: tensor.shape
        for rule in google.rules(config)
        for name, tensor in zip(rule.theirs, rule.to_theirs(ours[rule.ours]), strict=True)
    }
    state = {}
    for rank, name in enumerate(sorted(shapes)):
        i = np.arange(math.prod(shapes[name]), dtype=np.int64)
        values = 0.2 * (((i * 7919 + rank * 104729) % 1009) / 504 - 1) + name.endswith("scale")
        state[name] = torch.from_numpy(values.astype(np.float32).reshape(shapes[name]))
    return state


def golden_image(count: int, size: int) -> Tensor:
    i = np.arange(count * size * size * 3, dtype=np.int64)
    values = (((i * 7919) % 1009) / 504 - 1).astype(np.float32).reshape(count, size, size, 3)
    return torch.from_numpy(values).permute(0, 3, 1, 2)
