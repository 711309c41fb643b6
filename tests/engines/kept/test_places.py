"""What engines make for a model is found by the model's content, and is there whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.data.cache import cache_folder
from vitkit.data.pixels import Preprocess
from vitkit.engines.kept.places import KEY, candidates, engine_folder, fingerprint, make_once, write_whole
from vitkit.jobs.convert import convert
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.load import load_model


def small(seed: int = 0, classes: int = 3) -> Bundle:
    model = VisionTransformer(ViTConfig(16, 1, 2, 24, (4, 4), (8, 8), num_classes=classes))
    model.init_weights(seed)
    return Bundle(model.eval(), Preprocess((8, 8)))


def test_the_fingerprint_is_of_configuration_and_values() -> None:
    changed = small()
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-6  # type: ignore[union-attr,operator]
    assert fingerprint(small()) == fingerprint(small())
    assert len({fingerprint(each) for each in (small(), small(1), small(classes=4), changed)}) == 4


def test_the_folder_is_beside_a_bundle_and_else_in_the_cache(tmp_path: Path) -> None:
    in_memory = small()
    key = fingerprint(in_memory)[:KEY]
    assert engine_folder(in_memory) == cache_folder() / "engines" / key
    place = in_memory.save(tmp_path / "model")
    assert engine_folder(load_model(place)) == place / "engines" / key
    assert candidates(load_model(place)) == (place / "engines" / key, cache_folder() / "engines" / key)
    adapted = load_model(place, image_size=(12, 8))
    assert engine_folder(adapted).name == fingerprint(adapted)[:KEY] != key
    bare = load_model(convert(place, tmp_path / "timm", to="timm").files[0])
    assert engine_folder(bare).parent == cache_folder() / "engines"


def test_a_bundle_that_cannot_be_written_uses_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = small().save(tmp_path / "model")
    bundle = load_model(place)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(place)) and allowed(path, mode))
    assert engine_folder(bundle).parent == cache_folder() / "engines"


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "graph.bin"
    write_whole(path, lambda partial: partial.write_bytes(b"old"))

    def broken(partial: Path) -> None:
        assert partial.parent == path.parent
        assert partial.suffix == ".bin"
        partial.write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_whole(path, broken)
    assert path.read_bytes() == b"old"
    (path.parent / ".partial-1-graph.bin").write_bytes(b"of a killed process")
    write_whole(path, lambda partial: partial.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert not list(path.parent.glob("*partial*"))
    assert not list(path.parent.glob(".partial*"))


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    def writer(name: str) -> object:
        def write(partial: Path) -> None:
            partial.mkdir()
            (partial / name).touch()

        return write

    write_whole(tmp_path / "graph", writer("a"))  # type: ignore[arg-type]
    write_whole(tmp_path / "graph", writer("b"))  # type: ignore[arg-type]
    assert [each.name for each in (tmp_path / "graph").iterdir()] == ["b"]
    make_once(tmp_path / "graph", writer("c"))  # type: ignore[arg-type]
    assert [each.name for each in (tmp_path / "graph").iterdir()] == ["b"]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".partial")] == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (write_whole, make_once):
        with pytest.raises(UserError, match=r"cannot write .*graph\.bin: .*VITKIT_CACHE"):
            write(tmp_path / "file" / "graph.bin", lambda partial: partial.write_bytes(b""))


def _make(folder: Path) -> None:
    def writer(partial: Path) -> None:
        with (folder / "made").open("a") as file:
            file.write(f"{os.getpid()}\n")
        partial.write_bytes(b"x" * 1000)

    make_once(folder / "graph.bin", writer)
    assert (folder / "graph.bin").read_bytes() == b"x" * 1000


def test_processes_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_make, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len((tmp_path / "made").read_text().splitlines()) == 1
