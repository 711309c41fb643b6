"""Values of a Parquet row group, copied once into the cache, since a single one cannot be read from the file itself.

Writers commonly put all images of a row group into one compressed page, so that each costs the whole row group; the copy has
them one after the other, and where each one lies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vitkit.data.cache import cache_folder

__all__ = ["Spilled"]

MARK = b"vitkit row group 1\n"


class Spilled:
    """Copies of row groups by file, row group and column, kept while the file is unchanged. One thread at a time."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, int, str], tuple[Path, np.ndarray]] = {}

    def find(self, key: tuple[str, int, str]) -> bool:
        """Is there a whole copy?"""
        if key in self.places:
            return True
        with contextlib.suppress(OSError, ValueError):
            place = _place(key)
            with place.open("rb") as file:
                size = file.seek(-16, os.SEEK_END) + 16
                rows = int.from_bytes(file.read(8), "little")
                if file.read(8) != MARK[:8] or not 0 <= rows < size:
                    return False
                file.seek(size - 16 - 16 * rows)
                spans = np.frombuffer(file.read(16 * rows), np.int64).reshape(2, rows)
            self.places[key] = (place, spans)
            return True
        return False

    def write(self, key: tuple[str, int, str], values: Iterable[bytes | None], size: int) -> bool:
        """Copy the values; False where there is no room or no leave for a copy of ``size`` bytes."""
        with contextlib.suppress(OSError):
            place = _place(key)
            place.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(place.parent).free < 2 * size:
                return False
            partial = place.with_name(f"{place.name}.{os.getpid()}.partial")  # workers may write the same at once
            try:
                with partial.open("wb") as file:
                    spans = []
                    for value in values:
                        start = file.tell()
                        file.write(value or b"")
                        spans.append((start, file.tell()) if value is not None else (-1, -1))
                    file.write(np.array(spans, np.int64).T.tobytes())
                    file.write(len(spans).to_bytes(8, "little") + MARK[:8])
                partial.replace(place)
            finally:
                partial.unlink(missing_ok=True)
            return self.find(key)
        return False

    def read(self, key: tuple[str, int, str], row: int) -> bytes | None:
        """One value, None where it is null.

        Raises:
            IndexError: no such row.
            OSError: the copy is gone.
        """
        place, spans = self.places[key]
        start, stop = (int(ends) for ends in spans[:, row])
        if start < 0:
            return None
        with place.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


def _place(key: tuple[str, int, str]) -> Path:
    path, group, column = key
    about = os.stat(path)
    text = f"{os.path.realpath(path)}\0{about.st_size}\0{about.st_mtime_ns}\0{column}".encode(
        "utf-8", "surrogateescape"
    )
    return cache_folder() / "rowgroups" / hashlib.sha256(text).hexdigest()[:32] / f"{group}.bin"
