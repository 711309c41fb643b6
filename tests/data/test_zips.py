"""Zip files read in place; the files are written by zipfile."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest

from standins import pack_zip, write_zip
from vitkit.config import UserError
from vitkit.data.zips import list_zip

MEMBERS = [
    ("a/one.txt", b"1" * 5000),
    ("a/.hidden", b"x"),
    ("__MACOSX/a/one.txt", b"x"),
    ("two.bin", bytes(range(256))),
]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_where_they_lie(tmp_path: Path, method: int) -> None:
    found = list_zip(write_zip(tmp_path / "x.zip", MEMBERS, method))
    assert {name: member.read() for name, member in found.items()} == {
        "a/one.txt": b"1" * 5000,
        "two.bin": bytes(range(256)),
    }
    assert pickle.loads(pickle.dumps(found["two.bin"])).read() == bytes(range(256))


def test_folders_and_a_longer_local_header_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.mkdir("folder")
        with archive.open(
            "folder/big.bin", "w", force_zip64=True
        ) as member:  # an extra field in the local header alone
            member.write(b"content")
    found = list_zip(tmp_path / "x.zip")
    assert {name: member.read() for name, member in found.items()} == {"folder/big.bin": b"content"}


def test_damage_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", MEMBERS)
    member = list_zip(path)["two.bin"]
    content = bytearray(path.read_bytes())
    content[member.offset + 60] ^= 255
    path.write_bytes(content)
    with pytest.raises(OSError, match="damaged, or shorter than when it was listed"):
        member.read()
    path.write_bytes(b"")
    with pytest.raises(OSError, match="damaged, or shorter"):
        member.read()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        member.read()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(pack_zip(MEMBERS)[:-30])
    with pytest.raises(UserError, match=r"x\.zip is not a whole zip file"):
        list_zip(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is not a whole zip file"):
        list_zip(path)
    with pytest.raises(
        UserError, match=r"has the member '\.\./out', compressed|has the member '\.\./out'; expected names inside"
    ):
        list_zip(write_zip(path, [("../out", b"x")]))
    with pytest.raises(UserError, match="has the member '/out'; expected names inside the archive"):
        list_zip(write_zip(path, [("/out", b"x")]))
    with pytest.raises(UserError, match="is not a whole zip file: a member has no name"):
        list_zip(write_zip(path, [(".", b"x")]))
    with pytest.raises(UserError, match=r"has the member 'a', compressed otherwise than by deflate\. Unpack it\."):
        list_zip(write_zip(path, [("a", b"x")], zipfile.ZIP_BZIP2))


def test_encrypted_and_doubled_members_are_refused(tmp_path: Path) -> None:
    content = bytearray(pack_zip([("a", b"xyz")]))
    entry = content.index(b"PK\x01\x02")
    content[6] |= 1
    content[entry + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.zip is encrypted\. Unpack it\."):
        list_zip(tmp_path / "x.zip")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", b"2")
    (tmp_path / "x.zip").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="has the member 'a' twice"):
        list_zip(tmp_path / "x.zip")
