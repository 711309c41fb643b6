"""Images inside Parquet files, read when they are asked for.

A row group at a time while all fit into memory; else one by one from a copy in the cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vitkit.data.spill import Spilled

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["CACHE_BYTES", "LARGE", "ParquetCell", "open_parquet", "reading_in_order", "take_leaf"]

CACHE_BYTES = 2**28  # of decoded row groups that a process keeps; one larger row group is kept alone
IN_ORDER_BYTES = 2**25  # the same where images are read in their order: what is left behind is not needed again
LARGE = 2**21  # bytes: larger row groups are not put in the place of others for one image


class ParquetCell(NamedTuple):
    """The image in one row. Neighbours are read with it and kept for a while: see `CACHE_BYTES`."""

    path: str
    row_group: int
    row: int  # inside the row group
    column: str  # dotted: image.bytes, or image

    def read(self) -> bytes:
        """The encoded image; where the row holds a path and no bytes, that file, relative to the table's folder.

        Raises:
            OSError: the file is gone, damaged or changed, or the row holds neither bytes nor a path.
        """
        found = _CACHE.read(self)
        if found is None and self.column.endswith(".bytes"):
            beside = _CACHE.read(self._replace(column=self.column.removesuffix("bytes") + "path"))
            if beside:
                try:
                    return Path(self.path).parent.joinpath(os.fsdecode(beside)).read_bytes()
                except ValueError:  # a zero byte
                    raise OSError(errno.EINVAL, "the row's path is no path", self.path) from None
        if found is None:
            raise OSError(errno.ENODATA, "the row holds no image (null)", self.path)
        return found


class _RowGroups:
    """Decoded columns of the row groups that were read last, in one process. Threads take turns."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything; also what a forked process does first, as its parent may hold the lock."""
        self.lock = threading.Lock()
        self.groups: OrderedDict[tuple[str, int, str], tuple[list[Any], int]] = OrderedDict()
        self.files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self.held = 0
        self.in_order = False
        self.spilled = Spilled()

    def read(self, cell: ParquetCell) -> bytes | None:
        """One value, None where it is null."""
        import pyarrow as pa

        key = (cell.path, cell.row_group, cell.column)
        with self.lock:
            try:
                if key in self.groups:
                    self.groups.move_to_end(key)
                elif key in self.spilled.places:  # asked first: of many files few are open
                    return self.spilled.read(key, cell.row)
                elif not self._is_too_large(key):
                    self._load(key)
                elif self.spilled.find(key) or self.spilled.write(key, self._values(key), self._size(key)):
                    return self.spilled.read(key, cell.row)
                else:
                    self._load(key)
            except IndexError:
                raise OSError(errno.EIO, "the Parquet file has fewer rows than when it was listed", cell.path) from None
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.strerror:
                    raise
                reason = str(error).splitlines()[0]
                raise OSError(errno.EIO, f"damaged or changed Parquet file: {reason}", cell.path) from None
            chunks = self.groups[key][0]
        row = cell.row
        for chunk in chunks:
            if row < len(chunk):
                value = chunk[row].as_py()
                return value.encode() if isinstance(value, str) else value
            row -= len(chunk)
        raise OSError(errno.EIO, "the Parquet file has fewer rows than when it was listed", cell.path)

    def _size(self, key: tuple[str, int, str]) -> int:
        file = self._open(key[0])
        if key[1] >= file.num_row_groups:
            return 0
        group = file.metadata.row_group(key[1])
        chunks = (group.column(number) for number in range(group.num_columns))
        return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == key[2])

    def _is_too_large(self, key: tuple[str, int, str]) -> bool:
        """Would the row group take the place of others, and soon lose it to others, all for one image?"""
        if self.in_order:
            return False
        size = self._size(key)
        return size > LARGE and self.held + size > CACHE_BYTES

    def _batches(self, key: tuple[str, int, str]) -> Iterator[pa.Array]:
        path, group, column = key
        # In batches: one array of a whole nested column cannot be longer than 2 GiB. One thread: workers are processes.
        for batch in self._open(path).iter_batches(1024, row_groups=[group], columns=[column], use_threads=False):
            yield take_leaf(batch, column)

    def _values(self, key: tuple[str, int, str]) -> Iterator[bytes | None]:
        for chunk in self._batches(key):
            for value in chunk:
                found = value.as_py()
                yield found.encode() if isinstance(found, str) else found

    def _load(self, key: tuple[str, int, str]) -> None:
        path, group, _ = key
        file = self._open(path)
        if group >= file.num_row_groups:
            raise OSError(errno.EIO, "the Parquet file has fewer rows than when it was listed", path)
        size = self._size(key)
        # Make room first: the peak counts. In order the last one stays: other threads may still read its end.
        most, least = (IN_ORDER_BYTES, 1) if self.in_order else (CACHE_BYTES, 0)
        while len(self.groups) > least and self.held + size > most:
            self.held -= self.groups.popitem(last=False)[1][1]
        chunks = list(self._batches(key))
        bytes_ = sum(chunk.nbytes for chunk in chunks)
        self.groups[key] = (chunks, bytes_)
        self.held += bytes_

    def _open(self, path: str) -> pq.ParquetFile:
        if path in self.files:
            self.files.move_to_end(path)
            return self.files[path]
        while len(self.files) >= 16:
            self.files.popitem(last=False)[1].close()
        self.files[path] = open_parquet(path)
        return self.files[path]


_CACHE = _RowGroups()


@contextlib.contextmanager
def reading_in_order() -> Iterator[None]:
    """A stretch in which this process reads images in the order of their files: little is kept, and nothing copied to the cache."""
    before, _CACHE.in_order = _CACHE.in_order, True
    try:
        yield
    finally:
        _CACHE.in_order = before


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CACHE.reset)


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a file to read it in one thread, without reading ahead: neither outlives a fork."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False)


def take_leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    """A dotted column of a batch; null where the struct around it is."""
    import pyarrow.compute as pc

    name, _, field = column.partition(".")
    values = batch.column(name)
    return pc.struct_field(values, field) if field else values
