"""The wrapped runtimes: the model's numbers, digits that depend on no neighbour, and graphs kept whole and shared."""

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.data.cache import cache_folder
from vitkit.data.pixels import Preprocess
from vitkit.datasets.files.arrays import ArrayImage
from vitkit.engines.book import make_engine
from vitkit.engines.eager import EagerEngine
from vitkit.engines.engine import Engine
from vitkit.engines.stream import stream
from vitkit.engines.wrapped import WrappedEngine
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.load import load_model

NAMES = ("openvino", "onnxruntime")
KEPT = {"openvino": "model.blob", "onnxruntime": "model.onnx"}


def small(seed: int = 0, size: tuple[int, int] = (20, 28), **config: object) -> Bundle:
    values = {"embed_dim": 40, "depth": 2, "num_heads": 5, "mlp_dim": 72, "num_classes": 7, **config}
    model = VisionTransformer(ViTConfig(patch_size=(4, 4), image_size=size, **values))  # type: ignore[arg-type]
    model.init_weights(seed)
    if model.head is not None:
        model.head.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    return Bundle(model.eval(), Preprocess(size))


def needed(name: str) -> None:
    if reason := importlib.import_module(f"vitkit.engines.{name}").missing():
        pytest.skip(reason)


def pictures(count: int, size: tuple[int, int] = (20, 28)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, *size), dtype=np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", ["cls", "mean", "map"])
def test_numbers_are_the_models_in_fp32(name: str, pool: str) -> None:
    needed(name)
    bundle = small(pool=pool)
    engine, images = make_engine(bundle, name), pictures(5)
    assert isinstance(engine, Engine)
    wanted = EagerEngine(bundle.model)(images)
    for found in (engine(images), engine.outputs_of_group(images)):
        assert np.abs(found.logits - wanted.logits).max() < 1e-5
        assert np.abs(found.features - wanted.features).max() < 1e-5
        assert found.logits.dtype == found.features.dtype == np.float32
    assert np.abs(engine(images[:1]).logits - wanted.logits[:1]).max() < 1e-5
    assert not engine.facts.ours
    assert engine.facts.library.startswith(f"{name} 2" if name == "openvino" else f"{name} 1")


@pytest.mark.parametrize("name", NAMES)
def test_an_images_digits_depend_on_no_other_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    engine, images = make_engine(small(), name), pictures(9)
    all_at_once = engine(images)
    for place in range(9):
        alone = engine.outputs_of_group(images[place : place + 1])
        assert np.array_equal(alone.logits[0], all_at_once.logits[place])
        assert np.array_equal(alone.features[0], all_at_once.features[place])
        assert np.array_equal(engine(images[place : place + 1]).logits[0], all_at_once.logits[place])  # by both threads
    backwards = engine(np.ascontiguousarray(images[::-1]))
    assert np.array_equal(backwards.logits[::-1], all_at_once.logits)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert np.array_equal(make_engine(small(), name)(images).logits, all_at_once.logits)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_the_callers_own(name: str) -> None:
    needed(name)
    engine, images = make_engine(small(), name), pictures(3)
    first = engine.outputs_of_group(images)
    before = first.logits.copy()
    engine.outputs_of_group(pictures(3)[::-1])
    assert np.array_equal(first.logits, before)


@pytest.mark.parametrize("name", NAMES)
def test_files_come_through_in_order(name: str) -> None:
    needed(name)
    rng = np.random.default_rng(0)
    sources = [ArrayImage(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)) for _ in range(17)]
    bundle = small()
    found = list(stream(make_engine(bundle, name), Preprocess((20, 28)), sources))
    wanted = list(stream(EagerEngine(bundle.model), Preprocess((20, 28)), sources))
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a.logits - b.logits).max() < 1e-5  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_made_once_and_again_where_it_is_damaged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed(name)
    place = small().save(tmp_path / "model")
    exporter = importlib.import_module(f"vitkit.exporters.{'onnx' if name == 'onnxruntime' else name}")
    writer = "write_onnx" if name == "onnxruntime" else "write_openvino"
    write, calls = getattr(exporter, writer), []
    monkeypatch.setattr(exporter, writer, lambda *a, **k: (calls.append(1), write(*a, **k)))
    images = pictures(3)
    first = make_engine(load_model(place), name)(images)
    again = make_engine(load_model(place), name)(images)
    assert len(calls) == 1
    assert np.array_equal(first.logits, again.logits)
    (graph,) = place.glob(f"engines/*/{name}-fp32-*/{KEPT[name]}")
    assert capsys.readouterr().err == ""
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    mended = make_engine(load_model(place), name)(images)
    assert len(calls) == 2
    assert np.array_equal(first.logits, mended.logits)
    assert f"{KEPT[name]} is damaged or missing); it is made anew" in capsys.readouterr().err
    graph.unlink()
    (graph.parent / "facts.json").write_text("{")
    make_engine(load_model(place), name)
    assert len(calls) == 3
    assert "facts.json is damaged or missing); it is made anew" in capsys.readouterr().err
    make_engine(load_model(place), name)
    assert len(calls) == 3
    assert not list(place.glob("engines/*/.partial*"))


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_and_other_sizes_have_graphs_of_their_own(name: str, tmp_path: Path) -> None:
    needed(name)
    place = small().save(tmp_path / "model")
    images = pictures(2)
    before = make_engine(load_model(place), name)(images)
    small(seed=1).save(place)
    after = make_engine(load_model(place), name)(images)
    wanted = EagerEngine(small(seed=1).model)(images)
    assert np.abs(after.logits - wanted.logits).max() < 1e-5 < np.abs(after.logits - before.logits).max()
    larger = load_model(place, image_size=(28, 28))
    found = make_engine(larger, name)(pictures(2, (28, 28)))
    assert np.abs(found.logits - EagerEngine(larger.model)(pictures(2, (28, 28))).logits).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_can_be_written_the_graph_is_made_for_this_process(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed(name)
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "file"))
    bundle, images = small(), pictures(2)
    found = make_engine(bundle, name)(images)
    assert np.abs(found.logits - EagerEngine(bundle.model)(images).logits).max() < 1e-5
    assert "warning: the compiled graph is not kept: cannot write" in capsys.readouterr().err


