"""Compressed tar files, unpacked once into the cache: an image inside a compressed one cannot be read by itself."""

from __future__ import annotations

import errno
import gzip
import hashlib
import shutil
import sys
import zlib
from pathlib import Path

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.cache import cache_folder

__all__ = ["CutError", "unpacked"]

CHUNK = 1 << 20


class CutError(UserError):
    """The file ends too early; what came before is in ``part``."""

    part: Path


def unpacked(path: Path) -> Path:
    """The tar file inside a gzip file: a copy in the cache, made when it is first needed and kept while the file is unchanged.

    Raises:
        UserError: damaged, or no space.
        CutError: the file ends too early.
    """
    from filelock import FileLock

    try:
        about = path.stat()
        key = f"{path.resolve()}\0{about.st_size}\0{about.st_mtime_ns}".encode("utf-8", "surrogateescape")
        folder = cache_folder() / "unpacked" / hashlib.sha256(key).hexdigest()[:32]
        target = folder / "content.tar"
        if target.is_file():
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # another process that unpacks the same file is waited for
            if not target.is_file():
                partial = folder / "content.tar.partial"
                _unpack(path, partial, about.st_size)
                partial.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"no space is left to unpack {path}. Free some, set VITKIT_CACHE to another place, or use plain tar files."
            ) from None
        raise UserError(f"cannot unpack {path} into {cache_folder()}: {error.strerror or error}.") from None
    return target


def _unpack(path: Path, partial: Path, size: int) -> None:
    console = Console(out=sys.stderr)
    with (
        path.open("rb") as raw,
        gzip.GzipFile(fileobj=raw) as stream,
        partial.open("wb") as file,
        console.live(size, f"unpacking {path.name}") as line,
    ):
        try:
            while piece := stream.read1(CHUNK):  # `read` would lose what came before a cut
                file.write(piece)
                line.update(raw.tell(), "")
        except EOFError:
            file.flush()
            cut = CutError(f"{path} is cut off: its gzip stream has no end after {size:,} bytes.")
            cut.part = partial
            raise cut from None
        except (zlib.error, gzip.BadGzipFile) as error:
            shutil.rmtree(partial.parent, ignore_errors=True)
            raise UserError(f"{path} is damaged: {error}. Copy or download it again.") from None
