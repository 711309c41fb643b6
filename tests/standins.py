"""Writers of the containers in which publishers ship data sets: tarfile, zipfile and Pillow, nothing of the package."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

__all__ = ["jpeg", "pack_tar", "pack_zip", "png", "unpack", "write_tar", "write_zip"]

Members = Iterable[tuple[str, bytes]]


def jpeg(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A plain image whose red is ``value``."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 10, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def png(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 10, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def pack_tar(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders = set()
        for name, content in members:
            if "/" in name and (folder := name.rpartition("/")[0]) not in folders:  # as tar itself does
                folders.add(folder)
                entry = tarfile.TarInfo(folder)
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    """A tar file, compressed where its name says so."""
    content = pack_tar(members)
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(("gz", "tgz")) else content)
    return path


def pack_zip(members: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def write_zip(path: Path, members: Members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.write_bytes(pack_zip(members, method))
    return path


def unpack(folder: Path, members: Members) -> Path:
    """The same as plain files."""
    for name, content in members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
