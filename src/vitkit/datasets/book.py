"""All published data sets by name, and what a user's DATA argument means."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from pathlib import Path

from vitkit.config import UserError, did_you_mean
from vitkit.data import sources
from vitkit.data.samples import Source
from vitkit.data.shards import has_braces
from vitkit.datasets.rows import Published

__all__ = ["FAMILIES", "data_name", "find_dataset", "list_datasets", "list_groups", "pinned", "place_of", "read_data"]

FAMILIES: dict[str, tuple[str, ...]] = {  # modules of this package that hold ROWS
    "Classification": ("imagenet", "cifar", "mnist", "pets", "flowers102", "caltech101", "cars196", "dtd", "uc_merced"),
    "VTAB-1k": (
        "sun397", "svhn", "patch_camelyon", "eurosat", "resisc45", "retinopathy",
        "clevr", "dmlab", "dsprites", "kitti", "smallnorb",
    ),
    "Robustness": ("robustness", "corruptions", "objectnet", "vizwiz"),
}  # fmt: skip


@cache
def list_groups() -> dict[str, tuple[Published, ...]]:
    """The rows of each group: those of VTAB-1k are the ones that no other evaluation of the paper takes."""
    return {
        group: tuple(row for family in families for row in import_module(f"vitkit.datasets.{family}").ROWS)
        for group, families in FAMILIES.items()
    }


@cache
def list_datasets() -> tuple[Published, ...]:
    """Every row."""
    return tuple(row for rows in list_groups().values() for row in rows)


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
            f"where is {name}? Write {name}=FOLDER with the folder that holds the publisher's files, or put them in DIR/{name} and "
            "say where DIR is: --data-root DIR with vit evaluate, the environment variable VITKIT_DATA=DIR with every command."
        )
    return Path(base) / name


def read_data(data: str | Path, *, root: str | Path | None = None, partial: bool = False) -> Source:
    """What DATA names: an existing path and whatever `read_source` understands; else ``NAME=FOLDER`` or ``NAME`` of a row.

    Raises:
        UserError: as `read_source` and `Published.open`; a folder that is not understood but holds a publisher's files.
    """
    if found := _named(str(data)):
        row, folder = found
        return row.open(place_of(row.name, root) if folder is None else Path(folder), partial=partial)
    try:
        return sources.read_source(data)
    except UserError as error:
        rows = [row for row in list_datasets() if any((Path(data) / sign).exists() for sign in row.signs)]
        if not rows:
            raise
        meant = " or ".join(f"{row.name}={data} ({row.title})" for row in rows)
        raise UserError(f"{error} It holds files of a published data set; write {meant}.") from None


def pinned(data: str | Path, root: str | Path | None = None) -> str:
    """The data's name as a run stores it: as `sources.pinned`, and a published set with its folder made absolute.

    Raises:
        UserError: as `sources.pinned` and `place_of`.
    """
    if found := _named(str(data)):
        row, folder = found
        return f"{row.name}={(place_of(row.name, root) if folder is None else Path(folder)).resolve()}"
    return sources.pinned(data)


def data_name(data: str | Path) -> str:
    """What to call data before it is read: the name of a published set, else as `sources.data_name`."""
    found = _named(str(data))
    return found[0].name if found else sources.data_name(data)


def _named(text: str) -> tuple[Published, str | None] | None:
    """The row that ``NAME=FOLDER`` or ``NAME`` names, and the folder; None where it is other data.

    Raises:
        UserError: ``NAME=FOLDER`` of no row.
    """
    name, equals, folder = text.partition("=")
    if Path(text).exists() or "/" in name or ":" in name or has_braces(text):
        return None
    rows = {row.name: row for row in list_datasets()}
    if name in rows:
        return rows[name], folder if equals else None
    if equals:
        find_dataset(name)
    return None
