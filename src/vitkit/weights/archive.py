"""Zip archives (`.npz` and torch files are such), listed and checked before any member is unpacked. Nothing is written to disk."""

from __future__ import annotations

import contextlib
import copy
import errno
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from torch import Tensor

from vitkit.config import UserError
from vitkit.weights.opened import shown

__all__ = ["Archive", "list_archive", "read_all"]

CHUNK = 1 << 20
# Weights hardly compress. Deflate can write a thousand times what it reads, so a small archive could fill any memory.
MOST_RATIO = 100
SMALL = 64 << 20  # bytes that may be unpacked whatever the ratio
# zipfile and zlib raise all of these on damaged archives
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, LookupError, OverflowError, EOFError)


class Archive:
    """The sound listing of a zip archive."""

    def __init__(self, path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
        self.path = path
        self.members = members

    @contextlib.contextmanager
    def opened(self) -> Iterator[zipfile.ZipFile]:
        """The archive, for `stream`; whatever a damaged one raises is a UserError."""
        with _one_message(self.path), zipfile.ZipFile(self.path) as archive:
            yield archive

    @contextlib.contextmanager
    def stream(self, archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
        """The bytes of a member, unpacked as they are read and checked when the last one was."""
        info = self.members[name]
        if info.CRC == 0:  # torch.serialization.set_crc32_options(False) writes none, and zipfile checks none of None
            info = copy.copy(info)
            info.CRC = None  # type: ignore[assignment]
        with archive.open(info) as stream:
            yield stream

    def read(self, name: str, most: int) -> bytes:
        """A small member.

        Raises:
            UserError: damaged, or longer than ``most`` bytes.
        """
        if self.members[name].file_size > most:
            raise UserError(
                f"{self.path}: {shown(name)} has {self.members[name].file_size} bytes; at most {most} are read."
            )
        with self.opened() as archive, self.stream(archive, name) as stream:
            return stream.read()


def read_all(stream: IO[bytes], raw: Tensor, what: str) -> None:
    """Fill uint8 memory (size,) with the rest of a member, exactly.

    Raises:
        UserError: the member ends before or goes on.
    """
    view = raw.numpy().data
    while view:
        part = stream.read(min(len(view), CHUNK))
        if not part:
            raise UserError(f"{what} ends too early: truncated. Fetch it again.")
        view[: len(part)] = part
        view = view[len(part) :]
    if stream.read(1):
        raise UserError(f"{what} is longer than it says: damaged. Fetch it again.")


@contextlib.contextmanager
def _one_message(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, *DAMAGED) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a place before the file's begin
            raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
        reason = shown(str(error) or type(error).__name__, 200)
        raise UserError(f"{path} is damaged or truncated: {reason}. Fetch it again.") from None


def list_archive(path: Path, size: int) -> Archive:
    """List a zip archive of ``size`` bytes.

    Raises:
        UserError: damaged, encrypted, packed in a way other than deflate, with members that overlap or bear one name, or
            that would unpack to far more than the file holds.
    """
    with _one_message(path), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        where = f"{path}: member {shown(name)}"
        if name in members:
            raise UserError(f"{where} occurs twice in the archive.")
        if name.startswith("/") or ".." in name.split("/") or "\\" in name:
            raise UserError(f"{where} is a path out of the archive; no weights are named so.")
        if info.flag_bits & 1:
            raise UserError(f"{where} is encrypted. Unpack the archive first.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{where} is packed by method {info.compress_type}; only stored and deflated ones are read."
            )
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise UserError(f"{where} claims {info.file_size} bytes and stores {info.compress_size}: damaged.")
        members[name] = info
    if sum(info.compress_size for info in infos) > size:
        raise UserError(
            f"{path}: its members claim more bytes than the file's {size}: they overlap or it is truncated."
        )
    total = sum(info.file_size for info in infos)
    if total > max(MOST_RATIO * size, SMALL):
        raise UserError(
            f"{path} would unpack from {size} to {total} bytes, {total // max(size, 1)} times as much: a zip bomb, not "
            f"weights (at most {MOST_RATIO} times is read)."
        )
    return Archive(path, members)
