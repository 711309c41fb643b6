"""CIFAR-10 and -100 in the binary version; pickles refused. Stand-ins are written by nothing of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from published import hashed, refused
from standins import cifar_members, unpack, write_tar
from vitkit.data.pixels import open_picture
from vitkit.datasets.book import read_data


@pytest.mark.parametrize("version", [10, 100])
@pytest.mark.parametrize("kind", ["packed", "folder", "inside", "renamed"])
def test_cifar(tmp_path: Path, version: int, kind: str) -> None:
    members, pixels, labels = cifar_members(version)
    folder = tmp_path
    if kind == "packed":
        write_tar(tmp_path / f"cifar-{version}-binary.tar.gz", members.items())
    else:
        unpack(tmp_path, members.items())
        inner = tmp_path / next(iter(members)).partition("/")[0]
        folder = inner if kind == "inside" else inner.rename(tmp_path / "mine") if kind == "renamed" else tmp_path
    source = read_data(f"cifar{version}={folder}", partial=True)
    assert source.classes[-1] == ("truck" if version == 10 else "fine99")
    counts = {split: len(samples) for split, samples in source.splits.items()}
    assert counts == {"train": 15 if version == 10 else 3, "test": 3}
    for split, samples in source.splits.items():
        assert [int(s.name[-5:]) for s in samples] == hashed(range(len(samples)), split)
        for sample in samples:
            assert sample.label == labels[sample.name]
            assert np.array_equal(np.asarray(open_picture(sample.source)), pixels[sample.name])
    assert source.notes[0].startswith(f"a part of CIFAR-{version} only, not comparable with published figures: train ")


def test_cifar_pickles_are_refused(tmp_path: Path) -> None:
    for name in ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz"):
        (tmp_path / name).write_bytes(b"never opened")
    for version in (10, 100):
        text = refused(f"cifar{version}", tmp_path)
        assert (
            f"cifar-{version}-python.tar.gz is of the Python version, pickled objects that can run any program" in text
        )
        assert f"Fetch the binary version: cifar-{version}-binary.tar.gz" in text
    inside = tmp_path / "cifar-10-batches-py"
    unpack(inside, [("batches.meta", b""), ("data_batch_1", b"")])
    assert "cifar-10-batches-py/batches.meta is of the Python version" in refused("cifar10", inside)
    assert "cifar-10-batches-py is of the Python version" in refused("cifar10", _only(tmp_path, "cifar-10-batches-py"))


def _only(folder: Path, keep: str) -> Path:
    for path in folder.iterdir():
        if path.name != keep:
            path.unlink()
    return folder


def test_damaged_cifar_files_are_refused(tmp_path: Path) -> None:
    members, _, _ = cifar_members(10)
    folder = unpack(tmp_path, members.items()) / "cifar-10-batches-bin"
    whole = (folder / "data_batch_2.bin").read_bytes()
    (folder / "data_batch_2.bin").write_bytes(whole[:-1])
    assert "data_batch_2.bin of" in (text := refused("cifar10", tmp_path))
    assert "has 9,218 bytes, no multiple of the 3,073 of a record (1 of labels, 3,072 of an image)" in text
    (folder / "data_batch_2.bin").write_bytes(b"")
    assert "has 0 bytes" in refused("cifar10", tmp_path)
    (folder / "data_batch_2.bin").write_bytes(bytes([10]) + whole[1:])
    assert "record 0 of data_batch_2.bin" in (text := refused("cifar10", tmp_path))
    assert "has the class 10; batches.meta.txt names 10." in text
    (folder / "batches.meta.txt").unlink()
    assert "has no batches.meta.txt" in refused("cifar10", tmp_path)
    assert "no cifar-100-binary/ and no cifar-100-binary.tar.gz; expected the binary version" in refused(
        "cifar100", tmp_path
    )
