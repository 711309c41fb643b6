"""Oxford-IIIT Pet in its two archives, and unpacked. Stand-ins are written by nothing of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from published import hashed, labelled, refused
from standins import BREEDS, pets_members, unpack, write_tar
from vitkit.data.containers import read_bytes
from vitkit.datasets.book import read_data


@pytest.mark.parametrize("packed", [True, False])
def test_pets_of_the_published_size(tmp_path: Path, packed: bool) -> None:
    counts = {"trainval.txt": 3680, "test.txt": 3669} if packed else {"trainval.txt": 80, "test.txt": 74}
    members = pets_members(counts)
    for name in ("images", "annotations"):
        inside = [(file, content) for file, content in members.items() if file.startswith(name)]
        write_tar(tmp_path / f"{name}.tar.gz", inside) if packed else unpack(tmp_path, inside)
    source = read_data(f"pets={tmp_path}", partial=not packed)
    assert source.classes == tuple(BREEDS)
    assert bool(source.notes) is not packed
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        assert len(source.splits[split]) == counts[file]
        assert [s.name for s in source.splits[split]] == hashed([s.name for s in source.splits[split]], split)
        assert all(name.startswith(f"{breed}_") for name, breed in labelled(source, split).items())
    sample = source.splits["test"][0]
    assert read_bytes(sample.source) == members[f"images/{sample.name}"]


def test_pets_of_another_layout(tmp_path: Path) -> None:
    members = pets_members({"trainval.txt": 40, "test.txt": 37})
    assert "no images; expected images.tar.gz and annotations.tar.gz" in refused("pets", tmp_path)
    unpack(tmp_path, [(name, content) for name, content in members.items() if name.startswith("images")])
    assert "no annotations; expected" in (text := refused("pets", tmp_path))
    assert text.endswith("The folder holds: images.")
    lists = tmp_path / "annotations"
    unpack(tmp_path, [("annotations/trainval.txt", b"Abyssinian_1;1\n"), ("annotations/test.txt", b"")])
    assert "has the line 'Abyssinian_1;1'; expected such as 'Abyssinian_100 1 1 1'" in refused("pets", tmp_path)
    (lists / "trainval.txt").write_text("Abyssinian_1 1 1 1\nBengal_2 1 1 1\n")
    assert "calls class 1 Abyssinian and, at Bengal_2, Bengal" in refused("pets", tmp_path)
    (lists / "trainval.txt").write_text("Abyssinian_1 1 1 1\n")
    assert "have 1 classes; expected 1 to 37" in refused("pets", tmp_path)
    (lists / "test.txt").unlink()
    assert (text := refused("pets", tmp_path)).endswith(
        "annotations has no test.txt. Fetch it again. Expected of Oxford-IIIT Pets: images.tar.gz and annotations.tar.gz, or the "
        "folders images/ and annotations/."
    ), text
