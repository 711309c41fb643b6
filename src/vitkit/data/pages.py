"""Single data pages of a Parquet file, so that one image costs a page of about 1 MiB and not its whole row group.

Understood are columns of bytes or text outside of lists, plain or by dictionary, in pages of both versions.
Source: Apache Parquet format, parquet.thrift, Encodings.md and "Data Pages"; Thrift compact protocol specification.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["DamagedPageError", "PageReader", "is_readable"]

PAGE_BYTES = 2**25  # of decoded pages that a process keeps; one larger page is kept alone
MOST_HEADER = 2**20  # a page header holds a few numbers, and the least and the greatest value where the writer likes
CODECS = {
    "UNCOMPRESSED": "", "SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4_RAW": "lz4_raw",
}  # fmt: skip
READABLE = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
PLAIN, DICTIONARIES = 0, (2, 8)  # encodings of values
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # kinds of pages


class DamagedPageError(ValueError):
    """Bytes that are no page."""


class _Page(NamedTuple):
    """A page of values inside the file."""

    header: dict[int, Any]
    offset: int  # of its content
    size: int
    first: int  # its first row inside the row group
    rows: int


class _Chunk(NamedTuple):
    """The pages of one column of one row group."""

    pages: list[_Page]
    dictionary: _Page | None
    codec: str
    levels: int  # the greatest definition level: below it a value is null


class _Values(NamedTuple):
    """A decoded page: where each row's value lies in its bytes; a start of -1 is null."""

    data: bytes
    starts: np.ndarray
    stops: np.ndarray


def is_readable(file: pq.ParquetFile, column: str) -> bool:
    """Can single pages of the column be read? Otherwise its row groups are read whole."""
    number = _number(file, column)
    leaf = None if number is None else file.schema.column(number)
    if leaf is None or leaf.physical_type != "BYTE_ARRAY" or leaf.max_repetition_level:
        return False
    chunks = [file.metadata.row_group(group).column(number) for group in range(file.num_row_groups)]
    return all(chunk.compression in CODECS and set(chunk.encodings) <= READABLE for chunk in chunks)


def _number(file: pq.ParquetFile, column: str) -> int | None:
    names = [file.schema.column(number).path for number in range(len(file.schema.names))]
    return names.index(column) if column in names else None


class PageReader:
    """Values of readable columns by row group and row. One process, one thread at a time."""

    def __init__(self) -> None:
        self.chunks: dict[tuple[str, int, str], _Chunk] = {}
        self.values: OrderedDict[tuple[str, int, str, int], _Values] = OrderedDict()
        self.held = 0

    def read(self, path: str, file: pq.ParquetFile, group: int, column: str, row: int) -> bytes | None:
        """One value, None where it is null.

        Raises:
            OSError: the file cannot be read.
            DamagedPageError: its pages are not what they should be, or hold fewer rows.
        """
        key = (path, group, column)
        try:
            if key not in self.chunks:
                with open(path, "rb") as stream:
                    self.chunks[key] = _chunk(stream, file, group, column)
            chunk = self.chunks[key]
            place = next((n for n, page in enumerate(chunk.pages) if page.first <= row < page.first + page.rows), None)
            if place is None:
                raise DamagedPageError("the row group has fewer rows than when it was listed")
            values = self._decoded(key, chunk, place)
            start, stop = (int(ends[row - chunk.pages[place].first]) for ends in (values.starts, values.stops))
        except (struct.error, IndexError, KeyError, TypeError, OverflowError, UnicodeError, MemoryError) as error:
            raise DamagedPageError(f"a page cannot be decoded ({error})") from None
        return None if start < 0 else values.data[start:stop]

    def _decoded(self, key: tuple[str, int, str], chunk: _Chunk, place: int) -> _Values:
        """The values of a page, kept for a while; -1 is the dictionary."""
        if (*key, place) in self.values:
            self.values.move_to_end((*key, place))
            return self.values[(*key, place)]
        page = chunk.dictionary if place < 0 else chunk.pages[place]
        if page is None:
            raise DamagedPageError("a page needs a dictionary, and there is none")
        with open(key[0], "rb") as stream:
            stream.seek(page.offset)
            content = stream.read(page.size)
        if len(content) < page.size:
            raise DamagedPageError("the file ends inside a page")
        if place < 0:
            data = _decompressed(content, chunk.codec, page.header[2])
            values = _Values(data, *_plain(data, 0, page.header[7][1]))
        else:
            values = self._data(key, chunk, page, content)
        size = len(values.data) + values.starts.nbytes + values.stops.nbytes
        while self.values and self.held + size > PAGE_BYTES:
            _, old = self.values.popitem(last=False)
            self.held -= len(old.data) + old.starts.nbytes + old.stops.nbytes
        self.values[(*key, place)] = values
        self.held += size
        return values

    def _data(self, key: tuple[str, int, str], chunk: _Chunk, page: _Page, content: bytes) -> _Values:
        header = page.header
        if header[1] == DATA:
            count, encoding = header[5][1], header[5][2]
            data, begin = _decompressed(content, chunk.codec, header[2]), 0
            there = np.ones(count, bool)
            if chunk.levels:
                (length,) = struct.unpack_from("<I", data, 0)
                there = _hybrid(data, 4, 4 + length, chunk.levels.bit_length(), count) == chunk.levels
                begin = 4 + length
        else:
            about = header[8]
            count, encoding, before = about[1], about[4], about.get(5, 0) + about.get(6, 0)
            there = np.ones(count, bool)
            if chunk.levels:
                there = _hybrid(content, about.get(6, 0), before, chunk.levels.bit_length(), count) == chunk.levels
            rest = content[before:]
            data = _decompressed(rest, chunk.codec, header[2] - before) if about.get(7, True) else rest
            begin = 0
        known = int(there.sum())
        if encoding == PLAIN:
            starts, stops = _plain(data, begin, known)
        elif encoding in DICTIONARIES:
            table = self._decoded(key, chunk, -1)
            indices = _hybrid(data, begin + 1, len(data), data[begin], known) if known else np.zeros(0, np.int64)
            data, starts, stops = table.data, table.starts[indices], table.stops[indices]
        else:
            raise DamagedPageError(f"values are in encoding {encoding}")
        rows = np.full((2, count), -1, np.int64)
        rows[:, there] = starts, stops
        return _Values(data, rows[0], rows[1])


