"""The door: what a file is decides its content; whatever is no weights is named for what it is; and writing loses nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitkit.config import UserError
from vitkit.weights.files import SUFFIXES, open_weights, write_weights

TENSORS = {"head.weight": torch.arange(6.0).reshape(2, 3), "a/b": torch.ones(2).half(), "file": torch.arange(3)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_is_read_back_bit_for_bit_in_its_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"x{suffix}"
    write_weights(path, TENSORS)
    read = open_weights(path).read()
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    again = tmp_path / f"again{suffix}"
    write_weights(again, TENSORS)
    if suffix in (".safetensors", ".npz"):
        assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_publishers_own_libraries_read_what_was_written(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_weights(tmp_path / f"x{suffix}", TENSORS)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays.files} == {k: t.tolist() for k, t in TENSORS.items()}
        assert all(info.compress_type == zipfile.ZIP_STORED for info in arrays.zip.infolist())
    found = [load_file(tmp_path / "x.safetensors"), torch.load(tmp_path / "x.pth", weights_only=True)]
    for tensors in found:
        assert type(tensors) is dict
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
            k: t.tolist() for k, t in TENSORS.items()
        }
    assert open_weights(tmp_path / "x.safetensors").metadata == {"format": "pt"}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_views_parameters_and_shared_tensors_are_written_as_what_they_show(tmp_path: Path, suffix: str) -> None:
    large = torch.randn(1000, 100)
    tensors = {
        "view": large[0], "turned": large[:2].T, "one": large[:3], "same": large[:3], "grad": torch.nn.Parameter(large[:1]),
        "wide": torch.ones(1).expand(7), "none": torch.zeros(0, 3), "scalar": torch.tensor(1.0),
    }  # fmt: skip
    write_weights(tmp_path / f"x{suffix}", tensors)
    assert (tmp_path / f"x{suffix}").stat().st_size < 20_000
    read = open_weights(tmp_path / f"x{suffix}").read()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".safetensors", ".npz", ".pth"):
        path = tmp_path / f"x{suffix}"
        write_weights(path, TENSORS)
        before = path.read_bytes()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
                write_weights(path, {"other": torch.ones(3)})
        assert path.read_bytes() == before
    with pytest.raises(UserError, match=r"cannot write a of dtype bfloat16 to an \.npz file"):
        write_weights(tmp_path / "x.npz", {"a": torch.ones(2).bfloat16()})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz", "x.pth", "x.safetensors"]
    with pytest.raises(UserError, match=r"ends in none of \.safetensors, \.npz, \.pth"):
        write_weights(tmp_path / "x.h5", TENSORS)
    (tmp_path / "file").write_text("")
    for suffix in (".safetensors", ".npz", ".pth"):
        with pytest.raises(UserError, match=r"cannot write .*(Not a directory|File exists)"):
            write_weights(tmp_path / "file" / f"x{suffix}", TENSORS)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, suffix: str) -> None:
    write_weights(tmp_path / f"x{suffix}", TENSORS)
    container = open_weights(tmp_path / f"x{suffix}").container
    for other in (*SUFFIXES, ".json", ".txt", ""):
        path = tmp_path / f"renamed{other}"
        (tmp_path / f"x{suffix}").rename(path)
        assert open_weights(path).container == container
        assert open_weights(path).read().keys() == TENSORS.keys()
        path.rename(tmp_path / f"x{suffix}")


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"
CONTENTS = {
    "empty": (b"", r"is empty: no bytes"),
    "web page": (b"\n<!DOCTYPE html>\n<html><head>", r"is a web page .*Fetch the file itself"),
    "html": (b"<HTML><body>404", r"is a web page"),
    "bucket's error": (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", r"or a server's message"),
    "git lfs": (LFS, r"is a Git LFS pointer.*git lfs pull"),
    "text": (b"not weights, only text", r"is a text file, not weights; it begins 'not weights, only text'"),
    "long text": ("grün ".encode() * 1000, r"is a text file, not weights; it begins 'grün gr.*\.\.\.'"),
    "one byte": (b"x", r"is a text file"),
    "json": (b'{"a": 1}', r"is JSON, but no index of shards"),
    "json list": (b"[1]", r"is a text file"),
    "zeros": (bytes(500), r"it begins with the bytes 00 00 00 00 00 00 00 00"),
    "noise": (bytes(range(200, 255)), r"it begins with the bytes c8 c9"),
    "gzip": (gzip.compress(b"weights"), r"is compressed by gzip, not weights\. Unpack it"),
    "tar": (tar(), r"is a tar archive, not weights\. Unpack it"),
    "bzip2": (b"BZh91AY&SY", r"compressed by bzip2"),
    "xz": (b"\xfd7zXZ\x00", r"compressed by xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x00", r"compressed by zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00", r"a 7-zip archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", r"is an HDF5 file \(Keras\?\), not weights"),
    "npy": (b"\x93NUMPY\x01\x00", r"is a single NumPy array \(\.npy\)"),
    "gguf": (b"GGUF\x03\x00", r"is a GGUF file"),
    "png": (b"\x89PNG\r\n\x1a\n", r"is a PNG image, not weights\.$"),
    "jpeg": (b"\xff\xd8\xff\xe0", r"is a JPEG image"),
    "escape": (b"\x1b[2J\x1b[31mred text", r"it begins with the bytes 1b 5b"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".bin"])
def test_what_is_no_weights_is_named_for_what_it_is(tmp_path: Path, kind: str, suffix: str) -> None:
    content, found = CONTENTS[kind]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=found) as raised:
        open_weights(path)
    assert str(raised.value).startswith(f"{path} ")
    assert len(str(raised.value)) < len(str(path)) + 300


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "gone.npz").symlink_to("nowhere")
    cases = {
        tmp_path / "pipe.safetensors": "is not a regular file but a pipe, device or socket",
        Path("/dev/zero"): "is not a regular file but a pipe, device or socket",
        tmp_path / "folder.pth": "is a folder; name the file of weights in it",
        tmp_path / "missing.npz": "cannot read .*No such file",
        tmp_path / "gone.npz": "cannot read .*No such file",
        tmp_path / ("x" * 5000): "cannot read .*File name too long",
        Path("a\0b"): "cannot read .*null",
    }
    for path, found in cases.items():
        with pytest.raises(UserError, match=found):
            open_weights(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_told(tmp_path: Path) -> None:
    write_weights(tmp_path / "x.pth", TENSORS)
    (tmp_path / "x.pth").chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*Permission denied"):
        open_weights(tmp_path / "x.pth")


ODD = "\x1b[2Jline\nnext\ud800" + "x" * 5000


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(header({ODD: {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}})),
        lambda path: path.write_bytes(header({"a": {"dtype": ODD, "shape": [1], "data_offsets": [0, 4]}})),
        lambda path: torch.save({ODD.replace("\ud800", ""): torch.ones(2).to_sparse()}, path),
        lambda path: torch.save({ODD.replace("\ud800", ""): 3}, path),
    ],
)
def test_names_out_of_a_file_cannot_disturb_a_terminal(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "x.pth"
    write(path)
    with pytest.raises(UserError) as raised:
        open_weights(path)
    text = str(raised.value)
    assert text.isprintable()
    assert len(text) < len(str(path)) + 500
    text.encode("utf-8")


def header(value: object) -> bytes:
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)
