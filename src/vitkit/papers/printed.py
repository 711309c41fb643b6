"""The tables that the paper prints, as rows with ours beside them, from the values and results of the board."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitkit.board.catalogue import DATASETS, plain
from vitkit.board.entries import Entry, board_folder, ours, published
from vitkit.papers.item import PAPER, Outcome

__all__ = ["accuracies", "accuracy_table", "beside_printed", "figure", "printed_table", "titles"]

_TITLES = {row.name: row.title for row in DATASETS}


def accuracies(table: str, by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The accuracies of a table in percent, one row for each model, pre-training and value of the extra facts ``by``.

    Each row has ``model``, ``pretraining``, the facts, ``published`` and ``spread`` by data set, ``ours`` (results on this
    machine's board of a model of that name, see `beside_printed`), and ``source``.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in published():
        if entry.paper != "vit" or entry.kind != "published" or entry.table != table:
            continue
        facts = {name: entry.extra.get(name) for name in by}
        key = (entry.model, entry.pretraining, *facts.values())
        row = rows.setdefault(
            key,
            {"model": entry.model, "pretraining": entry.pretraining, **facts, "published": {}, "spread": {}, "ours": {},
             "source": f"{PAPER}, {table}"},
        )  # fmt: skip
        row["published"][entry.dataset] = entry.value
        if entry.spread is not None:
            row["spread"][entry.dataset] = entry.spread
    return list(rows.values())


def beside_printed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Put our results into the rows whose model they name, and say what could not be placed.

    A result is of a row if its model on the board is the row's, or the row's with the pre-training behind it
    (``ViT-L/16 ImageNet-21k``); a bare name that several rows have is nobody's, and is said.
    """
    notes = []
    tables = {(entry.task, entry.dataset, entry.metric) for entry in published() if entry.paper == "vit"}
    for entry in ours():
        if (entry.task, entry.dataset, entry.metric) not in tables or entry.metric != "top1":
            continue
        found = [row for row in rows if entry.dataset in row["published"] and _is_of(entry, row)]
        if len(found) == 1:
            found[0]["ours"][entry.dataset] = {
                "value": entry.value, "low": entry.low, "high": entry.high, "n": entry.n, "part": entry.part,
                "command": entry.command,
            }  # fmt: skip
        elif found:
            notes.append(
                f"ours: {entry.model}, {figure(entry.value)} on {_TITLES[entry.dataset]}, fits {len(found)} rows; add it with "
                f"--model-name {found[0]['model'] + ' ' + found[0]['pretraining']!r}, say, to place it."
            )
    if not any(row["ours"] for row in rows):
        notes.append(f"ours: none of these models in {board_folder()}; `vit results add RUN` puts a run's there.")
    return notes


def _is_of(entry: Entry, row: Mapping[str, Any]) -> bool:
    names = {plain(row["model"]), plain(f"{row['model']} {row['pretraining']}")}
    return plain(entry.model) in names


def titles(datasets: Iterable[str]) -> list[str]:
    """Data sets as headings."""
    return [_TITLES[name].removeprefix("VTAB ") for name in datasets]


def figure(value: float | None, spread: float | None = None) -> str:
    """A percentage as the paper prints it."""
    if value is None:
        return ""
    return f"{value:.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"


def accuracy_table(rows: Sequence[Mapping[str, Any]], facts: Sequence[str] = ()) -> list[list[str]]:
    """Rows of `accuracies` for people; ours stand on a line of their own below."""
    datasets = list(dict.fromkeys(name for row in rows for name in row["published"]))
    table = [["model", "pre-trained on", *facts, *titles(datasets)]]
    for row in rows:
        printed = [figure(row["published"].get(name), row["spread"].get(name)) for name in datasets]
        table.append([row["model"], row["pretraining"], *(str(row[fact]) for fact in facts), *printed])
        if row["ours"]:
            cells = [row["ours"].get(name) for name in datasets]
            shown = ["" if c is None else f"{figure(c['value'])}{' of a part' if c['part'] else ''}" for c in cells]
            table.append(["  ours", "", *("" for _ in facts), *shown])
    return table


def printed_table(table: str, *, facts: Sequence[str] = (), notes: Sequence[str] = ()) -> Outcome:
    """A table of accuracies as the paper prints it, with ours where there are any."""
    rows = accuracies(table, facts)
    placed = beside_printed(rows)
    return Outcome(rows, accuracy_table(rows, facts), (*notes, *placed))
