"""Caltech-101 in its archive, split as TensorFlow Datasets does. Stand-ins are written by nothing of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from published import hashed, labelled, refused
from standins import caltech_members, unpack, write_tar
from vitkit.data.containers import read_bytes
from vitkit.datasets.book import read_data


@pytest.mark.parametrize("kind", ["packed", "zip unpacked", "without the stray"])
def test_caltech_is_split_as_tensorflow_datasets_does(tmp_path: Path, kind: str) -> None:
    members = caltech_members()
    if kind == "without the stray":
        members = [member for member in members if not member[0].endswith("tmp")]
    place = tmp_path / "caltech-101" if kind == "zip unpacked" else tmp_path
    place.mkdir(exist_ok=True)
    write_tar(place / "101_ObjectCategories.tar.gz", members)
    source = read_data(f"caltech101={tmp_path}")
    assert source.classes[:4] == ("accordion", "BACKGROUND_Google", "class_00", "class_01")
    # once more, as the builder goes over the folders
    np.random.seed(1234)
    by_class: dict[str, list[str]] = {}
    for name, _ in caltech_members():
        by_class.setdefault(name.split("/")[1], []).append(name.split("/")[2])
    train = []
    for category in sorted(by_class):
        chosen = np.random.choice(sorted(by_class[category]), 30, replace=False)
        train += [f"{category}/{file}" for file in chosen if file.endswith(".jpg")]
    assert [sample.name for sample in source.splits["train"]] == hashed(train, "train")
    assert len(source.splits["test"]) == 6084
    assert all(name.split("/")[0] == category for name, category in labelled(source, "test").items())
    assert read_bytes(source.splits["test"][5].source) == source.splits["test"][5].name.encode()


def test_caltech_of_another_layout(tmp_path: Path) -> None:
    assert "(unpack caltech-101.zip, which holds it)" in refused("caltech101", tmp_path)
    unpack(tmp_path, [(f"101_ObjectCategories/ant/image_{i:04}.jpg", b"") for i in range(29)])
    assert "ant of" in (text := refused("caltech101", tmp_path))
    assert "has 29 files, fewer than the 30 that training takes" in text
    unpack(tmp_path, [(f"101_ObjectCategories/ant/image_{i:04}.jpg", b"") for i in range(40)])
    assert "has 1 classes, the published one 102" in refused("caltech101", tmp_path)
    unpack(tmp_path, [("101_ObjectCategories/image_0001.jpg", b"")])
    assert "holds image_0001.jpg; expected such as accordion/image_0001.jpg" in refused("caltech101", tmp_path)
