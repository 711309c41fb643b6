"""A publisher's files, unpacked in a folder or still inside the archive that they come in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vitkit.config import UserError
from vitkit.data.archives import list_tar
from vitkit.data.containers import ImageSource, read_bytes
from vitkit.data.samples import Sample
from vitkit.data.zips import list_zip
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.rows import missing

__all__ = ["Shipped", "find_one", "list_files", "open_shipped", "ordered_samples"]


@dataclass(frozen=True)
class Shipped:
    """Files by their names below the folder that the publisher packed."""

    place: Path  # that folder, or the archive, for messages
    files: Mapping[str, ImageSource]

    def read(self, name: str) -> bytes:
        """The content of one.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        if name not in self.files:
            raise UserError(f"{self.place} has no {name}. Fetch it again.")
        try:
            return read_bytes(self.files[name])
        except OSError as error:
            raise UserError(f"cannot read {name} of {self.place}: {error.strerror or error}.") from None

    def lines(self, name: str) -> list[str]:
        """The lines of a text file that are not empty.

        Raises:
            UserError: as `read`; not text.
        """
        try:
            text = self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{name} of {self.place} is not text. Fetch it again.") from None
        return [line.strip() for line in text.splitlines() if line.strip()]


def open_shipped(folder: Path, inner: str, *archives: str, sign: str = "") -> Shipped | None:
    """The publisher's folder ``inner`` in ``folder``, or ``folder`` itself where it is called so, or else an archive that holds it.

    Args:
        inner: what the publisher's folder is called, perhaps with several parts: ``UCMerced_LandUse/Images``.
        archives: names of archives that hold it: tar, tar.gz, tgz or zip.
        sign: a file that the publisher's folder holds: ``folder`` is taken for that folder, whatever its name, if it has one.

    Returns:
        None where nothing of this is there.

    Raises:
        UserError: an archive that cannot be read.
    """
    if (folder / inner).is_dir():
        return Shipped(folder / inner, list_files(folder / inner))
    for name in archives:
        path = folder / name
        if path.is_file():
            start = f"{inner}/"
            files = {name[len(start) :]: at for name, at in list_files(path).items() if name.startswith(start)}
            if not files:
                raise UserError(f"{path} holds no folder {inner}/. Fetch it again.")
            return Shipped(path, files)
    parts = PurePosixPath(inner).parts
    for depth in range(1, len(parts) + 1):  # the folder given may be the inner one, or one on the way to it
        place = folder.joinpath(*parts[depth:])
        if folder.absolute().parts[-depth:] == parts[:depth] and place.is_dir():
            return Shipped(place, list_files(place))
    if sign and (folder / sign).exists():
        return Shipped(folder, list_files(folder))
    return None


def find_one(title: str, folder: Path, layout: str, *names: str) -> Path:
    """The first of ``names`` that ``folder`` holds.

    Raises:
        UserError: none of them.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise missing(title, folder, " or ".join(names), layout)


def list_files(path: Path) -> dict[str, ImageSource]:
    """Every file below a folder or inside a tar, tar.gz or zip file, by its name from there, sorted; hidden ones are left out.

    A gzip tar file is unpacked once into the cache.

    Raises:
        UserError: it cannot be read, or is damaged, cut off or encrypted.
    """
    found: Mapping[str, ImageSource]
    if path.is_dir():
        found = _below(path)
    else:
        found = list_zip(path) if path.suffix == ".zip" else list_tar(path)
    return {name: found[name] for name in sorted(found) if not name.startswith("__MACOSX/")}


def _below(folder: Path) -> dict[str, str]:

    def fail(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}.")

    found = {}
    for at, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = (name for name in folders if not name.startswith("."))
        start = "" if (below := os.path.relpath(at, folder)) == "." else f"{below.replace(os.sep, '/')}/"
        found.update({f"{start}{name}": os.path.join(at, name) for name in names if not name.startswith(".")})
    return found


def ordered_samples(
    files: Mapping[str, ImageSource], listed: Iterable[tuple[str, int, str]], split: str, prefix: str = ""
) -> list[Sample]:
    """The images of a publisher's list that are there, in the order of TensorFlow Datasets.

    Absent ones are left out: the number of images is compared with the published one later.

    Args:
        files: images by name.
        listed: name, label and the key in TensorFlow Datasets of each.
        split: its name there.
        prefix: put before the names of the samples, where those of several splits are alike.
    """
    there = [entry for entry in listed if entry[0] in files]
    samples = [Sample(f"{prefix}{name}", files[name], label) for name, label, _ in there]
    return in_tfds_order(samples, [key for _, _, key in there], split)
