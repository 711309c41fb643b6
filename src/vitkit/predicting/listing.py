"""What is to be predicted, in order: a compact list that is read back piece by piece, and goes to disk where it is long."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from vitkit.config import UserError
from vitkit.data.archives import TarMember
from vitkit.data.containers import ImageSource
from vitkit.data.rowgroups import ParquetCell
from vitkit.data.zips import ZipMember
from vitkit.predicting.finding import Container, Found

__all__ = ["Changed", "Listing", "first_difference"]

BLOCK = 64  # images from one noted place in the list to the next
IN_MEMORY = 2**22  # bytes; a longer list is a temporary file
KINDS: tuple[Any, ...] = (Path, TarMember, ParquetCell, ZipMember)  # by their number in a line of the list
CONTAINER = len(KINDS)


class Changed(NamedTuple):
    """An image whose file is not the one that was listed."""

    path: str

    def read(self) -> bytes:
        """Raises OSError."""
        raise OSError(0, "it was changed after it was listed", self.path)


class Listing:
    """Name and place of each image. A line of JSON each: [kind, name, ...], a container's before those of its images."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder``: where a long list is kept, under no name; None: where temporary files are."""
        self.folder = folder or Path(tempfile.gettempdir())
        file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(self.folder))  # noqa: SIM115, as long as the listing
        self._file = cast(BinaryIO, file)
        self._places = array("q")  # where each block begins
        self._containers: list[tuple[Container, str]] = []  # and the file that the bytes are read from
        self._inside = array("q")  # the container that each block begins in, by number; -1: none
        self._sign = hashlib.sha256()
        self.count = 0

    @classmethod
    def of(cls, found: Iterable[Found | Container], folder: Path | None = None) -> Listing:
        """List all that is found."""
        listing = cls(folder)
        for each in found:
            listing.add(each)
        return listing

    def close(self) -> None:
        """Forget all."""
        self._file.close()

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def digest(self) -> str:
        """SHA-256 of names, places, sizes and times in their order."""
        return self._sign.hexdigest()

    @property
    def containers(self) -> int:
        """Files that hold images."""
        return len(self._containers)

    def add(self, each: Found | Container) -> None:
        """Add an image, or the container of the next ones."""
        if isinstance(each, Container):
            self._containers.append((each, ""))
            self._write([CONTAINER, *each])
            return
        if self.count % BLOCK == 0:
            self._places.append(self._file.tell())
            self._inside.append(len(self._containers) - 1)
        self.count += 1
        source = each.source
        if isinstance(source, Path):
            self._write([0, each.name, "" if str(source) == each.name else str(source), each.size, each.stamp])
            return
        kind = KINDS.index(type(source))
        path, *place = cast(tuple[Any, ...], source)
        container, file = self._containers[-1]
        if not file:
            self._containers[-1] = container, path
        self._write([kind, each.name, *place])

    def _write(self, line: list[Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        self._sign.update(data)
        self._file.write(data)

    def read(self, start: int, stop: int) -> Iterator[tuple[str, ImageSource]]:
        """Name and place of the images from one number to another; `Changed` where a file is not as it was listed."""
        for name, kind, rest, container in self._lines(start, stop):
            if kind == 0:
                path, size, stamp = rest
                yield name, _checked(path or name, size, stamp)
            else:
                about, file = self._containers[container]
                if not self._is_current(container):
                    yield name, Changed(about.path)
                else:
                    yield name, KINDS[kind](file, *rest)

    def _lines(self, start: int, stop: int) -> Iterator[tuple[str, int, list[Any], int]]:
        """Name, kind, the rest of the line, and the number of the container."""
        if start >= stop:
            return
        self._file.seek(self._places[start // BLOCK])
        container, number = self._inside[start // BLOCK], start // BLOCK * BLOCK
        self._seen = -1  # the container that was looked at last
        while number < stop:
            kind, name, *rest = json.loads(self._file.readline())
            if kind == CONTAINER:
                container += 1
                continue
            if number >= start:
                yield name, kind, rest, container
            number += 1

    def _is_current(self, container: int) -> bool:
        """Is a container as it was listed? Looked at once for the images of a call."""
        if self._seen != container:
            about, _ = self._containers[container]
            self._seen = container
            self._current = not isinstance(_checked(about.path, about.size, about.stamp), Changed)
        return self._current

    def save(self, path: Path) -> None:
        """Write the list to a file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        partial = path.with_name(path.name + ".partial")
        self._file.seek(0)
        with partial.open("wb") as file:
            shutil.copyfileobj(self._file, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def compare(self, path: Path) -> str:
        """What differs first between the list that was saved and this one, in words; empty where nothing does."""
        self._file.seek(0)
        with path.open("rb") as file:
            return first_difference(file, self._file)


def first_difference(then: Iterable[bytes], now: Iterable[bytes]) -> str:
    """What differs first between two lists."""
    old, new = iter(then), iter(now)
    while True:
        before, after = next(old, b""), next(new, b"")
        if before == after:
            if not before:
                return ""
            continue
        if not after:
            return f"{_named(before)} is not there any more"
        if not before:
            return f"{_named(after)} is new"
        if _named(before) == _named(after):
            return f"{_named(after)} was changed"
        return f"{_named(after)} in place of {_named(before)}"


def _named(line: bytes) -> str:
    try:
        return str(json.loads(line)[1])
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"the list of an earlier run is damaged: {error}.") from None


def _checked(path: str, size: int, stamp: int | str) -> Path | Changed:
    """The file, if it is the one that was listed or nothing was known of it; one that is gone is left to its reader."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return Path(path)
    if size in (-1, about.st_size) and (isinstance(stamp, str) or stamp in (-1, about.st_mtime_ns)):
        return Path(path)
    return Changed(path)
