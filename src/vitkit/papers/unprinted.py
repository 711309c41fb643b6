"""Figures whose values the paper gives in its picture alone: what would make ours, and no invented number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitkit.papers.item import PAPER, Item, Outcome

__all__ = ["UNPRINTED", "unprinted"]

UNPRINTED = "the paper gives the values of this figure in its picture alone; none is repeated here, since none could be checked."


def unprinted(
    item: Item, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], notes: Sequence[str] = ()
) -> Outcome:
    """The runs behind a figure, without values: each row gets ``published`` null and its source."""
    source = f"{PAPER}, {item.name.replace('figure', 'Figure ')}"
    whole = [{**row, "published": None, "source": source} for row in rows]
    table = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    return Outcome(whole, table, (UNPRINTED, *notes))