def _use(name: str, place: Path, results: Path) -> None:
    engine = make_engine(load_model(place), name)
    np.save(results, engine(pictures(2)).logits)


@pytest.mark.parametrize("name", NAMES)
def test_processes_share_what_they_make(name: str, tmp_path: Path) -> None:
    needed(name)
    place, spawn = small().save(tmp_path / "model"), multiprocessing.get_context("spawn")
    results = [tmp_path / f"{number}.npy" for number in range(2)]
    workers = [spawn.Process(target=_use, args=(name, place, result)) for result in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert np.array_equal(*map(np.load, results))
    assert len(list(place.glob(f"engines/*/{name}-*"))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_and_a_broken_runtime_are_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = "onnx" if name == "onnxruntime" else name
    module = importlib.import_module(f"vitkit.engines.{name}")
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "site-packages" not in p)])
    importlib.invalidate_caches()
    assert module.missing() == f"{name} is not installed; get it with pip install 'vitkit[{extra}]'."
    with pytest.raises(UserError, match=rf"--engine {name} cannot be used here: {name} is not installed"):
        make_engine(small(), name)
    (tmp_path / f"{name}.py").write_text("raise OSError('libtbb.so.12: cannot open shared object file')")
    importlib.invalidate_caches()
    assert module.missing() == (
        f"{name} is installed and cannot be used: OSError: libtbb.so.12: cannot open shared object file."
    )
    (tmp_path / f"{name}.py").write_text("import a_package_that_is_not_there")
    importlib.invalidate_caches()
    assert module.missing() == f"{name} is installed and cannot be used: No module named 'a_package_that_is_not_there'."


def test_bf16_follows_fp32_and_is_refused_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needed("openvino")
    import openvino

    def lacking(self: object, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8"]

    from vitkit.engines.openvino import process_core

    if "BF16" in process_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        bundle, images = small(), pictures(4)
        engine = make_engine(bundle, "openvino", "bf16")
        wanted = EagerEngine(bundle.model)(images).logits
        off = np.abs(engine(images).logits - wanted).max() / np.abs(wanted).max()
        assert 1e-5 < off < 0.03
        assert engine.facts.precision == "bf16"
    monkeypatch.setattr(openvino.Core, "get_property", lacking)
    with pytest.raises(UserError, match="this processor multiplies no bf16 matrices"):
        make_engine(small(), "openvino", "bf16")
    with pytest.raises(UserError, match="--engine onnxruntime computes in fp32, int8, not in bf16"):
        make_engine(small(), "onnxruntime", "bf16")


SIGNALS = """
import faulthandler, gc, signal, subprocess, sys, numpy
from pathlib import Path
from vitkit.engines.openvino import open_folder
faulthandler.enable()  # signals have a stack of their own, as in many servers and in pytest
signal.signal(signal.SIGCHLD, lambda *_: None)
images = numpy.zeros((3, 3, int(sys.argv[2]), int(sys.argv[3])), numpy.float32)
engines = [open_folder(Path(sys.argv[1]), "fp32") for _ in range(3)]
for engine in engines:
    engine(images), engine(images[:1])
while engines:
    del engines[0], engine
    engine = engines[0] if engines else None
    gc.collect()
    subprocess.run(["true"])
print("alive")
"""


def test_a_signal_after_an_engine_is_gone_does_no_harm(tmp_path: Path) -> None:
    needed("openvino")
    bundle = small()
    place = bundle.save(tmp_path / "model")
    make_engine(load_model(place), "openvino")
    (folder,) = place.glob("engines/*/openvino-*")
    size = map(str, bundle.config.image_size)
    done = subprocess.run([sys.executable, "-c", SIGNALS, str(folder), *size], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_one_image_alone_is_computed_by_all_threads() -> None:
    from vitkit.answers import Outputs
    from vitkit.engines.engine import EngineFacts

    calls: list[str] = []

    def by(name: str) -> object:
        def infer(images: np.ndarray) -> Outputs:
            calls.append(name)
            return Outputs(images.sum((1, 2, 3))[:, None], images.mean((1, 2, 3))[:, None])

        return infer

    facts = EngineFacts("none", "fp32", "none 1", False, 2)
    engine = WrappedEngine(facts, by("single"), lambda: by("all"), Path())  # type: ignore[arg-type,return-value]
    engine(pictures(1))
    engine(pictures(1))
    assert calls == ["all", "all"]
    engine(pictures(3))
    engine.outputs_of_group(pictures(1))
    assert calls == ["all", "all", *["single"] * 4]
    assert cache_folder()
    assert isinstance(importlib.import_module("vitkit.engines.openvino"), ModuleType)
