"""Folders, zip and tar files through one listing, written by the standard library."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from vitkit.config import UserError
from vitkit.datasets.files.shipped import list_files


def test_members_of_a_folder_a_zip_and_a_tar_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    files = {"b/2.txt": b"two" * 100, "a.txt": b"one", ".hidden": b"", "__MACOSX/x": b""}
    folder, packed = tmp_path / "folder", tmp_path / "a.zip"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.mkdir("b")
        for name, content in files.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if "2" in name else zipfile.ZIP_STORED)
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(folder, ".")
    for path in (folder, packed, tmp_path / "a.tar", tmp_path / "a.tar.gz"):
        found = list_files(path)
        assert list(found) == ["a.txt", "b/2.txt"], path
        place = pickle.loads(pickle.dumps(found["b/2.txt"]))
        assert (Path(place).read_bytes() if isinstance(place, str) else place.read()) == files["b/2.txt"]
    member = list_files(packed)["b/2.txt"]
    raw = bytearray(packed.read_bytes())
    raw[member.offset + 40] ^= 0xFF
    packed.write_bytes(bytes(raw))
    with pytest.raises(OSError, match="the zip file is damaged"):
        member.read()
    (tmp_path / "no.zip").write_bytes(b"none")
    with pytest.raises(UserError, match=r"no\.zip is not a whole zip file"):
        list_files(tmp_path / "no.zip")
