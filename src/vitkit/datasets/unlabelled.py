"""Images of whatever the user names, where labels do not matter."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.remote import is_remote
from vitkit.data.sources import TABLE_SUFFIXES, find_images, read_images
from vitkit.datasets.book import data_name, read_data

__all__ = ["Unlabelled", "list_images"]

PREFERRED = ("test", "val", "all", "train")


class Unlabelled(NamedTuple):
    """Images with their names, in the order of the data."""

    name: str  # what to call the data
    images: list[tuple[str, ImageSource]]


def list_images(given: str | Path | Sequence[str | Path]) -> Unlabelled:
    """The images of a file, a folder (to the bottom), a glob pattern, a table or tar file, or of any labelled data.

    Of labelled data that are named otherwise (a folder of tables, ``digits``, ``NAME=FOLDER``, an address) the images of one
    split: test, else val, else all, else train.

    Raises:
        UserError: no such data, or no images in them.
    """
    if isinstance(given, str | Path):
        return _one(given)
    found = [_one(item) for item in given]
    if not found:
        raise UserError("no images named; give files, folders or data.")
    return Unlabelled(found[0].name, [image for one in found for image in one.images])


def _one(given: str | Path) -> Unlabelled:
    path, name = Path(given), data_name(given)
    if path.is_dir() and (below := find_images(path)):
        return Unlabelled(name, [(image.relative_to(path).as_posix(), image) for image in below])
    if path.is_file():
        if path.name.lower().endswith(TABLE_SUFFIXES):
            return Unlabelled(name, read_images(path))
        return Unlabelled(name, [(path.name, path)])
    if not path.exists() and glob.has_magic(str(given)) and not is_remote(str(given)):
        files = [Path(file) for file in sorted(glob.glob(str(given), recursive=True)) if Path(file).is_file()]
        if not files:
            raise UserError(f"no file matches {str(given)!r}.")
        return Unlabelled(name, [(str(file), file) for file in files])
    if path.is_dir() and not any(p.name.lower().endswith(TABLE_SUFFIXES) for p in path.rglob("*")):
        raise UserError(f"{given} holds no images, and no tables or tar files of images.")
    source = read_data(given)
    split = next(split for split in (*PREFERRED, *source.splits) if split in source.splits)
    samples = source.splits[split]
    if not samples:
        raise UserError(f"{given}: the split {split!r} has no images.")
    return Unlabelled(source.name, [(sample.name, sample.source) for sample in samples])
