"""All published data sets by name, and what a user's DATA argument means."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from pathlib import Path

from vitkit.config import UserError, did_you_mean
from vitkit.data.samples import Source
from vitkit.data.sources import read_source
from vitkit.datasets.rows import Published

__all__ = ["FAMILIES", "find_dataset", "list_datasets", "place_of", "read_data"]

FAMILIES: tuple[str, ...] = (  # modules of this package that hold ROWS
    "clevr", "dmlab", "dsprites", "eurosat", "kitti", "patch_camelyon", "resisc45", "retinopathy", "smallnorb", "sun397", "svhn",
)  # fmt: skip


@cache
def list_datasets() -> tuple[Published, ...]:
    """Every row."""
    return tuple(row for family in FAMILIES for row in import_module(f"vitkit.datasets.{family}").ROWS)


def find_dataset(name: str) -> Published:
    """The row of that name.

    Raises:
        UserError: no such name, with the nearest.
    """
    rows = {row.name: row for row in list_datasets()}
    if name not in rows:
        raise UserError(f"no published data set {name!r}.{did_you_mean(name, rows)} Known: {', '.join(rows)}.")
    return rows[name]


def place_of(name: str, root: str | Path | None) -> Path:
    """Where a data set's files are looked for: the folder of its name below ``root``, else below $VITKIT_DATA.

    Raises:
        UserError: neither is given.
    """
    base = root or os.environ.get("VITKIT_DATA")
    if not base:
        raise UserError(
            f"where is {name}? Write {name}=FOLDER, or give --data-root DIR (or the environment variable VITKIT_DATA) with "
            f"the publisher's files in DIR/{name}."
        )
    return Path(base) / name


def read_data(data: str | Path, *, root: str | Path | None = None, partial: bool = False) -> Source:
    """What DATA names: an existing path and whatever `read_source` understands; else ``NAME=FOLDER`` or ``NAME`` of a row.

    Raises:
        UserError: as `read_source` and `Published.open`.
    """
    text = str(data)
    if not Path(text).exists():
        name, equals, folder = text.partition("=")
        rows = {row.name: row for row in list_datasets()}
        if name in rows:
            return rows[name].open(Path(folder) if equals else place_of(name, root), partial=partial)
        if equals and "/" not in name and ":" not in name:
            find_dataset(name)
    return read_source(data)
