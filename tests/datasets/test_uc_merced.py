"""UC Merced Land Use in its zip file. Stand-ins are written by nothing of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from published import hashed, labelled, refused
from standins import unpack, write_zip
from vitkit.data.containers import read_bytes
from vitkit.datasets.book import read_data


def merced_members(each: int = 100) -> list[tuple[str, bytes]]:
    names = [f"{c}/{c}{i:02}.tif" for c in (f"use{k:02}" for k in range(21)) for i in range(each)]
    return [
        ("UCMerced_LandUse/readme.txt", b"text"),
        *((f"UCMerced_LandUse/Images/{n}", n.encode() * 9) for n in names),
    ]


@pytest.mark.parametrize("kind", ["packed", "folder", "inside", "innermost"])
def test_uc_merced(tmp_path: Path, kind: str) -> None:
    folder = tmp_path
    if kind == "packed":
        write_zip(tmp_path / "UCMerced_LandUse.zip", merced_members())
    else:
        unpack(tmp_path, merced_members())
        folder = {"folder": folder, "inside": folder / "UCMerced_LandUse"}.get(
            kind, folder / "UCMerced_LandUse" / "Images"
        )
    source = read_data(f"uc_merced={folder}")
    files = [name.rpartition("/")[2] for name, _ in merced_members() if name.endswith(".tif")]
    order = hashed(files, "train")
    found = {split: [s.name.rpartition("/")[2] for s in samples] for split, samples in source.splits.items()}
    assert found == {"train": order[:1000], "test": order[1000:]}
    assert all(name.startswith(use) for split in source.splits for name, use in labelled(source, split).items())
    sample = source.splits["test"][7]
    assert read_bytes(sample.source) == sample.name.encode() * 9


def test_uc_merced_of_another_layout(tmp_path: Path) -> None:
    assert "no UCMerced_LandUse.zip and no UCMerced_LandUse/; expected" in refused("uc_merced", tmp_path)
    unpack(tmp_path, [("UCMerced_LandUse/Images/beach.tif", b"")])
    assert "holds beach.tif; expected such as agricultural/agricultural00.tif" in refused("uc_merced", tmp_path)
    (tmp_path / "UCMerced_LandUse" / "Images" / "beach.tif").unlink()
    assert "holds no .tif files; expected such as" in refused("uc_merced", tmp_path)
