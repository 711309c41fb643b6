"""MNIST in IDX files written by struct. Stand-ins are written by nothing of the package."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from published import hashed, refused
from standins import unpack
from vitkit.data.pixels import open_picture
from vitkit.datasets.book import read_data


def idx(kind: int, array: np.ndarray) -> bytes:
    return struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_members() -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    random = np.random.default_rng(0)
    members, truth = {}, {}
    for split, start, count in (("train", "train", 30), ("test", "t10k", 20)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8)
        members |= {f"{start}-images-idx3-ubyte": idx(8, images), f"{start}-labels-idx1-ubyte": idx(8, labels)}
        truth[split] = images, labels
    return members, truth


@pytest.mark.parametrize("kind", ["gz", "plain", "raw"])
def test_mnist(tmp_path: Path, kind: str) -> None:
    members, truth = mnist_members()
    for name, content in members.items():
        if kind == "gz":
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            unpack(tmp_path / "raw" if kind == "raw" else tmp_path, [(name, content)])
    source = read_data(f"mnist={tmp_path}", partial=True)
    assert source.classes == tuple("0123456789")
    for split, (images, labels) in truth.items():
        samples = source.splits[split]
        assert [int(s.name[-5:]) for s in samples] == hashed(range(len(labels)), split)
        for sample in samples:
            number = int(sample.name[-5:])
            pixels = np.asarray(open_picture(sample.source))
            assert pixels.shape == (28, 28, 3)
            assert all(np.array_equal(pixels[:, :, channel], images[number]) for channel in range(3))
            assert sample.label == labels[number]


def test_mnist_of_another_layout(tmp_path: Path) -> None:
    members, _ = mnist_members()
    assert "no train-images-idx3-ubyte; expected train-images-idx3-ubyte, train-labels" in refused("mnist", tmp_path)
    unpack(tmp_path, members.items())

    def put(content: bytes, name: str = "train-labels-idx1-ubyte") -> str:
        (tmp_path / name).write_bytes(content)
        return refused("mnist", tmp_path)

    assert "is no IDX file: it begins with 89 50 4e 47; expected 00 00" in put(b"\x89PNG....")
    assert "is no IDX file: it begins with nothing" in put(b"")
    assert "is cut off inside its header" in put(b"\0\0\x08\x01\0")
    labels = np.zeros(30, np.uint8)
    assert "has 29 bytes of numbers, its header says 30" in put(idx(8, labels)[:-1])
    assert "has more bytes of numbers, its header says 30" in put(idx(8, labels) + b"\0")
    assert "has 2 dimensions of uint8; expected 1 of uint8" in put(idx(8, labels[None]))
    assert "has 1 dimensions of >i2; expected 1 of uint8" in put(idx(11, labels.astype(">i2")))
    assert "says it has 1,099,511,627,776 bytes" in put(b"\0\0\x08\x02" + struct.pack(">II", 2**20, 2**20))
    assert "train has 30 images and 29 labels" in put(idx(8, labels[1:]))
    assert "train-labels has the class 10; expected 0 to 9" in put(idx(8, labels + 10))
    assert "is damaged:" in put(gzip.compress(idx(8, labels))[:-12])
