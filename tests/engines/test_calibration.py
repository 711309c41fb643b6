"""Calibration: ranges from images, kept with their model, and images that calibrate are never scored."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shared import shared_data
from small_models import made
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.audit import digest
from vitkit.data.official import load_view
from vitkit.data.pixels import to_planes
from vitkit.data.sources import read_source
from vitkit.engines.calibration import (
    FILE,
    Calibration,
    calibrate,
    find_calibration,
    for_calibration,
    linear_names,
    prepared,
    read_calibration,
    split,
    write_calibration,
)
from vitkit.engines.packed.private_int8 import missing
from vitkit.engines.packed.quantised import imitate, quantise
from vitkit.jobs.load import load


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quiet() -> Console:
    return Console(io.StringIO(), io.StringIO())


def bundle(tmp_path: Path, name: str = "model") -> Bundle:
    folder = made(tmp_path / name, ("a", "b", "c"))
    return dataclasses.replace(Bundle.read(folder), place=folder)


def images(count: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.normal(size=(count, 3, 16, 16)).astype(np.float32))


def test_every_linear_of_the_blocks_gets_a_range_in_which_zero_is_a_step(tmp_path: Path) -> None:
    own = bundle(tmp_path)
    found = calibrate(own, images(), quiet())
    assert list(found.ranges) == linear_names(own.model)
    for low, high in found.ranges.values():
        assert low <= 0 <= high
        step = (high - low) / 255
        assert round(-low / step) * step == pytest.approx(-low, rel=1e-6)
    assert found.images == 12
    assert len(set(found.digests)) == 12
    assert found.error < 0.05
    assert found.agreement >= 0.9
    assert "calibrated on 12 images" in found.notes[0]
    assert "patches, pooling and heads" in found.notes[1]
    assert calibrate(own, iter(images()), quiet()) == found


def test_a_calibration_is_kept_beside_its_model_and_read_again(tmp_path: Path, own_cache: Path) -> None:
    own = bundle(tmp_path)
    assert find_calibration(own) is None
    with pytest.raises(UserError, match="int8 needs to be calibrated once on images"):
        read_calibration(own)
    found = calibrate(own, images(), quiet())
    path = write_calibration(own, found)
    assert path.name == FILE
    assert path.is_relative_to(tmp_path / "model" / "engines")
    assert read_calibration(own) == found
    model, ranges = prepared(own)
    assert ranges == found.ranges
    batch = torch.from_numpy(np.stack(images()))
    with torch.inference_mode():
        assert torch.allclose(model(batch), own.model(batch), atol=1e-4)
    elsewhere = dataclasses.replace(own, place=None)  # of a bare file: in the cache folder
    assert write_calibration(elsewhere, found).is_relative_to(own_cache)


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    own = bundle(tmp_path)
    found = calibrate(own, images(), quiet())
    path = write_calibration(own, found)
    other = bundle(tmp_path, "other")
    other.model.blocks[0].norm1.bias.data.add_(1)
    with pytest.raises(UserError, match="is of another model: weights or image size differ"):
        write_calibration(other, found)
    moved = write_calibration(other, dataclasses.replace(calibrate(other, images(), quiet())))
    moved.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="is of another model: weights or image size differ"):
        read_calibration(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.update(format="other"), "is not a calibration"),
        (lambda told: told.update(format_version=9), "has format 9; this vitkit reads 1"),
        (lambda told: told.pop("ranges"), "missing field ranges"),
        (lambda told: told.update(more=1), "unknown field 'more'"),
        (lambda told: told["ranges"].update({"blocks.0.mlp.fc1": [1]}), "is damaged"),
        (lambda told: told["ranges"].update({"head": [-1, 1]}), "head from -1.0 to 1.0 is no range of this model"),
        (lambda told: told["ranges"].update({"blocks.0.mlp.fc1": [2, 3]}), "is no range of this model"),
        (lambda told: told["factors"].update({"blocks.0.mlp.fc1": [1, 2]}), "factors of blocks.0.mlp.fc1 do not fit"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path: Path, change: object, message: str) -> None:
    own = bundle(tmp_path)
    path = write_calibration(own, calibrate(own, images(), quiet()))
    told = json.loads(path.read_text())
    change(told)  # type: ignore[operator]
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match=message):
        read_calibration(own)
    path.write_text(path.read_text()[:50])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_calibration(own)


def test_too_few_images_and_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    own = bundle(tmp_path)
    with pytest.raises(UserError, match="at least 8 images, got 3"):
        calibrate(own, images(3), quiet())
    own.model.blocks[1].norm2.weight.data[0] = float("nan")
    with pytest.raises(UserError, match=r"blocks.1.mlp.fc1 reads values that are not finite"):
        calibrate(own, images(), quiet())


def test_which_images_calibrate_is_a_function_of_their_content() -> None:
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(400)]
    ours, scored = split(digests)
    assert 70 <= len(ours) <= 128
    assert not {digests[n] for n in ours} & {digests[n] for n in scored}
    assert len(ours) + len(scored) == 400
    again, _ = split(digests[::-1])
    assert sorted(399 - n for n in again) == ours
    assert all(for_calibration(digests[n]) for n in ours)
    with pytest.raises(UserError, match=r"of 9 images calibrate and \d are left to score; .* Give at least 64 images"):
        split(digests[:9])


def test_deit_tiny_in_8_bits_gives_the_classes_of_fp32_on_images_not_calibrated_on() -> None:
    weights = shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors")
    samples = next(iter(read_source(shared_data("imagenet_sample")).splits.values()))
    own = load(weights)
    record = own.require_preprocess()
    batch = np.stack([to_planes(load_view(sample.source, record)) for sample in samples])
    ours, scored = split([digest(sample) for sample in samples])
    found: Calibration = calibrate(own, batch[ours], quiet())
    model, ranges = prepared(own, found)
    engine = imitate(model, ranges) if missing() else quantise(model, ranges)
    labels = torch.tensor([sample.label for sample in samples])[scored]
    with torch.inference_mode():
        wanted, logits = (
            torch.cat([network(torch.from_numpy(batch[n])[None]) for n in scored]) for network in (own.model, engine)
        )
    same = (wanted.argmax(1) == logits.argmax(1)).double().mean()
    right, before = ((rows.argmax(1) == labels).double().mean() for rows in (logits, wanted))
    assert same >= 0.97
    assert abs(right - before) <= 0.01
