"""Arithmetic counts against the published table and against torch's own counter."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitkit.analysis.flops import forward_macs, training_exaflops
from vitkit.models.vit import VisionTransformer, ViTConfig

JFT_IMAGES, JFT_CLASSES = 303e6, 18_291
TABLE6 = {  # name, epochs -> exaFLOPs by VIT_SPEC 10, which rounds to one decimal
    ("B/32", 7): 56.3, ("B/16", 7): 223.7, ("L/32", 7): 195.9, ("L/16", 7): 783.6, ("L/16", 14): 1567.2, ("H/14", 14): 4258.6,
    ("R50+B/16", 7): 274.2, ("R50+L/32", 7): 247.3,
}  # fmt: skip


@pytest.mark.parametrize(("name", "epochs"), TABLE6)
def test_table_6_of_the_paper(name: str, epochs: int) -> None:
    config = ViTConfig.named(name, num_classes=JFT_CLASSES)
    config = dataclasses.replace(config, representation_size=config.embed_dim)
    counted = training_exaflops(config, JFT_IMAGES * epochs)
    assert counted == pytest.approx(TABLE6[name, epochs], rel=1e-3)


CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "mean, tanh layer, registers": {"pool": "mean", "representation_size": 24, "registers": 3},
    "gated": {"mlp": "swiglu"},
    "map": {"pool": "map", "cls_token": False},
    "cls beside mean": {"pool": "cls_mean"},
    "distilled": {"registers": 1, "distilled": True},
    "every token": {"pool": "none"},
    "relative": {"position": "relative", "registers": 1},
    "positions at layers": {"position_at": "layers"},
    "hybrid": {"stem": (1, 2, 1), "patch_size": (1, 1), "image_size": (50, 70)},
    "root alone": {"stem": (), "patch_size": (4, 4), "image_size": (32, 48)},
}


@pytest.mark.parametrize("case", CASES)
def test_torch_counts_as_many(case: str) -> None:
    base = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 80, "patch_size": (8, 8), "image_size": (32, 48)}
    config = ViTConfig(**{**base, "num_classes": 7, **CASES[case]})  # type: ignore[arg-type]
    model = VisionTransformer(config).eval()
    for module in model.modules():  # torch does not count its fused attention
        if hasattr(module, "fused"):
            module.fused = False
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *config.image_size))
    h, w = config.grid
    fused = 4 * h * w * config.embed_dim if config.pool == "map" else 0  # of the pooling's one query, always fused
    assert counter.get_total_flops() + fused == 2 * forward_macs(config)
