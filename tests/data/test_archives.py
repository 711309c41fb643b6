"""Tar files: layouts, label files, and what is hostile or damaged."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shared import shared_data
from tiny_tables import png, write_tar
from vitkit.config import UserError
from vitkit.data.archives import TarMember
from vitkit.data.containers import read_bytes
from vitkit.data.pixels import open_image
from vitkit.data.sources import read_source

FOLDERS = {"dog/b.png": png(1), "cat/a.png": png(2), "cat/in/c.png": png(3)}
SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since Python 3.11.4


def entries(source: object, split: str = "all") -> list[tuple[str, str]]:
    return [(s.name, source.classes[s.label]) for s in source.splits[split]]  # type: ignore[attr-defined]


def test_class_folders_are_read_in_the_order_of_folders_on_disk(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "pets.tar", {f"./{name}": content for name, content in FOLDERS.items()})
    source = read_source(path)
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert entries(source) == [("cat/a.png", "cat"), ("cat/in/c.png", "cat"), ("dog/b.png", "dog")]
    assert [read_bytes(s.source) for s in source.splits["all"]] == [png(2), png(3), png(1)]
    assert source.notes == ()
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "pets", **SAFELY)
    on_disk = read_source(tmp_path / "pets")
    assert entries(on_disk) == entries(source)


def test_splits_inside_and_one_folder_around_them(tmp_path: Path) -> None:
    members = {"train/cat/1.png": png(1), "train/dog/2.png": png(2), "val/dog/3.png": png(3)}
    for around in ("", "photos/"):
        path = write_tar(tmp_path / "t.tar", {around + name: content for name, content in members.items()})
        source = read_source(path)
        assert entries(source, "train") == [(f"{around}train/cat/1.png", "cat"), (f"{around}train/dog/2.png", "dog")]
        assert entries(source, "val") == [(f"{around}val/dog/3.png", "dog")]
        assert source.notes == ("1 of 2 classes have no image in the val split: 'cat'",)


def test_what_is_not_a_labelled_image_is_counted(tmp_path: Path) -> None:
    more = {"cat/._a.png": b"x", ".DS_Store": b"x", "cat/notes.md": b"x", "loose.png": png(9)}
    source = read_source(write_tar(tmp_path / "t.tar", {**FOLDERS, **more}))
    assert len(source.splits["all"]) == 3
    assert source.notes == (
        "t.tar: left out: 2 hidden files",
        "t.tar: left out: 1 images in no class folder, 1 files that are not images",
    )
    members = {"train/cat/1.png": png(1), "train/dog/2.png": png(2), "extra/dog/3.png": png(3)}
    source = read_source(write_tar(tmp_path / "t.tar", members))
    assert list(source.splits) == ["train"]
    assert source.notes == ("t.tar: left out: 1 images in extra/, which is no split",)


def test_shards_of_splits_in_a_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0000.tar", {"cat/1.png": png(1), "dog/1.png": png(2)})
    write_tar(tmp_path / "train-0001.tar", {"train/dog/1.png": png(3)})
    write_tar(tmp_path / "validation.tar", {"val/cat/1.png": png(4)})
    source = read_source(tmp_path)
    assert entries(source, "train") == [
        ("train-0000.tar/cat/1.png", "cat"),
        ("train-0000.tar/dog/1.png", "dog"),
        ("train-0001.tar/train/dog/1.png", "dog"),
    ]
    assert entries(source, "val") == [("validation.tar/val/cat/1.png", "cat")]
    write_tar(tmp_path / "test.tar", {"train/cat/1.png": png(4)})
    with pytest.raises(UserError, match=r"test\.tar, member train/cat/1\.png belongs to train by its split column"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "contents", "classes"),
    [
        ("cls", [b"1", b"0\n", b"1"], ("0", "1")),
        ("txt", [b"dog", b"cat", b"dog"], ("cat", "dog")),
        ("json", [b'{"label": 1}', b'{"label": 0, "x": []}', b'{"label": 1}'], ("0", "1")),
        ("json", [b'{"class": "dog"}', b'{"class": "cat"}', b'{"class": "dog"}'], ("cat", "dog")),
    ],
)
def test_label_files_of_the_same_key(
    tmp_path: Path, suffix: str, contents: list[bytes], classes: tuple[str, ...]
) -> None:
    members = {}
    for number, content in enumerate(contents):
        members[f"in/{number:04d}.png"] = png(number)
        members[f"in/{number:04d}.{suffix}"] = content
    path = write_tar(tmp_path / "t.tar", members)
    source = read_source(path)
    assert source.classes == classes
    assert [s.label for s in source.splits["all"]] == [1, 0, 1]
    if suffix == "cls":
        (tmp_path / "classes.txt").write_text("x\ny\nz\n")
        assert entries(read_source(path))[0] == ("in/0000.png", "y")


def test_a_list_in_json_is_several_labels(tmp_path: Path) -> None:
    members = {"a.png": png(1), "a.json": b'{"labels": ["sky", "sea"]}', "b.png": png(2), "b.json": b'{"labels": []}'}
    source = read_source(write_tar(tmp_path / "t.tar", members))
    assert source.multilabel
    assert source.classes == ("sea", "sky")
    assert [(s.label, s.labels) for s in source.splits["all"]] == [(-1, (0, 1)), (-1, ())]
    members["b.json"] = b'{"labels": "sky"}'
    with pytest.raises(UserError, match=r"one label for b\.png and a list for a\.png"):
        read_source(write_tar(tmp_path / "t.tar", members))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b.png": png(2)}, r"no label for b\.png: expected b\.cls, b\.json or b\.txt"),
        ({"a.left.png": png(2)}, r"two images of the key 'a': a\.png and a\.left\.png"),
        ({"a.json": b"{"}, r"t\.tar, a\.json cannot be read as json"),
        ({"a.json": b"9" * 5000}, r"a\.json cannot be read as json"),
        ({"a.json": b"[" * 100_000}, r"a\.json cannot be read as json"),
        ({"a.json": b"[1]"}, r"expected one of the keys label, labels, class, found no object"),
        ({"a.json": b'{"caption": "x"}'}, r"expected one of the keys label, labels, class, found 'caption'"),
        ({"a.json": b'{"label": 0.5}'}, r"label holds 0\.5; expected a class name or number"),
        ({"a.cls": b""}, r"t\.tar, a\.png has an empty label"),
        ({"a.cls": b"\xff"}, r"a\.cls cannot be read as cls"),
        ({"b.png": png(2), "b.json": b'{"label": "x"}'}, r"b\.png has the word 'x' for a label, and .*a\.png the number 1"),
    ],
)  # fmt: skip
def test_label_files_that_cannot_be_understood(tmp_path: Path, change: dict[str, bytes], message: str) -> None:
    members = {"a.png": png(1), "a.json": json.dumps({"label": 1}).encode(), **change}
    with pytest.raises(UserError, match=message):
        read_source(write_tar(tmp_path / "t.tar", members))


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "cat/../../a.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "t.tar", {**FOLDERS, name: png(4)})
    with pytest.raises(UserError, match=rf"t\.tar has the member '{name}'; expected names inside"):
        read_source(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device or another special file"),
        (tarfile.FIFOTYPE, "a device or another special file"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, message: str) -> None:
    path = write_tar(tmp_path / "t.tar", FOLDERS)
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("cat/x.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match=rf"t\.tar has the member 'cat/x\.png', {message}"):
        read_source(path)


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", {**FOLDERS, "./cat/a.png": png(9)})
    with pytest.raises(UserError, match=r"t\.tar has the member 'cat/a\.png' twice"):
        read_source(path)


@pytest.mark.parametrize("mode", ["bz2", "xz"])  # gzip is unpacked into the cache: test_shards.py
def test_compressed_archives_are_refused_by_what_they_hold(tmp_path: Path, mode: str) -> None:
    for name in ("t.tar", f"t.tar.{mode}"):
        with tarfile.open(tmp_path / name, f"w:{mode}") as archive:
            member = tarfile.TarInfo("cat/a.png")
            member.size = len(png(1))
            archive.addfile(member, io.BytesIO(png(1)))
        with pytest.raises(UserError, match=r"needs a plain tar file: unpack it"):
            read_source(tmp_path / name)


def test_cut_damaged_and_joined_archives_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", FOLDERS)
    whole = path.read_bytes()
    third = 4 * 512  # each image is a header and a block
    last = read_source(path).splits["all"][1].source
    assert isinstance(last, TarMember)
    for content, message in [
        (b"", "is not a whole tar file"),
        (b"no tar file" * 100, "is not a whole tar file"),
        (whole[: last.offset + 10], "is cut off inside its member 'cat/in/c.png'"),
        (whole[: third + 100], "is damaged"),
        (whole[:third] + b"\xff" * 512 + whole[third + 512 :], "is damaged, or two tar files joined"),
        (whole + whole, "is damaged, or two tar files joined"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_source(path)
    path.write_bytes(whole[:third])
    assert "t.tar has no end mark" in read_source(path).notes[0]


def test_a_member_of_negative_size_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", FOLDERS)
    content = bytearray(path.read_bytes())
    header = content[1024:1536]
    header[124:136] = b"\xff" * 10 + (2**16 - 1024).to_bytes(2, "big")  # -1024 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[1024:1536] = header
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.tar is (damaged|not a whole tar file)"):
        read_source(path)


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t\.tar holds no images \(1 other files\)"):
        read_source(write_tar(tmp_path / "t.tar", {"a/b.md": b"x"}))
    with pytest.raises(UserError, match=r"holds 1 images in no class folder and without label files"):
        read_source(write_tar(tmp_path / "t.tar", {"a.png": png(1)}))


def test_a_place_can_be_sent_and_says_when_the_archive_shrank(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", FOLDERS)
    source = read_source(path).splits["all"][2].source
    assert pickle.loads(pickle.dumps(source)) == source
    path.write_bytes(path.read_bytes()[:512])
    with pytest.raises(OSError, match="shorter than when it was listed"):
        read_bytes(source)


def test_the_flowers_are_read_where_they_lie() -> None:
    root = shared_data("flowers17")
    source = read_source(root)
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 340, "test": 272}
    assert source.classes == tuple(sorted((root / "classes.txt").read_text().split()))
    for sample in source.splits["test"][::40]:
        assert sample.name.split("/")[2] == source.classes[sample.label]
        assert min(open_image(sample.source).size) > 200


def test_captions_beside_images_in_class_folders_are_no_labels(tmp_path: Path) -> None:
    files = {
        f"{name}/{i}.{kind}": png(i) if kind == "png" else b"a nice photo"
        for name in ("ant", "bee")
        for i in (1, 2)
        for kind in ("png", "txt")
    }
    write_tar(tmp_path / "t.tar", files)
    source = read_source(tmp_path / "t.tar")
    assert source.classes == ("ant", "bee")
    assert any("4 .txt files beside images were not read" in note for note in source.notes)
