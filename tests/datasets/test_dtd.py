"""Describable Textures: one archive with lists of three splits. Stand-ins are written by nothing of the package."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from published import hashed, labelled, refused
from standins import TEXTURES, dtd_members, unpack, write_tar
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.datasets.book import read_data


@pytest.mark.parametrize("kind", ["packed", "plain tar", "folder", "inside"])
def test_dtd(tmp_path: Path, kind: str) -> None:
    members = dtd_members(40 if kind == "packed" else 1)
    if kind in ("packed", "plain tar"):
        path = write_tar(tmp_path / "dtd-r1.0.1.tar.gz", members.items())
        if kind == "plain tar":  # the published file was one under this name
            path.write_bytes(gzip.decompress(path.read_bytes()))
    else:
        unpack(tmp_path, members.items())
    source = read_data(f"dtd={tmp_path / 'dtd' if kind == 'inside' else tmp_path}", partial=kind != "packed")
    assert source.classes == tuple(sorted(TEXTURES))
    for split, file, tfds in (("train", "train1", "train"), ("val", "val1", "validation"), ("test", "test1", "test")):
        lines = members[f"dtd/labels/{file}.txt"].decode().split("\n")
        assert [s.name for s in source.splits[split]] == [f"images/{name}" for name in hashed(lines, tfds)]
        assert all(name.split("/")[1] == texture for name, texture in labelled(source, split).items())
    assert read_bytes(source.splits["val"][3].source) == source.splits["val"][3].name[7:].encode()


def test_dtd_in_a_folder_of_its_name_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "dtd").mkdir()
    write_tar(tmp_path / "dtd" / "dtd-r1.0.1.tar.gz", dtd_members(1).items())
    assert len(read_data("dtd", root=tmp_path, partial=True).splits["test"]) == 47
    (tmp_path / "dtd" / "dtd-r1.0.1.tar.gz").unlink()
    with pytest.raises(UserError, match=r"has no labels/train1\.txt"):
        read_data("dtd", root=tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no dtd-r1.0.1.tar.gz and no dtd/; expected" in refused("dtd", tmp_path / "empty")


def test_dtd_lists_of_another_layout(tmp_path: Path) -> None:
    members = dtd_members(1) | {"dtd/labels/val1.txt": b"banded_0001.jpg\n"}
    unpack(tmp_path, members.items())
    assert "labels/val1.txt of" in (text := refused("dtd", tmp_path))
    assert "has the line 'banded_0001.jpg'; expected such as 'banded/banded_0002.jpg'" in text
