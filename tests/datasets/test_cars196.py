"""Stanford Cars: three archives and a .mat file beside them. Stand-ins are written by nothing of the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from published import hashed, refused
from standins import mat, unpack, write_tar
from vitkit.data.containers import read_bytes
from vitkit.datasets.book import read_data


def car_records(rows: Sequence[tuple[str, int]]) -> np.ndarray:
    kinds = [(field, "O") for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    records = np.zeros((1, len(rows)), dtype=kinds)
    for place, (name, number) in enumerate(rows):
        records[0, place] = (1, 2, 30, 40, number, name)
    return records


def car_members(counts: dict[str, int]) -> dict[str, bytes]:
    names = np.array([f"Make {i:03} Sedan 2012" for i in range(1, 197)], dtype=object)[None]
    members = {"devkit/cars_meta.mat": mat(class_names=names), "devkit/README.txt": b"text"}
    for split, count in counts.items():
        rows = [(f"{i:05}.jpg", i * 7 % 196 + 1) for i in range(1, count + 1)]
        file = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        members[file] = mat(annotations=car_records(rows))
        members |= {f"cars_{split}/{name}": f"{split} {name}".encode() for name, _ in rows}
    return members


@pytest.mark.parametrize("packed", [True, False])
def test_cars(tmp_path: Path, packed: bool) -> None:
    members = car_members({"train": 12, "test": 9})
    for folder, archive in (
        ("devkit", "car_devkit.tgz"),
        ("cars_train", "cars_train.tgz"),
        ("cars_test", "cars_test.tgz"),
    ):
        inside = [(name, content) for name, content in members.items() if name.startswith(folder + "/")]
        write_tar(tmp_path / archive, inside) if packed else unpack(tmp_path, inside)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(members["cars_test_annos_withlabels.mat"])
    source = read_data(f"cars196={tmp_path}", partial=True)
    assert len(source.classes) == 196
    for split, count in (("train", 12), ("test", 9)):
        samples = source.splits[split]
        assert [s.name[-9:-4] for s in samples] == hashed([f"{i:05}" for i in range(1, count + 1)], split)
        assert all(s.label == int(s.name[-9:-4]) * 7 % 196 for s in samples)
        assert all(read_bytes(s.source) == f"{split} {s.name[-9:]}".encode() for s in samples)
    assert not {s.name for s in source.splits["train"]} & {s.name for s in source.splits["test"]}


def test_cars_of_another_layout(tmp_path: Path) -> None:
    members = car_members({"train": 3, "test": 3})
    labels = members.pop("cars_test_annos_withlabels.mat")
    assert "no car_devkit.tgz and no devkit/; expected" in refused("cars196", tmp_path)
    unpack(tmp_path, members.items())
    assert "no cars_test_annos_withlabels.mat; expected" in refused("cars196", tmp_path)
    kinds = [("bbox_x1", "O"), ("fname", "O")]
    unlabelled = np.array([[(1, "00001.jpg")]], dtype=kinds)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(mat(annotations=unlabelled))
    assert "have no fields fname and class; cars_test_annos_withlabels.mat is meant" in refused("cars196", tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(mat(annotations=car_records([("00001.jpg", 197)])))
    assert "00001.jpg of the test images has the class 197; expected 1 to 196" in refused("cars196", tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(labels)
    (tmp_path / "cars_test").rename(tmp_path / "photos")
    assert "no cars_test.tgz and no cars_test/; expected" in refused("cars196", tmp_path)
    (tmp_path / "devkit" / "cars_meta.mat").unlink()
    assert "has no cars_meta.mat; expected" in refused("cars196", tmp_path)
