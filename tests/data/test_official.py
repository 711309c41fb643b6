"""The official code's evaluation preprocessings: steps as published, sizes that scale, bad names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.config import UserError
from vitkit.data.official import VIEWS, check_view, describe_view, load_view
from vitkit.data.pixels import Preprocess, load_input

HALF = Preprocess((224, 224))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(path)
    return path


def tf_bilinear(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """tf.image.resize without antialias is torch's bilinear with pixel centres at halves."""
    x = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    return (
        torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    )


def test_fewshot_is_resize_256_squashed_truncated_then_the_centre_224(photo: Path) -> None:
    pixels = np.asarray(Image.open(photo))
    wanted = np.floor(tf_bilinear(pixels, (256, 256)) + 1e-3)[16:240, 16:240] / 127.5 - 1
    found = load_view(photo, HALF, "fewshot")
    assert found.shape == (224, 224, 3)
    off = np.abs(found - wanted) > 1e-5  # a value within rounding of a whole number may be truncated either way
    assert off.mean() < 2e-3
    assert np.abs(found - wanted).max() < 1.01 / 127.5


def test_squash_is_bilinear_without_truncation(photo: Path) -> None:
    wanted = tf_bilinear(np.asarray(Image.open(photo)), (224, 224)) / 127.5 - 1
    assert np.abs(load_view(photo, HALF, "squash") - wanted).max() < 1e-4


def test_resize_small_keeps_the_aspect_and_takes_areas(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    pixels = np.random.default_rng(1).integers(0, 256, (512, 1024, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    means = pixels.reshape(256, 2, 512, 2, 3).mean((1, 3))  # short side 256: exact halves
    wanted = np.floor(means)[16:240, 144:368] / 127.5 - 1
    assert np.abs(load_view(path, HALF, "resize_small") - wanted).max() < 1e-5


def test_own_is_what_every_command_does(photo: Path) -> None:
    record = Preprocess((32, 32), crop_fraction=0.9, mean=(0.4, 0.5, 0.6))
    assert np.array_equal(load_view(photo, record), load_input(photo, record))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [(32, 32), (384, 384), (96, 160)])
def test_other_sizes_scale_and_mean_and_std_are_the_models(view: str, size: tuple[int, int], photo: Path) -> None:
    plain, own = Preprocess(size), Preprocess(size, mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))
    found, other = load_view(photo, plain, view), load_view(photo, own, view)
    assert found.shape == (*size, 3)
    restored = (other * np.array(own.std) + np.array(own.mean) - 0.5) / 0.5
    assert np.abs(found - restored).max() < 1e-5


def test_words_and_bad_names() -> None:
    assert "256 x 256" in describe_view("fewshot", HALF)
    assert "439 x 439" in describe_view("fewshot", Preprocess((384, 384)))
    with pytest.raises(UserError, match=r"--preprocess 'fewshots'; known: own, .* Did you mean 'fewshot'"):
        check_view("fewshots", HALF)
    with pytest.raises(UserError, match="for RGB images, the model takes 2 channels"):
        check_view("squash", Preprocess((8, 8), mean=(0.5, 0.5), std=(0.5, 0.5)))
    check_view("own", Preprocess((8, 8), mean=(0.5, 0.5), std=(0.5, 0.5)))
