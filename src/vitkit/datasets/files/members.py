"""The files of a publisher's archive, packed or unpacked: a folder, a zip file or a tar file, plain or gzip."""

from __future__ import annotations

import errno
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from vitkit.config import UserError
from vitkit.data.archives import TarMember
from vitkit.data.containers import ImageSource
from vitkit.data.unpack import unpacked
from vitkit.datasets.rows import missing

__all__ = ["ZipMember", "find_one", "list_members"]

LOCAL = struct.Struct("<4s22xHH")  # signature; lengths of name and extra field. Source: PKWARE APPNOTE 4.3.7
GZIP = b"\x1f\x8b"


class ZipMember(NamedTuple):
    """A file inside a zip file, stored or deflated."""

    path: str
    header: int  # where its local header is
    packed: int  # bytes
    size: int
    checksum: int
    deflated: bool

    def read(self) -> bytes:
        """Its content.

        Raises:
            OSError: the zip file is gone, shorter than when it was listed, or damaged.
        """
        with open(self.path, "rb") as file:
            file.seek(self.header)
            local = file.read(LOCAL.size)
            if len(local) == LOCAL.size:
                signature, name, extra = LOCAL.unpack(local)
                if signature == b"PK\3\4":
                    file.seek(name + extra, os.SEEK_CUR)
                    content = file.read(self.packed)
                    try:
                        content = zlib.decompress(content, -15) if self.deflated else content
                    except zlib.error:
                        content = b""
                    if len(content) == self.size and zlib.crc32(content) == self.checksum:
                        return content
        raise OSError(errno.EIO, "the zip file is damaged or not the one that was listed", self.path)


def find_one(title: str, folder: Path, layout: str, *names: str) -> Path:
    """The first of ``names`` that ``folder`` holds.

    Raises:
        UserError: none of them.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise missing(title, folder, " or ".join(names), layout)


def list_members(path: Path) -> dict[str, ImageSource]:
    """Every file below a folder or inside a zip or tar file, by its name with slashes, in sorted order; hidden ones left out.

    A gzip tar file is unpacked once into the cache.

    Raises:
        UserError: it cannot be read, or is cut off or encrypted.
    """
    try:
        if path.is_dir():
            found = _in_folder(path)
        elif zipfile.is_zipfile(path):
            found = _in_zip(path)
        else:
            found = _in_tar(path)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a folder, zip or tar file: {error}. Fetch it again.") from None
    visible = (name for name in found if not any(part.startswith((".", "__MACOSX")) for part in name.split("/")))
    return {name: found[name] for name in sorted(visible)}


def _in_folder(path: Path) -> dict[str, ImageSource]:
    found: dict[str, ImageSource] = {}
    for folder, _, names in os.walk(path):
        below = Path(folder).relative_to(path)
        found.update({(below / name).as_posix(): str(Path(folder) / name) for name in names})
    return found


def _in_zip(path: Path) -> dict[str, ImageSource]:
    found: dict[str, ImageSource] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{path}: {info.filename} is encrypted or packed in an unusual way; unpack the file.")
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            found[info.filename] = ZipMember(
                str(path), info.header_offset, info.compress_size, info.file_size, info.CRC, deflated
            )
    return found


def _in_tar(path: Path) -> dict[str, ImageSource]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    plain = unpacked(path) if packed else path
    found: dict[str, ImageSource] = {}
    length = plain.stat().st_size
    with tarfile.open(plain, "r:") as archive:
        for member in archive:
            if not member.isreg():
                continue
            if member.offset_data + member.size > length:
                raise UserError(f"{path} is cut off inside its member {member.name!r}. Fetch it again.")
            found[member.name.removeprefix("./")] = TarMember(str(plain), member.offset_data, member.size)
    return found
