"""Entries as leaderboards: one table per task, data set and metric, ranked by the metric's own direction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitkit.board.catalogue import Dataset, Metric, Paper, Task
from vitkit.board.entries import COMMUNITY, OURS, PUBLISHED, Entry
from vitkit.config import UserError

__all__ = ["Leaderboard", "Node", "Ranked", "family", "leaderboards"]

KINDS = (PUBLISHED, COMMUNITY, OURS)
LAST = "9999"  # after every date


@dataclass(frozen=True)
class Ranked:
    """One entry and its place; None where it has none: implausible, or of a part of the data set."""

    entry: Entry
    rank: int | None


@dataclass(frozen=True)
class Leaderboard:
    """The results in one metric of one task on one data set, best first, those without a place last."""

    task: Task
    dataset: Dataset
    metric: Metric
    rows: tuple[Ranked, ...]

    @property
    def anchor(self) -> str:
        """Where it stands on its data set's page."""
        return f"{self.task.name}-{self.metric.name}".replace("_", "-")

    @property
    def ranked(self) -> tuple[Entry, ...]:
        """The entries with a place, best first."""
        return tuple(row.entry for row in self.rows if row.rank is not None)

    def best(self, kind: str | None = None) -> Entry | None:
        """The best entry with a place, of one kind where one is given."""
        return next((entry for entry in self.ranked if kind in (None, entry.kind)), None)


@dataclass(frozen=True)
class Node:
    """A paper in the tree of what led to what, with the edge that leads to it and the other papers it builds on."""

    paper: Paper
    edge: str
    others: tuple[Paper, ...]
    children: tuple[Node, ...]


def leaderboards(
    entries: Iterable[Entry], tasks: Sequence[Task], datasets: Sequence[Dataset], metrics: Sequence[Metric]
) -> list[Leaderboard]:
    """Every leaderboard with an entry, in the catalogue's order of data sets, tasks and metrics.

    Raises:
        UserError: an entry of a task, data set, metric or kind that the board does not know.
    """
    known: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("dataset", {d.name: d for d in datasets}),
        ("task", {t.name: t for t in tasks}),
        ("metric", {m.name: m for m in metrics}),
        ("kind", dict.fromkeys(KINDS)),
    )
    tables: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        for field, names in known:
            if getattr(entry, field) not in names:
                raise UserError(
                    f"the result {entry.model!r} {entry.value:g} ({entry.source}) is of the {field} "
                    f"{getattr(entry, field)!r}, which the board does not know. Known: {', '.join(names)}."
                )
        tables.setdefault((entry.dataset, entry.task, entry.metric), []).append(entry)
    return [
        Leaderboard(task, dataset, metric, _ranked(tables[key], metric))
        for dataset in datasets
        for task in tasks
        for metric in metrics
        if (key := (dataset.name, task.name, metric.name)) in tables
    ]


def _ranked(entries: Iterable[Entry], metric: Metric) -> tuple[Ranked, ...]:
    """Best first; equal values share a place; entries without a place last."""
    sign = -1 if metric.better == "higher" else 1

    def order(entry: Entry) -> tuple[float, int, str, str]:
        return sign * entry.value, KINDS.index(entry.kind), entry.date or LAST, entry.model

    placed = sorted((e for e in entries if e.plausible and not e.part), key=order)
    others = sorted((e for e in entries if not e.plausible or e.part), key=lambda e: (not e.plausible, order(e)))
    ranks: list[int] = []
    for place, entry in enumerate(placed):
        ranks.append(ranks[-1] if place and placed[place - 1].value == entry.value else place + 1)
    return (
        *(Ranked(entry, rank) for entry, rank in zip(placed, ranks, strict=True)),
        *(Ranked(entry, None) for entry in others),
    )


def family(papers: Sequence[Paper]) -> tuple[Node, ...]:
    """The papers as trees: each below the first paper that it builds on, earlier ones first.

    Raises:
        UserError: a paper that builds on one that the board does not know, or on itself.
    """
    known = {paper.name: paper for paper in papers}
    below: dict[str, list[Paper]] = {}
    for paper in sorted(papers, key=lambda p: (p.date, p.name)):
        for name, _ in paper.builds_on:
            if name not in known:
                raise UserError(f"the paper {paper.name!r} builds on {name!r}, which the board does not know.")
        below.setdefault(paper.builds_on[0][0] if paper.builds_on else "", []).append(paper)
    placed: set[str] = set()

    def grow(parent: str) -> tuple[Node, ...]:
        nodes = []
        for paper in below.get(parent, ()):
            placed.add(paper.name)
            edge = paper.builds_on[0][1] if paper.builds_on else ""
            others = tuple(known[name] for name, _ in paper.builds_on[1:])
            nodes.append(Node(paper, edge, others, grow(paper.name)))
        return tuple(nodes)

    trees = grow("")
    if lost := set(known) - placed:
        raise UserError(f"the papers {', '.join(sorted(lost))} build on each other in a circle.")
    return trees
