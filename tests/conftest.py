"""Fixtures that several test modules use: small images on disk, and a tiny model that is quick to train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vitkit.converters import timm
from vitkit.converters.engine import encode
from vitkit.models.vit import VisionTransformer, ViTConfig

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (200, 50, 40)}


def write_images(folder: Path, colour: tuple[int, int, int], count: int, seed: int, size: int = 16) -> None:
    """Noisy images around one colour, an easy class."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = np.clip(rng.normal(colour, 30, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """train/ and test/ of three easy classes, 8 and 4 images each."""
    root = tmp_path / "photos"
    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_images(root / "train" / name, colour, 8, seed)
        write_images(root / "test" / name, colour, 4, seed + 100)
    return root


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Class folders without splits, 8 images each."""
    root = tmp_path / "flat"
    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_images(root / name, colour, 8, seed)
    return root


@pytest.fixture(scope="session")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what a compiler makes is kept for all tests: the code is the same, and compiling takes seconds."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, compiled_code: Path) -> None:
    """No test reads or writes the user's cache, or another test's but for compiled code."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "native").symlink_to(compiled_code, target_is_directory=True)
    monkeypatch.setenv("VITKIT_CACHE", str(cache))


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A tiny model in a foreign format, with a head of other classes."""
    config = ViTConfig(
        embed_dim=64,
        depth=2,
        num_heads=1,
        mlp_dim=64,
        patch_size=(4, 4),
        image_size=(16, 16),
        num_classes=10,
        gelu="erf",
    )
    model = VisionTransformer(config)
    model.init_weights(5)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    path = tmp_path / "backbone.safetensors"
    save_file(encode(model.state_dict(), timm.rules(config)), path)
    return path
