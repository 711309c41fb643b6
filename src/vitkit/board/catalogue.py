"""What the board knows: its tasks, data sets, metrics, papers and methods, and finding one by what a person types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar

from vitkit.board.measures import DATASETS, METRICS, TASKS, Dataset, Metric, Task
from vitkit.board.methods import METHODS, Method
from vitkit.board.papers import PAPERS, Paper
from vitkit.config import UserError, did_you_mean

__all__ = [
    "DATASETS",
    "METHODS",
    "METRICS",
    "PAPERS",
    "TASKS",
    "Dataset",
    "Method",
    "Metric",
    "Paper",
    "Task",
    "find_dataset",
    "find_metric",
    "find_paper",
    "find_task",
    "metrics_of",
]


class Named(Protocol):
    """A row of the catalogue."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


N = TypeVar("N", bound=Named)


def plain(text: str) -> str:
    """A name without what spellings differ in: case, spaces and punctuation."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())


def find_task(name: str, dataset: Dataset | None = None) -> Task:
    """The task of that name, title or alias; of a data set's own tasks where one is given.

    Raises:
        UserError: none, with the nearest.
    """
    if dataset is None:
        return _find("task", name, TASKS)
    own = [task for task in TASKS if task.name in dataset.tasks]
    try:
        return _find("task", name, sorted(own, key=lambda task: dataset.tasks.index(task.name)))
    except UserError:
        other = _find("task", name, TASKS)
        raise UserError(
            f"task: {dataset.title} has no results of {other.title}; its tasks are {', '.join(t.name for t in own)}."
        ) from None


def find_dataset(name: str) -> Dataset:
    """The data set of that name, title or alias.

    Raises:
        UserError: none, with the nearest.
    """
    return _find("dataset", name, DATASETS)


def find_metric(name: str) -> Metric:
    """The metric of that name, title or alias.

    Raises:
        UserError: none, with the nearest.
    """
    return _find("metric", name, METRICS)


def find_paper(name: str) -> Paper:
    """The paper of that name.

    Raises:
        UserError: none, with the nearest.
    """
    return _find("paper", name, PAPERS)


def metrics_of(task: Task, dataset: Dataset) -> tuple[str, ...]:
    """Names of the metrics that results of this task on this data set may be in."""
    return dataset.metrics or task.metrics


def _find(kind: str, name: str, rows: Iterable[N]) -> N:
    rows = tuple(rows)
    for row in rows:
        if plain(name) in {plain(known) for known in (row.name, row.title, *row.aliases)}:
            return row
    names = {known: row.name for row in rows for known in (row.name, row.title, *row.aliases)}
    listed = f" Known: {', '.join(row.name for row in rows)}." if len(rows) <= 24 else f" The board knows {len(rows)}."
    raise UserError(f"{kind}: the board does not know {name!r}.{did_you_mean(name.lower(), names)}{listed}")
