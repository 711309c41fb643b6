"""Is a file still the one that was seen? Told from what the file system says of it, and where that is in doubt from its content."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["GRAIN", "Seal", "is_same", "seal"]

GRAIN = 50_000_000  # ns: two writes that are closer may bear one time; common kernels tell 1 to 10 ms apart
SECOND = 1_000_000_000


class Seal(NamedTuple):
    """A file at the moment it was read."""

    size: int  # bytes
    modified: int  # ns, of the content, which any program may set
    changed: int  # ns, of the content or its record, which none can set
    inode: int
    sealed: int  # ns, when reading began
    sha256: str


def seal(path: Path) -> Seal:
    """Read a file and note what it is.

    Raises:
        OSError: it cannot be read.
    """
    begun, found = time.time_ns(), os.stat(path)
    return Seal(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, begun, _sha256(path))


def is_same(path: Path, values: Any) -> bool:
    """Is the file at ``path`` what the seal ``values`` says, as read from JSON? It is read only where times leave doubt."""
    try:
        known = Seal(*values)
        found = os.stat(path)
        if found.st_size != known.size:
            return False
        times = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        fine = any(when % SECOND for when in times[:2])  # else the file system counts whole seconds
        if fine and times == known[1:4] and known.sealed - known.changed > GRAIN:
            return True
        return _sha256(path) == known.sha256
    except (OSError, TypeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