def _chunk(stream: BinaryIO, file: pq.ParquetFile, group: int, column: str) -> _Chunk:
    """Find the pages of a column by their headers alone."""
    number = _number(file, column)
    if number is None or group >= file.num_row_groups:
        raise DamagedPageError("the file has other columns or row groups than when it was listed")
    about, leaf = file.metadata.row_group(group).column(number), file.schema.column(number)
    place = about.data_page_offset
    if about.has_dictionary_page and about.dictionary_page_offset:
        place = min(place, about.dictionary_page_offset)
    end, row = place + about.total_compressed_size, 0
    pages: list[_Page] = []
    dictionary = None
    while row < about.num_values and place < end:
        header, length = _header(stream, place, end)
        page = _Page(header, place + length, header[3], row, 0)
        if header[3] < 0 or page.offset + page.size > end:
            raise DamagedPageError("a page is larger than its column")
        if header[1] == DICTIONARY:
            dictionary = page
        elif header[1] in (DATA, DATA_V2):
            rows = header[5 if header[1] == DATA else 8][1]
            if rows < 0:
                raise DamagedPageError("a page has less than no rows")
            pages.append(page._replace(rows=rows))
            row += rows
        place = page.offset + page.size
    return _Chunk(pages, dictionary, CODECS[about.compression], leaf.max_definition_level)


def _header(stream: BinaryIO, place: int, end: int) -> tuple[dict[int, Any], int]:
    """A page's header and its length; more is read where values in it make it long."""
    size = 256
    while True:
        stream.seek(place)
        data = stream.read(min(size, end - place))
        try:
            header, length = _struct(data, 0, 0)
            return header, length
        except (IndexError, struct.error):
            if size >= MOST_HEADER or len(data) < size:
                raise DamagedPageError("a page's header cannot be read") from None
            size *= 16


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise DamagedPageError("a number is too long")


def _struct(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol as its fields by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        byte = data[place]
        place += 1
        if not byte:
            return fields, place
        kind = byte & 0x0F
        if byte >> 4:
            number += byte >> 4
        else:
            value, place = _varint(data, place)
            number = (value >> 1) ^ -(value & 1)
        if kind in (1, 2):
            fields[number] = kind == 1
        else:
            fields[number], place = _value(data, place, kind, depth)


def _value(data: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == 3:
        return data[place], place + 1
    if kind in (4, 5, 6):
        value, place = _varint(data, place)
        return (value >> 1) ^ -(value & 1), place
    if kind == 8:
        length, place = _varint(data, place)
        data[place + length]  # there is always something behind it
        return data[place : place + length], place + length
    if kind == 12 and depth < 4:
        return _struct(data, place, depth + 1)
    raise DamagedPageError(f"a page's header holds a field of kind {kind}")


def _decompressed(data: bytes, codec: str, size: int) -> bytes:
    import pyarrow as pa

    if not codec or not size:
        return data
    if not 0 <= size < 2**31:
        raise DamagedPageError(f"a page of {size} bytes")
    try:
        return pa.decompress(data, decompressed_size=size, codec=codec, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedPageError(str(error).splitlines()[0]) from None


def _plain(data: bytes, place: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``count`` values lies: four bytes of length before each."""
    starts, stops = np.empty(count, np.int64), np.empty(count, np.int64)
    length = struct.Struct("<I").unpack_from
    for number in range(count):
        (size,) = length(data, place)
        starts[number] = place + 4
        place += 4 + size
        stops[number] = place
    if place > len(data):
        raise DamagedPageError("a value is longer than its page")
    return starts, stops


def _hybrid(data: bytes, place: int, end: int, width: int, count: int) -> np.ndarray:
    """``count`` small numbers of ``width`` bits from runs and from groups of eight (RLE / bit-packed hybrid)."""
    if width > 32:
        raise DamagedPageError(f"numbers of {width} bits")
    found: list[np.ndarray] = []
    have = 0
    while have < count:
        if place >= end:
            raise DamagedPageError("a page holds fewer numbers than it says")
        head, place = _varint(data, place)
        if head & 1:
            size = (head >> 1) * width
            bits = np.unpackbits(np.frombuffer(data[place : place + size], np.uint8), bitorder="little")
            part = (
                bits.reshape(-1, width) @ (1 << np.arange(width, dtype=np.int64))
                if width
                else np.zeros(count, np.int64)
            )
        else:
            size = (width + 7) // 8
            part = np.full(min(head >> 1, count - have), int.from_bytes(data[place : place + size], "little"), np.int64)
        if not len(part):
            raise DamagedPageError("a run of nothing")
        place += size
        found.append(part)
        have += len(part)
    return np.concatenate(found)[:count] if found else np.zeros(0, np.int64)
