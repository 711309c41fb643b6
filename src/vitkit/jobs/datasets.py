"""`vit datasets`: the published data sets that are read by name, and what their folders must hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitkit.console import Console
from vitkit.datasets import book
from vitkit.datasets.rows import Published
from vitkit.datasets.vtab import TASKS

__all__ = ["describe_dataset", "list_datasets"]


def list_datasets(name: str | None = None, *, console: Console | None = None) -> tuple[Published, ...]:
    """Print and return every published data set, or the one of that name with all that is known of it.

    Raises:
        UserError: no such name, with the nearest.
    """
    rows = book.list_datasets() if name is None else (book.find_dataset(name),)
    if console is not None:
        for line in _table() if name is None else _lines(rows[0]):
            console.say(line)
    return rows


def describe_dataset(row: Published) -> dict[str, Any]:
    """What `--json` prints."""
    facts: dict[str, Any] = {"name": row.name, "title": row.title, "classes": row.classes, "images": dict(row.counts)}
    return {**facts, "licence": row.licence, "source": row.source, "layout": row.layout, "note": row.note}


def _images(row: Published) -> str:
    if len(row.counts) > 7 and len(set(row.counts.values())) == 1:
        first, *_, last = row.counts
        return f"{next(iter(row.counts.values())):,} in each of {len(row.counts)} splits, {first} to {last}"
    return ", ".join(f"{split} {count:,}" for split, count in row.counts.items())


def _table() -> list[str]:
    """A line of each row, 100 columns wide at most, in groups."""
    groups = book.list_groups()
    cells = {row.name: (row.name, row.title, f"{row.classes:,}", *_counts(row)) for row in book.list_datasets()}
    head = ("NAME", "TITLE", "CLASSES", "TRAIN", "VAL", "TEST")
    widths = [max(len(line[column]) for line in (head, *cells.values())) for column in range(len(head))]
    lines = [_line(head, widths)]
    for group, rows in groups.items():
        lines += [
            "",
            f"{group}{_also(rows) if group == 'VTAB-1k' else ''}",
            *(_line(cells[row.name], widths) for row in rows),
        ]
    return [
        *lines,
        "",
        f"{len(cells)} data sets. vit datasets NAME says the licence and what the folder must hold; DATA is NAME=FOLDER.",
    ]


def _also(rows: tuple[Published, ...]) -> str:
    others = [task.row for task in TASKS if task.row not in {row.name for row in rows}]
    return f", besides {', '.join(others)}"


def _counts(row: Published) -> tuple[str, str, str]:
    """Images of train and val, and of everything else, which is to test on."""
    train, val = row.counts.get("train", 0), row.counts.get("val", 0)
    return _count(train), _count(val), _count(sum(row.counts.values()) - train - val)


def _count(images: int) -> str:
    return f"{images:,}" if images else "-"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    words = [
        f"{cell:{width}}" if n < 2 else f"{cell:>{width}}"
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(words).rstrip()


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
