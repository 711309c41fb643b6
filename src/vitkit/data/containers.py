"""Where an image's bytes are: a file, bytes in memory, or a place inside a larger file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

__all__ = ["ImageSource", "Stored", "read_bytes"]


class Stored(Protocol):
    """An image inside a larger file. Small, picklable, and read again each time: nothing is kept in memory."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: the larger file is gone or shorter than it was.
        """
        ...


ImageSource = str | Path | bytes | Stored


def read_bytes(source: ImageSource) -> bytes:
    """The encoded image that ``source`` names.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(source, bytes):
        return source
    return Path(source).read_bytes() if isinstance(source, str | Path) else source.read()
