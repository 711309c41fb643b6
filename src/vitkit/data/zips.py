"""Reads zip files where they lie: the members are listed, each is unpacked in memory when it is read."""

from __future__ import annotations

import errno
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vitkit.config import UserError

__all__ = ["ZipMember", "list_zip"]

# Source: PKWARE APPNOTE 6.3, 4.3.7: a local header is 30 bytes, at 26 and 28 the lengths of the name and the extra field.
LOCAL_HEADER = 30
ENCRYPTED = 1


class ZipMember(NamedTuple):
    """A file inside a zip file."""

    path: str
    offset: int  # of its local header
    packed: int  # bytes in the file
    size: int
    crc: int
    deflated: bool

    def read(self) -> bytes:
        """Its content.

        Raises:
            OSError: the zip file is gone, shorter than when it was listed, or damaged here.
        """
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            header = file.read(LOCAL_HEADER)
            if len(header) == LOCAL_HEADER and header[:4] == b"PK\x03\x04":
                file.seek(sum(struct.unpack("<HH", header[26:30])), 1)
                content = file.read(self.packed)
                if self.deflated:
                    try:
                        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size + 1)
                    except zlib.error:
                        content = b""
                if len(content) == self.size and zlib.crc32(content) == self.crc:
                    return content
        raise OSError(errno.EIO, "the zip file is damaged, or shorter than when it was listed", self.path)


def list_zip(path: Path) -> dict[str, ZipMember]:
    """Every file of a zip file by its name, in its order; hidden files and `__MACOSX/` are left out.

    Raises:
        UserError: not a whole zip file, encrypted, compressed otherwise than by deflate, or names that leave the archive.
    """
    found: dict[str, ZipMember] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a whole zip file: {error}. Copy or download it again.") from None
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if not parts:
            raise UserError(f"{path} is not a whole zip file: a member has no name. Copy or download it again.")
        if entry.is_dir() or any(part.startswith(".") and part != ".." for part in parts) or parts[0] == "__MACOSX":
            continue
        if entry.filename.startswith("/") or ".." in parts:
            raise UserError(
                f"{path} has the member {entry.filename!r}; expected names inside the archive, without .. or a leading /."
            )
        if entry.flag_bits & ENCRYPTED:
            raise UserError(f"{path} is encrypted. Unpack it.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{path} has the member {entry.filename!r}, compressed otherwise than by deflate. Unpack it."
            )
        deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        name = "/".join(parts)
        if name in found:
            raise UserError(f"{path} has the member {name!r} twice. Keep one.")
        found[name] = ZipMember(
            str(path), entry.header_offset, entry.compress_size, entry.file_size, entry.CRC, deflated
        )
    return found
