"""TFRecord files and their checksum, written by other code than the reader."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from containers import example, field, picture, record, slow_crc32c, varint, write_records
from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.datasets.files.crc32c import crc32c
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
