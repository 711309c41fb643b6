"""Oxford Flowers-102: tgz or folder, and two .mat files. Stand-ins are written by nothing of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from published import hashed, refused
from standins import jpeg, mat, unpack, write_flowers
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.datasets.book import read_data


@pytest.mark.parametrize("packed", [True, False])
def test_flowers(tmp_path: Path, packed: bool) -> None:
    labels, sets = write_flowers(tmp_path, packed=packed)
    source = read_data(f"flowers102={tmp_path}", partial=not packed)
    assert len(source.classes) == len(set(source.classes)) == 102
    assert (source.classes[0], source.classes[48], source.classes[101]) == (
        "pink primrose",
        "oxeye daisy",
        "blackberry lily",
    )
    for split, theirs, tfds in (("train", "trnid", "train"), ("val", "valid", "validation"), ("test", "tstid", "test")):
        there = [int(i) for i in sets[theirs] if packed or i <= 300]
        assert [s.name for s in source.splits[split]] == hashed([f"image_{i:05}.jpg" for i in there], tfds)
        assert all(s.label == labels[int(s.name[6:11]) - 1] - 1 for s in source.splits[split])
    sample = source.splits["train"][0]
    assert read_bytes(sample.source) == b"image %d" % int(sample.name[6:11])
    if not packed:
        assert f"train {len(source.splits['train'])} of 1,020" in source.notes[0]
        with pytest.raises(
            UserError, match=r"is not the published one: images found of images published: train \d+ of 1,020"
        ):
            read_data(f"flowers102={tmp_path}")


def test_flowers_of_another_layout(tmp_path: Path) -> None:
    assert "no 102flowers.tgz and no jpg/; expected 102flowers.tgz or jpg/, with" in refused("flowers102", tmp_path)
    unpack(tmp_path, [("jpg/image_00001.jpg", jpeg(1))])
    assert "no imagelabels.mat; expected" in refused("flowers102", tmp_path)
    (tmp_path / "imagelabels.mat").write_bytes(mat(labels=np.array([[1, 103]])))
    assert "no setid.mat; expected" in refused("flowers102", tmp_path)
    sets = {"trnid": [[1]], "valid": [[2]], "tstid": [[3]]}
    (tmp_path / "setid.mat").write_bytes(mat(**sets))
    assert "has classes from 1 to 103; expected 1 to 102" in refused("flowers102", tmp_path)
    (tmp_path / "imagelabels.mat").write_bytes(mat(labels=np.array([[1, 102]])))
    assert "tstid of" in (text := refused("flowers102", tmp_path))
    assert "has the images 3 to 3; imagelabels.mat has labels of 2" in text
    (tmp_path / "setid.mat").write_bytes(mat(trnid=[[1]], valid=[[2]]))
    assert "has no variable 'tstid'; it holds trnid, valid." in refused("flowers102", tmp_path)
    (tmp_path / "setid.mat").write_bytes(mat(trnid=[[1]], valid=[[2]], tstid=np.zeros((1, 0))))
    assert "tstid of" in (text := refused("flowers102", tmp_path))
    assert "is no list of numbers" in text
