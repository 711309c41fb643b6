"""Engines of exported artefacts: bytes are found again exactly; one image alone or many give the same digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.test_export import bundle_of, quiet
from vitkit.artefact import read_artefact
from vitkit.config import UserError
from vitkit.data.pixels import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess, normalise, to_planes
from vitkit.data.random_pixels import random_images
from vitkit.engines import exported
from vitkit.engines.exported import exported_engine, pixels_of
from vitkit.jobs.export import export


@pytest.mark.parametrize(("mean", "std"), [(HALF, HALF), (IMAGENET_MEAN, IMAGENET_STD), (CLIP_MEAN, CLIP_STD),
                                           ((0.0,) * 3, (1.0,) * 3), ((0.9, 0.1, 0.5), (0.01, 2.0, 0.3))])  # fmt: skip
def test_every_byte_is_found_again(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    record = Preprocess((16, 16), mean=mean, std=std)
    crops = (
        np.random.default_rng(0)
        .permutation(np.arange(768, dtype=np.uint16) % 256)
        .astype(np.uint8)
        .reshape(1, 16, 16, 3)
    )
    assert (pixels_of(to_planes(normalise(crops, record)), record) == crops).all()


def test_what_was_never_a_byte_is_refused() -> None:
    record = Preprocess((16, 16))
    for images in (np.full((1, 3, 16, 16), 0.001), np.full((1, 3, 16, 16), 9.0), np.full((1, 3, 16, 16), np.nan)):
        with pytest.raises(UserError, match="these are normalised otherwise"):
            pixels_of(images.astype(np.float32), record)


def test_other_channels_stay_numbers() -> None:
    record = Preprocess((16, 16), mean=(0.2,), std=(0.7,))
    crops = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    assert np.abs(pixels_of(to_planes(normalise(crops, record)), record) - crops).max() < 1e-6


@pytest.mark.parametrize("target", ["onnx", "openvino", "torch"])
def test_an_image_s_digits_do_not_depend_on_its_neighbours(target: str, tmp_path: Path) -> None:
    bundle_of(tmp_path / "model")
    made = export(tmp_path / "model", target, out=tmp_path / "a", timed=False, console=quiet())
    artefact = read_artefact(made.folder)
    engine = exported_engine(artefact)
    images = random_images(artefact.preprocess, 7)
    many = engine(images)
    for number in range(7):
        alone = engine(images[number : number + 1])
        assert (alone.logits[0] == many.logits[number]).all()
        assert (alone.features[0] == many.features[number]).all()
    assert engine.facts.ours == (target == "torch")


def test_a_runtime_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_of(tmp_path / "model")
    made = export(tmp_path / "model", "onnx", out=tmp_path / "a", timed=False, console=quiet())
    monkeypatch.setattr(exported, "why_missing", lambda package, extra: f"{package}: pip install 'vitkit[{extra}]'")
    with pytest.raises(UserError, match=r"cannot be computed here: onnxruntime: pip install 'vitkit\[onnx\]'"):
        exported_engine(read_artefact(made.folder))
    (made.folder / "model.onnx").write_bytes(b"no graph")
    monkeypatch.undo()
    artefact = read_artefact
    monkeypatch.setattr("vitkit.artefact._check_file", lambda path, digest: None)
    with pytest.raises(UserError, match="onnxruntime does not take"):
        exported_engine(artefact(made.folder))
