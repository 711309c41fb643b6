"""`vit datasets`: the published data sets that are read by name, and what their folders must hold."""

from __future__ import annotations

from typing import Any

from vitkit.console import Console
from vitkit.datasets import book
from vitkit.datasets.rows import Published

__all__ = ["describe_dataset", "list_datasets"]


def list_datasets(name: str | None = None, *, console: Console | None = None) -> tuple[Published, ...]:
    """Print and return every published data set, or the one of that name with all that is known of it.

    Raises:
        UserError: no such name, with the nearest.
    """
    rows = book.list_datasets() if name is None else (book.find_dataset(name),)
    if console is not None:
        for line in _table(rows) if name is None else _lines(rows[0]):
            console.say(line)
    return rows


def describe_dataset(row: Published) -> dict[str, Any]:
    """What `--json` prints."""
    facts: dict[str, Any] = {"name": row.name, "title": row.title, "classes": row.classes, "images": dict(row.counts)}
    return {**facts, "licence": row.licence, "source": row.source, "layout": row.layout, "note": row.note}


def _images(row: Published) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in row.counts.items())


def _table(rows: tuple[Published, ...]) -> list[str]:
    cells = [("NAME", "TITLE", "CLASSES", "IMAGES", "LICENCE")]
    cells += [(row.name, row.title, f"{row.classes:,}", _images(row), row.licence) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [
        f"{name:{widths[0]}}  {title:{widths[1]}}  {classes:>{widths[2]}}  {images:{widths[3]}}  {licence}".rstrip()
        for name, title, classes, images, licence in cells
    ]
    return [*lines, f"{len(rows)} data sets. vit datasets NAME says what the folder must hold; DATA is NAME=FOLDER."]


def _lines(row: Published) -> list[str]:
    told = {
        "images": _images(row),
        "classes": f"{row.classes:,}",
        "licence": row.licence,
        "source": row.source,
        "folder holds": row.layout,
        "may be absent": f"one of {' and '.join(row.apart)}" if row.apart else "",
        "note": row.note,
        "use it as": f"{row.name}=FOLDER, or {row.name} with the files in DIR/{row.name} and --data-root DIR or VITKIT_DATA=DIR",
    }
    width = max(map(len, told))
    return [f"{row.name}: {row.title}", *(f"  {what:{width}}  {text}" for what, text in told.items() if text)]
