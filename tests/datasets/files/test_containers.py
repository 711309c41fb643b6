"""TFRecord, HDF5, zip, tar and NORB files, written by other code than the readers."""

from __future__ import annotations

import gzip
import pickle
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from containers import example, field, norb_matrix, picture, record, slow_crc32c, varint, write_records
from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.datasets.files.crc32c import crc32c
from vitkit.datasets.files.hdf5 import HDF5Image, check_images, read_array
from vitkit.datasets.files.members import list_members
from vitkit.datasets.files.norb import read_header, read_matrix
from vitkit.datasets.files.tfrecord import RecordImage, find_records, parse_example, read_example


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4: 32 bytes of zeros
    draws = random.Random(0)
    for length in (0, 1, 3, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 4097, 9999):
        data = draws.randbytes(length)
        assert crc32c(data) == slow_crc32c(data), length


def test_features_of_every_kind_come_back(tmp_path: Path) -> None:
    png = picture(7)
    first = example(image=png, label=3, objects__z=[1.5, -2.25], ids=[0, -1, 2**40], words=[b"a", b"bc"])
    path = write_records(tmp_path / "a.tfrecord", [first, example(label=[])])
    records = find_records(path)
    assert [r.number for r in records] == [0, 1]
    found = read_example(records[0])
    assert found["image"] == (png,)
    assert found["words"] == (b"a", b"bc")
    assert found["label"].tolist() == [3]
    assert found["objects/z"].tolist() == [1.5, -2.25]
    assert found["objects/z"].dtype == np.float32
    assert found["ids"].tolist() == [0, -1, 2**40]
    assert read_example(records[1])["label"].shape == (0,)
    image = pickle.loads(pickle.dumps(RecordImage(records[0])))
    assert np.asarray(open_image(image)).tolist() == np.full((10, 12, 3), 7).tolist()


def test_lists_that_are_not_packed_are_read() -> None:
    numbers = field(3, varint(1 << 3) + varint(5) + varint(1 << 3) + varint(6))
    entry = field(1, b"n") + field(2, numbers)
    assert parse_example(field(1, field(1, entry)))["n"].tolist() == [5, 6]


def test_pictures_of_zero_and_one_are_widened(tmp_path: Path) -> None:
    (found,) = find_records(write_records(tmp_path / "a", [example(image=picture(1))]))
    assert (np.asarray(open_image(RecordImage(found, binary=True))) == 255).all()


@pytest.mark.parametrize("cut", [3, 11, 14, -1, -5])
def test_a_cut_file_names_the_record(tmp_path: Path, cut: int) -> None:
    whole = record(example(label=1))
    path = tmp_path / "a.tfrecord"
    path.write_bytes(whole + whole[:cut])
    with pytest.raises(UserError, match=r"a\.tfrecord is cut off inside record 1; 1 whole ones"):
        find_records(path)


def test_damage_names_the_record(tmp_path: Path) -> None:
    whole = record(example(label=1, image=b"x" * 300))
    path = tmp_path / "a.tfrecord"
    path.write_bytes(whole + whole[:40] + b"!" + whole[41:])
    good, bad = find_records(path)
    read_example(good)
    with pytest.raises(UserError, match="record 1 is damaged: its checksum is wrong"):
        read_example(bad)
    with pytest.raises(OSError, match="record 1 is damaged"):
        RecordImage(bad).read()
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="record 0 is damaged, or this is no TFRecord file"):
        find_records(path)
    path.write_bytes(record(b"\x0a\xff"))
    with pytest.raises(UserError, match=r"record 0 is no tf\.train\.Example"):
        read_example(find_records(path)[0])


def test_hdf5_images_are_read_when_needed_and_travel(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=pixels, chunks=(1, 8, 6, 3), compression="gzip")
        file.create_dataset("y", data=np.array([[[[1]]], [[[0]]], [[[1]]]], np.uint8))
    assert check_images(path, "x", (8, 6, 3)) == 3
    assert read_array(path, "y").reshape(-1).tolist() == [1, 0, 1]
    image = pickle.loads(pickle.dumps(HDF5Image(str(path), "x", 2)))
    assert (np.asarray(open_image(image)) == pixels[2]).all()
    with pytest.raises(OSError, match="image 3 of 'x'"):
        HDF5Image(str(path), "x", 3).read()
    with pytest.raises(UserError, match=r"'x' is uint8 \(3, 8, 6, 3\); expected uint8 \(images, 96, 96, 3\)"):
        check_images(path, "x", (96, 96, 3))
    with pytest.raises(UserError, match="no data set 'imgs'; it holds x, y"):
        read_array(path, "imgs")
    (tmp_path / "no.h5").write_bytes(b"none")
    with pytest.raises(UserError, match="cannot be read as an HDF5 file"):
        read_array(tmp_path / "no.h5", "x")


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
        members = list_members(path)
        assert list(members) == ["a.txt", "b/2.txt"], path
        place = pickle.loads(pickle.dumps(members["b/2.txt"]))
        assert (Path(place).read_bytes() if isinstance(place, str) else place.read()) == files["b/2.txt"]
    member = list_members(packed)["b/2.txt"]
    raw = bytearray(packed.read_bytes())
    raw[member.header + 40] ^= 0xFF
    packed.write_bytes(bytes(raw))
    with pytest.raises(OSError, match="the zip file is damaged"):
        member.read()
    (tmp_path / "no.zip").write_bytes(b"none")
    with pytest.raises(UserError, match=r"no\.zip cannot be read as a folder, zip or tar file"):
        list_members(tmp_path / "no.zip")


def test_norb_matrices_plain_and_packed(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    pairs = draws.integers(0, 256, (5, 2, 4, 3), np.uint8)
    facts = draws.integers(-9, 9, (5,), np.int32)
    for name, values in (("dat", pairs), ("cat", facts)):
        (tmp_path / f"{name}.mat").write_bytes(norb_matrix(values))
        (tmp_path / f"{name}.mat.gz").write_bytes(gzip.compress(norb_matrix(values)))
        for suffix in (".mat", ".mat.gz"):
            assert (read_matrix(tmp_path / (name + suffix)) == values).all()
    assert read_header(tmp_path / "cat.mat").offset == 20  # three sizes are stored of one dimension
    assert (read_matrix(tmp_path / "dat.mat.gz", first_of_pairs=True) == pairs[:, 0]).all()
    (tmp_path / "cut.mat").write_bytes(norb_matrix(pairs)[:-1])
    with pytest.raises(UserError, match="is of 143 bytes and says that it has 144"):
        read_header(tmp_path / "cut.mat")
    (tmp_path / "cut.mat.gz").write_bytes(gzip.compress(norb_matrix(pairs)[:-1]))
    with pytest.raises(UserError, match="ends inside entry 4 of 5"):
        read_matrix(tmp_path / "cut.mat.gz")
    (tmp_path / "no.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(
        UserError, match="is no NORB matrix: it begins with 0x4C54414D, expected 0x1E3D4C55 or 0x1E3D4C54"
    ):
        read_header(tmp_path / "no.mat")
