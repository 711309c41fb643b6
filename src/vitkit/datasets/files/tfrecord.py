"""TFRecord files of tf.train.Example: records are found by their lengths, and read and checked one by one when they are needed.

A record is its length (8 bytes, little-endian), the masked CRC-32C of these bytes (4), the content, and the content's masked
CRC-32C (4). An Example is a map from names to lists of bytes, of float32 or of int64.

Source: tensorflow/tsl, lib/io/record_writer.h; tensorflow/core/example/{example,feature}.proto (protocol buffers' wire format).
"""

from __future__ import annotations

import errno
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.datasets.files.crc32c import masked_crc32c

__all__ = ["Features", "Record", "RecordImage", "find_records", "parse_example", "peek", "read_example"]

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types

Array = np.ndarray[Any, Any]
Features = Mapping[str, "tuple[bytes, ...] | Array"]  # by name: bytes, or float32 or int64 (n,)


class Record(NamedTuple):
    """The place of one record's content."""

    path: str
    offset: int
    length: int
    number: int  # from 0, in its file

    def content(self) -> bytes:
        """The bytes, checked.

        Raises:
            OSError: the file is gone or shorter than it was, or the checksum is wrong.
        """
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            whole = file.read(self.length + CHECKSUM.size)
        if len(whole) < self.length + CHECKSUM.size:
            raise OSError(errno.EIO, f"the file ends inside record {self.number}", self.path)
        content = whole[: self.length]
        if masked_crc32c(content) != CHECKSUM.unpack_from(whole, self.length)[0]:
            raise OSError(errno.EIO, f"record {self.number} is damaged: its checksum is wrong", self.path)
        return content


class RecordImage(NamedTuple):
    """An encoded image in a record. ``binary`` ones have the values 0 and 1 for black and white, as tfds stores dSprites."""

    record: Record
    name: str = "image"
    binary: bool = False

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: as `Record.content`, or the record has no such image.
        """
        try:
            found = parse_example(self.record.content()).get(self.name, ())
        except ValueError as error:
            raise OSError(errno.EIO, f"record {self.record.number}: {error}", self.record.path) from None
        if not isinstance(found, tuple) or len(found) != 1:
            raise OSError(errno.EIO, f"record {self.record.number} has no feature {self.name!r}", self.record.path)
        return _widened(found[0]) if self.binary else found[0]


def find_records(path: Path, start: int = 0, size: int | None = None) -> list[Record]:
    """The records of a file, or of ``size`` bytes of it from ``start`` (a file inside a tar file). Contents are not read.

    Raises:
        UserError: cut off, or the checksum of a length is wrong; the record is named.
    """
    found: list[Record] = []
    try:
        with path.open("rb") as file:
            stop = file.seek(0, 2) if size is None else start + size
            place = start
            while place < stop:
                file.seek(place)
                header = file.read(HEADER.size) if place + HEADER.size <= stop else b""
                if len(header) < HEADER.size:
                    raise _cut(path, len(found))
                length, checksum = HEADER.unpack(header)
                if masked_crc32c(header[:8]) != checksum:
                    raise UserError(
                        f"{path}: record {len(found)} is damaged, or this is no TFRecord file: the checksum of its length is "
                        "wrong. Fetch it again."
                    )
                end = place + HEADER.size + length + CHECKSUM.size
                if end > stop:
                    raise _cut(path, len(found))
                found.append(Record(str(path), place + HEADER.size, length, len(found)))
                place = end
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    return found


def _cut(path: Path, number: int) -> UserError:
    return UserError(f"{path} is cut off inside record {number}; {number} whole ones come before it. Fetch it again.")


def read_example(record: Record) -> Features:
    """The features of a record.

    Raises:
        UserError: it cannot be read, its checksum is wrong, or it is no Example.
    """
    try:
        return parse_example(record.content())
    except OSError as error:
        raise UserError(f"{record.path}: {error.strerror}. Fetch it again.") from None
    except ValueError as error:
        raise UserError(f"{record.path}: record {record.number} is no tf.train.Example: {error}.") from None


def peek(records: Sequence[Record], name: str) -> list[str]:
    """The text ``name`` of each record, without reading the rest of it; what is read is not checked.

    Raises:
        UserError: a record without it.
    """
    found: list[str] = []
    for path, group in groupby(records, key=lambda record: record.path):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            for record in group:
                with memoryview(whole) as view, view[record.offset : record.offset + record.length] as content:
                    text = _text(content, name)
                if text is None:
                    raise UserError(f"{record.path}: record {record.number} has no text {name!r}. Fetch it again.")
                found.append(text)
    return found


def _text(content: memoryview, name: str) -> str | None:
    try:
        for _, features in _fields(content):
            for _, entry in _fields(_view(features)):
                parts = dict(_fields(_view(entry)))
                if bytes(_view(parts[1])) == name.encode():
                    (text,) = _feature(_view(parts[2]))
                    return text.decode("utf-8")
    except (ValueError, KeyError, AttributeError):
        return None
    return None


def parse_example(content: bytes) -> Features:
    """The features of a serialised tf.train.Example.

    Raises:
        ValueError: it is none.
    """
    found: dict[str, tuple[bytes, ...] | Array] = {}
    for number, features in _fields(memoryview(content)):
        if number == 1 and isinstance(features, memoryview):
            for inner, entry in _fields(features):
                if inner == 1 and isinstance(entry, memoryview):
                    parts = dict(_fields(entry))
                    name, value = parts.get(1), parts.get(2, memoryview(b""))
                    if not isinstance(name, memoryview) or not isinstance(value, memoryview):
                        raise ValueError("a feature has no name")
                    found[bytes(name).decode("utf-8")] = _feature(value)
    return found


def _feature(value: memoryview) -> tuple[bytes, ...] | Array:
    for kind, values in _fields(value):
        if not isinstance(values, memoryview):
            break
        entries = [entry for number, entry in _fields(values) if number == 1]
        if kind == 1:
            return tuple(bytes(entry) for entry in entries if isinstance(entry, memoryview))
        if kind == 2:
            return np.concatenate([np.empty(0, np.float32), *(np.frombuffer(_view(e), "<f4") for e in entries)])
        if kind == 3:
            whole: list[int] = []
            for entry in entries:
                whole.extend(_varints(entry) if isinstance(entry, memoryview) else [entry])
            return np.array([n - (1 << 64) if n >> 63 else n for n in whole], np.int64)
    return ()


def _view(entry: memoryview | int) -> memoryview:
    if isinstance(entry, int):
        raise ValueError("a float list holds whole numbers")
    return entry


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field: bytes where its length is said or fixed, a number of a varint."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(content, place)
            yield key >> 3, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(kind)
        if kind == LENGTH:
            size, place = _varint(content, place)
        if size is None or place + size > len(content):
            raise ValueError("its bytes do not follow the wire format")
        yield key >> 3, content[place : place + size]
        place += size


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            break
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place
    raise ValueError("a number in it has no end")


def _varints(content: memoryview) -> Iterator[int]:
    place = 0
    while place < len(content):
        value, place = _varint(content, place)
        yield value


def _widened(encoded: bytes) -> bytes:
    """A picture of 0 and 1 with 0 and 255 in their place."""
    import io

    from PIL import Image

    from vitkit.datasets.files.arrays import as_npy

    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            pixels = np.asarray(picture.convert("L"))
    except (OSError, ValueError) as error:
        raise OSError(errno.EIO, f"an image of 0 and 1 cannot be read: {error}") from None
    return as_npy((pixels > 0).astype(np.uint8) * np.uint8(255))
