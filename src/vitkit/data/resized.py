"""Training images as views are cut from them, decoded and shrunk once, kept on disk for later epochs and runs. Imports no torch.

An entry is bound to the SHA-256 of the image's file, to what was done to it and to the version of the library that did it. Pixels
are kept as they are, so that a view has the same bits with and without. Evaluation reads none of this. Several processes may
share the folder: an entry appears whole or not at all, all together stay below a limit, and those that were not used for longest
go first. A place that cannot be written, and a damaged entry, cost time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image
from PIL import __version__ as pillow

from vitkit.config import UserError
from vitkit.data.cache import cache_folder
from vitkit.data.containers import ImageSource, read_bytes
from vitkit.data.pixels import Picture

__all__ = ["Resized", "check_size", "open_resized"]

RULES = "resized-1"  # what is kept and how; other rules, other folder
HEADER = struct.Struct("<4sIII")  # mark, width, height, CRC-32 of the pixels
MARK = b"VKRZ"
LEFT = 0.9  # part of the limit that is left after old entries went, so that not every new one makes room
WAIT = 30.0  # seconds for another process that adds an entry
Make = Callable[[ImageSource], Picture]


class Resized:
    """Images by the content of their files; at most ``limit`` bytes of them on disk.

    Small and picklable, for the processes that prepare images.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit = limit
        self.folder = (folder or cache_folder()) / f"{RULES}-pillow-{pillow}"
        self.began = time.time() - 1  # entries used since then stay; file systems' clocks lag a little
        self.full = False
        self.problem = ""  # why nothing more is kept, empty where all is well
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(13, "no permission to write")
        except OSError as error:
            self._give_up(error)

    def image(self, source: ImageSource, settings: str, make: Make) -> Picture:
        """What ``make`` makes of ``source``: read where it is kept, else made, and kept if it is RGB.

        ``settings`` names everything beside the file's content that the result depends on.

        Raises:
            ImageError: as ``make`` does; failures are not kept.
        """
        try:
            content = read_bytes(source)
        except OSError:
            return make(source)  # says what is wrong
        path = self._path(content, settings)
        if (kept := _read(path)) is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
            return kept
        image = make(content)
        if isinstance(image, Image.Image) and image.mode == "RGB":
            self._keep(path, image)
        return image

    def _path(self, content: bytes, settings: str) -> Path:
        key = hashlib.sha256(content).hexdigest()
        return self.folder / key[:2] / f"{key}-{settings}.rgb"

    def _keep(self, path: Path, image: Image.Image) -> None:
        if self.full or self.problem:
            return
        pixels = image.tobytes()
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(exist_ok=True)
            with FileLock(self.folder / "lock", timeout=WAIT):
                damaged = path.stat().st_size if path.exists() else 0  # or another process was faster
                size, used = HEADER.size + len(pixels), self._used() - damaged
                if used + size > self.limit:
                    used = self._make_room(size) - damaged
                if used + size > self.limit:
                    self.full = True
                    return
                partial.write_bytes(HEADER.pack(MARK, *image.size, zlib.crc32(pixels)) + pixels)
                partial.replace(path)
                (self.folder / "bytes").write_text(str(used + size))
        except (OSError, Timeout) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.problem = f"decoded images are not kept in {self.folder} ({error})"

    def _used(self) -> int:
        """Bytes of all entries. The count of a process that was killed in between may be short of its last entry."""
        try:
            return int((self.folder / "bytes").read_text())
        except (OSError, ValueError):
            return sum(size for _, size, _ in self._entries())

    def _entries(self) -> list[tuple[float, int, str]]:
        """(last use, bytes, path) of every entry."""
        found = []
        for part in [entry for entry in os.scandir(self.folder) if entry.is_dir()]:
            for entry in os.scandir(part):
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat()
                    found.append((facts.st_mtime, facts.st_size, entry.path))
        return found

    def _make_room(self, size: int) -> int:
        """Remove entries that this run has not used, the longest unused first; return the bytes of what stays."""
        entries = sorted(self._entries())
        used = sum(size for _, size, _ in entries)
        wanted = min(self.limit - size, int(LEFT * self.limit))
        for last, bytes_, path in entries:
            if used <= wanted or last >= self.began:
                break
            os.unlink(path)
            used -= bytes_
        (self.folder / "bytes").write_text(str(used))
        return used


def check_size(gigabytes: float) -> None:
    """Refuse a limit that is none.

    Raises:
        UserError: negative or not finite.
    """
    if not 0 <= gigabytes < float("inf"):
        raise UserError(f"--resized-cache must be a number of GB from 0 up, got {gigabytes!r}.")


def open_resized(gigabytes: float, warn: Callable[[str], None]) -> Resized | None:
    """The user's store of at most so many GB; None for 0. ``warn`` is told where nothing can be kept."""
    if not gigabytes:
        return None
    store = Resized(int(gigabytes * 1e9))
    if store.problem:
        warn(store.problem)
    return store


def _read(path: Path) -> Image.Image | None:
    """The image of an entry; None where there is none, or a damaged one."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    if len(stored) < HEADER.size:
        return None
    mark, width, height, check = HEADER.unpack_from(stored)
    pixels = memoryview(stored)[HEADER.size :]
    if mark != MARK or len(pixels) != 3 * width * height or zlib.crc32(pixels) != check:
        return None
    return Image.frombytes("RGB", (width, height), pixels)
