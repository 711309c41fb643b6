"""Which family of transformers writes a configuration, and why none does."""

from __future__ import annotations

import dataclasses

import pytest

from vitkit.config import UserError
from vitkit.converters.targets import HUGGINGFACE, family_for
from vitkit.models.vit import ViTConfig

TINY = ViTConfig(embed_dim=32, depth=1, num_heads=2, mlp_dim=64, patch_size=(8, 8), image_size=(16, 16), num_classes=3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "huggingface_vit"),
        ({"num_classes": 0, "representation_size": 8}, "huggingface_vit"),
        ({"registers": 1, "distilled": True}, "huggingface_vit"),
        ({"patch_bias": False, "head_bias": False, "qkv_bias": False}, "huggingface_vit"),
        ({"num_classes": 0, "layer_scale": 1e-5}, "huggingface_dinov2"),
        ({"num_classes": 0, "registers": 4, "prefix_positions": "none"}, "huggingface_dinov2"),
        ({"pool": "cls_mean"}, "huggingface_dinov2"),
        ({"pool": "cls_mean", "registers": 4}, "huggingface_dinov2"),
        ({"pre_norm": True, "patch_bias": False, "head_bias": False}, "huggingface_clip"),
        ({"cls_token": False, "pool": "map", "num_classes": 0}, "huggingface_clip"),
        ({"cls_token": False, "pool": "mean"}, "huggingface_clip"),
    ],
)
def test_the_family_that_can_express_a_configuration(changes: dict[str, object], expected: str) -> None:
    found = family_for(dataclasses.replace(TINY, **changes)).NAME  # type: ignore[arg-type]
    assert found == expected


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        (
            {"pool": "cls_mean", "num_classes": 0},
            ["huggingface_vit layout cannot express pool='cls_mean'", "Dinov2 without classes cannot express pool='cls_mean'"],
        ),
        ({"pool": "mean"}, ["ViT cannot express pool='mean'", "Dinov2 cannot", "CLIP cannot"]),
        ({"representation_size": 8}, ["ViT with classes cannot express representation_size=8"]),
        ({"position": "sincos2d"}, ["ViT cannot express position='sincos2d'"]),
        ({"stem": (1,), "patch_size": (1, 1)}, ["ViT cannot express stem=(1,)"]),
        ({"registers": 4}, ["DeiT cannot express registers=4", "num_classes=3: its head reads the cls token and the mean"]),
        ({"num_classes": 0, "layer_scale": 1.0, "mlp_dim": 65}, ["Dinov2 cannot express mlp_dim=65"]),
        ({"num_classes": 0, "layer_scale": 1.0, "mlp": "swiglu", "mlp_dim": 30}, ["two thirds of it in steps of 8"]),
        ({"num_classes": 0, "layer_scale": 1.0, "image_size": (16, 24)}, ["image_size=(16, 24)", "are 2x3"]),
        ({"pre_norm": True, "patch_bias": False}, ["CLIP with a projection cannot express head_bias=True"]),
        ({"pre_norm": True}, ["CLIP cannot express patch_bias=True"]),
        ({"cls_token": False, "pool": "map"}, ["SigLIP with pool='map' cannot express num_classes=3"]),
        ({"cls_token": False, "pool": "none"}, ["SigLIP cannot express pool='none'"]),
        ({"cls_token": False, "pool": "mean", "image_size": (16, 24)}, ["SigLIP cannot express image_size=(16, 24)"]),
        ({"cls_token": False, "pool": "mean", "norm_after_pool": True}, ["SigLIP cannot express norm_after_pool=True"]),
    ],
)  # fmt: skip
def test_a_configuration_that_no_family_has_gets_every_reason(changes: dict[str, object], reasons: list[str]) -> None:
    with pytest.raises(UserError, match="no Vision Transformer that computes this") as caught:
        family_for(dataclasses.replace(TINY, **changes))  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(HUGGINGFACE)
    for reason in reasons:
        assert reason in str(caught.value)
