"""NumPy archives: read as NumPy reads them, without its pickles; bombs and lies are refused by their headers."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitkit.config import UserError
from vitkit.weights.files import open_weights

ARRAYS: dict[str, np.ndarray] = {
    "Transformer/encoderblock_0/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
    "half": np.arange(3, dtype=np.float16),
    "double": np.arange(3, dtype=np.float64),
    "swapped": np.arange(3, dtype=">f4"),
    "swapped ints": np.arange(3, dtype=">i8"),
    "swapped fortran": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
    "swapped complex": (np.arange(3) + 1j).astype(">c8"),
    "ints": np.arange(3),
    "bytes": np.arange(3, dtype=np.uint8),
    "mask": np.array([True, False]),
    "scalar": np.array(2.5, np.float32),
    "none": np.zeros((0, 4), np.float32),
}


def written(path: Path, save: Any = np.savez, **arrays: np.ndarray) -> Path:
    save(path, **arrays)
    return path


def npy(header: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name + ".npy", data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_dtype_and_order_is_read_as_numpy_reads_it(tmp_path: Path, save: Any) -> None:
    path = written(tmp_path / "x.npz", save, **ARRAYS)
    opened = open_weights(path)
    assert (opened.container, opened.metadata, opened.wrappers) == ("npz", {}, ())
    read = opened.read()
    assert read.keys() == opened.header.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert opened.header[name].is_meta
        assert read[name].is_contiguous()
        assert (read[name].shape, read[name].dtype) == (opened.header[name].shape, opened.header[name].dtype)
        native = np.array(array, array.dtype.newbyteorder("="))
        assert torch.equal(read[name], torch.from_numpy(native)), name
    assert list(opened.read(["scalar"])) == ["scalar"]


def test_two_bytes_without_a_type_are_bfloat16(tmp_path: Path) -> None:
    values = torch.randn(3, 5).bfloat16()
    array = values.view(torch.int16).numpy().view("V2")
    opened = open_weights(written(tmp_path / "x.npz", a=array))
    assert opened.header["a"].dtype == torch.bfloat16
    assert torch.equal(opened.read()["a"], values)


def test_the_header_is_read_without_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.npz", a=np.zeros((300, 300), np.float32))
    monkeypatch.setattr("vitkit.weights.npz.raw_bytes", lambda *_: pytest.fail("allocated"))
    assert open_weights(path).header["a"].shape == (300, 300)


def test_what_was_read_outlives_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "x.npz", a=np.ones(10_000, np.float32))
    read = open_weights(path).read()
    os.truncate(path, 0)
    assert torch.equal(read["a"], torch.ones(10_000))


def test_arrays_of_objects_are_refused_and_nothing_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return os.system, (f"touch {ran}",)

    path = written(tmp_path / "x.npz", a=np.ones(2, np.float32), b=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match=r"'b\.npy' holds Python objects .* nothing was run"):
        open_weights(path)
    assert not ran.exists()


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"
MEMBERS = {
    "text": (np.array(["a", "bc"]), "of dtype '<U2'"),
    "bytes": (np.array([b"abc"]), r"of dtype '\|S3'"),
    "three bytes": (np.zeros(2, "V3"), r"of dtype '\|V3'"),
    "a structure": (np.zeros(2, [("a", "f4"), ("b", "i8")]), "of a structure of several fields"),
    "a date": (np.zeros(2, "M8[s]"), r"of dtype '<M8\[s\]'"),
    "no array": (b"plain text", "does not begin as an array"),
    "an unknown version": (npy(GOOD, bytes(8), 9), "does not begin as an array"),
    "a cut header": (npy(GOOD)[:20], "does not describe an array"),
    "a cut magic": (b"\x93NUM", "does not begin as an array"),
    "a long header": (npy(GOOD[:-1] + " " * 5000), "has a header of 50.. bytes"),
    "code": (npy("__import__('os').system('touch ran')"), "does not describe an array"),
    "deep": (npy("(" * 900), "does not describe an array"),
    "signs": (npy("-" * 900 + "1"), "does not describe an array"),
    "an escape": (npy(GOOD.replace("<f4", "\\d")), "does not describe an array"),
    "other keys": (npy(GOOD.replace("'shape'", "'form'"), bytes(8)), "does not describe an array"),
    "a shape of one number": (npy(GOOD.replace("(2,)", "2"), bytes(8)), "says no shape"),
    "a negative size": (npy(GOOD.replace("(2,)", "(-2,)"), bytes(8)), "claims a shape that no tensor has"),
    "a size of true": (npy(GOOD.replace("(2,)", "(True, 2)"), bytes(8)), "claims a shape that no tensor has"),
    "an absurd size": (npy(GOOD.replace("(2,)", "(2**62,)"), bytes(8)), "does not describe an array"),
    "a huge size": (npy(GOOD.replace("(2,)", f"({2**62},)"), bytes(8)), "claims a shape that no tensor has"),
    "terabytes": (npy(GOOD.replace("(2,)", f"({2**40},)"), bytes(8)), r"needs 4398046511\d+ bytes .* has \d+: damaged"),
    "too few values": (npy(GOOD, bytes(7)), "needs 76 bytes for its shape .* has 75"),
    "too many values": (npy(GOOD, bytes(9)), "needs 76 bytes for its shape .* has 77"),
}  # fmt: skip


@pytest.mark.parametrize("member", MEMBERS)
def test_members_that_are_no_plain_arrays_are_refused_by_name(tmp_path: Path, member: str) -> None:
    content, found = MEMBERS[member]
    if not isinstance(content, bytes):
        file = io.BytesIO()
        np.save(file, content)
        content = file.getvalue()
    path = archive(tmp_path / "x.npz", good=npy(GOOD, bytes(8)), bad=content)
    with pytest.raises(UserError, match=rf"x\.npz.*'bad\.npy'.* {found}"):
        open_weights(path)


def bomb(path: Path, gigabytes: int) -> Path:
    """Zeros, deflated a thousandfold."""
    count = gigabytes << 28
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w", force_zip64=True) as member:
        member.write(npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}\n"))
        for _ in range(gigabytes << 10):
            member.write(bytes(1 << 20))
    return path


def test_a_zip_bomb_is_refused_at_once(tmp_path: Path) -> None:
    path = bomb(tmp_path / "x.npz", 1)
    assert path.stat().st_size < 2_000_000
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError, match=r"would unpack from .* 10.. times as much: a zip bomb"):
        open_weights(path)
    assert time.perf_counter() - begin < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_members_that_lie_on_each_other_are_refused(tmp_path: Path) -> None:
    """The better bomb: many entries of the listing point to the same packed bytes."""
    path = archive(tmp_path / "x.npz", a=npy(GOOD.replace("(2,)", "(2000,)"), bytes(8000)))
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    row = data[at:end]
    rows = row + b"".join(row.replace(b"a.npy", name.encode() + b".npy") for name in "bcdef")
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 6, 6, len(rows), at, 0)
    path.write_bytes(data[:at] + rows + tail)
    assert len(zipfile.ZipFile(path).namelist()) == 6
    with pytest.raises(UserError, match="they overlap or it is truncated"):
        open_weights(path)


def patched(path: Path, at: int, value: bytes) -> Path:
    """Change bytes of the first row of the listing and of the member's own header."""
    data = bytearray(path.read_bytes())
    begin = data.index(b"PK\x01\x02")
    data[begin + at : begin + at + len(value)] = value
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("at", "value", "found"),
    [
        (8, b"\x01", "'a.npy' is encrypted"),
        (10, b"\x0e", "'a.npy' is packed by method 14; only stored and deflated"),
        (24, b"\xff\xff\xff\x7f", "'a.npy' claims 2147483647 bytes and stores"),
        (16, b"\x12\x34\x56\x78", "Bad CRC-32"),
    ],
    ids=["encrypted", "lzma", "size", "checksum"],
)
def test_odd_members_are_refused(tmp_path: Path, at: int, value: bytes, found: str) -> None:
    path = patched(archive(tmp_path / "x.npz", a=npy(GOOD, bytes(8))), at, value)
    with pytest.raises(UserError, match=found):
        open_weights(path).read()


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "..\\a"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is a path out of the archive"):
        open_weights(archive(tmp_path / "x.npz", **{name: npy(GOOD, bytes(8))}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        for _ in range(2):
            file.writestr("a.npy", npy(GOOD, bytes(8)))
    with pytest.raises(UserError, match=r"'a\.npy' occurs twice"):
        open_weights(tmp_path / "x.npz")


def test_archives_of_the_64_bit_kind_are_read(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w") as file,
        file.open("a.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy(GOOD, np.float32([1, 2]).tobytes()))
    assert open_weights(tmp_path / "x.npz").read()["a"].tolist() == [1, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_wherever_a_file_is_cut_or_a_bit_is_flipped_in_its_values_it_is_refused(tmp_path: Path, save: Any) -> None:
    path = written(tmp_path / "x.npz", save, a=np.arange(40, dtype=np.float32), b=np.ones(3, np.float32))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            open_weights(path).read()
    at = whole.index(b"\n") + 20 if save is np.savez else 60
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    with pytest.raises(UserError, match=r"x\.npz"):
        open_weights(path).read()


def test_an_empty_archive_and_one_of_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path)
    with pytest.raises(UserError, match="is a zip archive of nothing, not weights"):
        open_weights(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
        file.writestr("model.safetensors", "hello")
    with pytest.raises(
        UserError, match=r"a zip archive of 'readme\.txt', 'model\.safetensors', not weights.*unpack it"
    ):
        open_weights(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a.npy", npy(GOOD, bytes(8)))
    with pytest.raises(UserError, match=r"'readme\.txt' is not an array"):
        open_weights(path)
