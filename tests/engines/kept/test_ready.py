"""A known model answers from its compiled graph alone, without torch; a changed one never does."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.bundle import Bundle
from vitkit.data.pixels import Preprocess
from vitkit.engines.kept.places import engine_folder
from vitkit.engines.kept.ready import keep_ready, open_ready, ready
from vitkit.jobs.convert import convert
from vitkit.jobs.load import load
from vitkit.jobs.predict import predict
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.unknown import fit_unknown

NAMES = ("openvino", "onnxruntime")


def needed(name: str) -> None:
    if reason := importlib.import_module(f"vitkit.engines.{name}").missing():
        pytest.skip(reason)


def bundle(seed: int = 0, **changes: object) -> Bundle:
    model = VisionTransformer(ViTConfig(24, 2, 3, 48, (4, 4), (16, 20), num_classes=4))
    model.init_weights(seed)
    assert model.head is not None
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    rng = np.random.default_rng(seed)
    known = {
        "classes": ("ape", "bee", "cat", "döner"),
        "temperature": 1.7,
        "unknown": fit_unknown(rng.standard_normal((80, 24)), rng.standard_normal((40, 24))),
        "source": "a test",
        **changes,
    }
    return Bundle(model.eval(), Preprocess((16, 20), fit="squash"), **known)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (30, 26, 3), dtype=np.uint8)).save(path)
    return paths


def opened_without_loading(place: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, name: str) -> object:
    with monkeypatch.context() as patched:
        patched.setattr("vitkit.jobs.load.load", lambda *_, **__: pytest.fail("the model was loaded"))
        return predict(place, photos, engine=name, top=4).predictions


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multilabel", [False, True])
def test_answers_are_the_same_with_and_without_loading(
    name: str, multilabel: bool, tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed(name)
    more = {"task": "multi-label", "thresholds": (0.1, 0.5, 0.9, 0.3)} if multilabel else {}
    place = bundle(**more).save(tmp_path / "model")
    first = predict(place, photos, engine=name, top=4).predictions
    assert opened_without_loading(place, photos, monkeypatch, name) == first
    moved = place.rename(tmp_path / "elsewhere")
    assert opened_without_loading(moved, photos, monkeypatch, name) == first
    copied = tmp_path / "copied"
    shutil.copytree(moved, copied)
    assert opened_without_loading(copied, photos, monkeypatch, name) == first
    plain = predict(copied, photos, engine="eager", top=4).predictions
    for (path, a), (other, b) in zip(first, plain, strict=True):
        assert (path, a.classes, a.labels, a.unknown) == (other, b.classes, b.labels, b.unknown)
        assert np.abs(np.subtract(a.probabilities, b.probabilities)).max() < 1e-5


def test_a_changed_model_is_loaded_again(tmp_path: Path, photos: list[Path]) -> None:
    needed("openvino")
    place = bundle().save(tmp_path / "model")
    before = predict(place, photos, engine="openvino").predictions
    times = {each: os.stat(each) for each in place.iterdir() if each.is_file()}
    bundle(seed=1).save(place)
    for each, time in times.items():  # as if it were as old as what it replaced
        os.utime(each, ns=(time.st_atime_ns, time.st_mtime_ns))
    after = predict(place, photos, engine="openvino").predictions
    assert after != before
    wanted = predict(place, photos, engine="eager").predictions
    assert [p.classes for _, p in after] == [p.classes for _, p in wanted]
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config["calibration"]["temperature"] = 9.0
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert predict(place, photos, engine="openvino").predictions[0][1].probability < after[0][1].probability
    (place / "unknown.safetensors").unlink()
    with pytest.raises(ValueError, match=r"unknown\.safetensors"):
        predict(place, photos, engine="openvino")


def test_each_setting_has_its_own_record(tmp_path: Path, photos: list[Path]) -> None:
    needed("onnxruntime")
    place = bundle().save(tmp_path / "model")
    predict(place, photos, engine="onnxruntime")
    assert open_ready(place, "onnxruntime", "auto", {})
    assert not open_ready(place, "onnxruntime", "fp32", {})
    assert not open_ready(place, "openvino", "auto", {})
    assert not open_ready(place, "auto", "auto", {})
    assert not open_ready(place, "onnxruntime", "auto", {"image_size": (20, 20)})
    larger = predict(place, photos, engine="onnxruntime", overrides={"image_size": (20, 20)}).predictions
    found = open_ready(place, "onnxruntime", "auto", {"image_size": (20, 20)})
    assert found is not None
    assert found.preprocess.image_size == (20, 20)
    assert predict(place, photos, engine="onnxruntime", overrides={"image_size": (20, 20)}).predictions == larger
    assert predict(place, photos, engine="onnxruntime").predictions != larger


def test_auto_is_remembered_only_by_a_stored_benchmark(tmp_path: Path) -> None:
    needed("onnxruntime")
    place = bundle().save(tmp_path / "model")
    loaded = load(place, engine="onnxruntime")
    assert keep_ready(place, loaded, "auto", "auto", {}) is None
    benchmark = engine_folder(loaded) / "benchmark-here.json"
    benchmark.write_text("{}")
    assert keep_ready(place, loaded, "auto", "auto", {})
    assert open_ready(place, "auto", "auto", {})
    benchmark.write_text('{"recommended": "another"}')
    assert not open_ready(place, "auto", "auto", {})


def test_another_processor_or_library_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed("onnxruntime")
    place = bundle().save(tmp_path / "model")
    keep_ready(place, load(place, engine="onnxruntime"), "onnxruntime", "auto", {})
    for name, value in (("processor_sign", "another"), ("processor_threads", 99)):
        with monkeypatch.context() as patched:
            patched.setattr(f"vitkit.engines.kept.ready.{name}", lambda value=value: value)
            assert not open_ready(place, "onnxruntime", "auto", {})
    assert open_ready(place, "onnxruntime", "auto", {})


def test_a_checkpoint_file_has_its_record_in_the_cache(tmp_path: Path, photos: list[Path]) -> None:
    needed("onnxruntime")
    weights = convert(bundle().save(tmp_path / "model"), tmp_path / "weights", to="timm").files[0]
    overrides = {"mean": (0.5,) * 3, "std": (0.4,) * 3}
    before = sorted(weights.parent.iterdir())
    first = predict(weights, photos, engine="onnxruntime", overrides=overrides).predictions
    found = open_ready(weights, "onnxruntime", "auto", overrides)
    assert found is not None
    assert found.preprocess.std == (0.4,) * 3
    assert found.notes == load(weights, **overrides).notes  # type: ignore[arg-type]
    assert predict(weights, photos, engine="onnxruntime", overrides=overrides).predictions == first
    assert sorted(weights.parent.iterdir()) == before
    (weights.parent / "vitkit.json").unlink()  # what said something of the weights beside it
    assert not open_ready(weights, "onnxruntime", "auto", overrides)


def test_plain_pytorch_and_models_in_memory_keep_no_record(tmp_path: Path, photos: list[Path]) -> None:
    place = bundle().save(tmp_path / "model")
    predict(place, photos, engine="eager")
    assert not (place / "engines").exists()
    loaded = load(place, engine="eager")
    assert keep_ready(place, loaded, "eager", "auto", {}) is None
    assert open_ready(tmp_path / "nothing", "eager", "auto", {}) is None
    assert open_ready(place, "eager", "auto", {"mean": object()}) is None
    assert ready(loaded).answers == loaded.answers


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}', ""])
def test_a_damaged_record_is_made_anew(damage: str, tmp_path: Path, photos: list[Path]) -> None:
    needed("onnxruntime")
    place = bundle().save(tmp_path / "model")
    first = predict(place, photos, engine="onnxruntime").predictions
    (record,) = place.glob("engines/ready-*.json")
    record.write_text(damage)
    assert open_ready(place, "onnxruntime", "auto", {}) is None
    assert predict(place, photos, engine="onnxruntime").predictions == first
    assert open_ready(place, "onnxruntime", "auto", {}) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_cached_engine_predicts_without_torch(name: str, tmp_path: Path, photos: list[Path]) -> None:
    needed(name)
    place = bundle().save(tmp_path / "model")
    outs = [tmp_path / "first.csv", tmp_path / "second.csv"]
    program = (
        "import sys\nfrom vitkit.cli.main import main\n"
        "code = main(sys.argv[1:])\nprint('torch' in sys.modules, 'vitkit.zoo' in sys.modules)\nsys.exit(code)"
    )
    said = []
    for out in outs:
        words = ["predict", str(place), str(photos[0]), str(tmp_path / "4.png"), "--engine", name, "-o", str(out)]
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
        said.append(done.stdout.splitlines())
    assert said[0][-1] == "True True"
    assert said[1][-1] == "False False"
    assert said[0][:-2] == said[1][:-2]
    assert outs[0].read_bytes() == outs[1].read_bytes()
