"""The size a fine-tuned model runs at: chosen from the photos, said, overridable, and repeated from a plan."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

import vitkit
from finetune_runs import MEAN_STD, QUICK
from vitkit.console import Console
from vitkit.converters import timm
from vitkit.converters.engine import encode
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.files import write_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A grid of 14 x 14 patches of 6 pixels."""
    config = ViTConfig(
        embed_dim=64,
        depth=1,
        num_heads=1,
        mlp_dim=32,
        patch_size=(6, 6),
        image_size=(84, 84),
        num_classes=4,
        gelu="erf",
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    path = tmp_path / "weights.safetensors"
    write_weights(path, encode(model.state_dict(), timm.rules(config)))
    return path


def photos(root: Path, side: int) -> Path:
    for number, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (side, side), (200 * number, 20 * index, 90)).save(root / name / f"{index}.png")
    return root


def finetune(data: Path, weights: Path, out: Path, **options: object) -> tuple[tuple[int, int], str]:
    said = io.StringIO()
    result = vitkit.finetune(
        data, model=weights, out=out, overrides=MEAN_STD, workers=0, console=Console(said, io.StringIO()),
        **{**({} if "plan" in options else {"epochs": 1, "settings": QUICK}), **options},
    )  # fmt: skip
    return vitkit.load(result.bundle).config.image_size, said.getvalue()


def test_photos_larger_than_the_model_raise_its_size_and_a_plan_repeats_it(weights: Path, tmp_path: Path) -> None:
    data = photos(tmp_path / "large", 100)
    size, said = finetune(data, weights, tmp_path / "a")
    assert size == (96, 96)
    assert "size      96x96: the photos are larger than the model's own 84x84" in said
    size, said = finetune(data, weights, tmp_path / "b", image_size=84)
    assert (size, "size  " in said) == ((84, 84), False)
    assert finetune(data, weights, tmp_path / "c", plan=tmp_path / "b")[0] == (84, 84)


def test_small_images_leave_the_size(weights: Path, tmp_path: Path) -> None:
    assert finetune(photos(tmp_path / "small", 90), weights, tmp_path / "a")[0] == (84, 84)
