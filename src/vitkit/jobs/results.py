"""`vit results`: published values and ours beside them; add a run's result; write the board as a site. Imports no torch."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from vitkit.board.catalogue import DATASETS, PAPERS, TASKS, find_dataset, find_task, plain
from vitkit.board.entries import (
    COMMUNITY,
    FORMAT,
    OURS,
    PUBLISHED,
    VERSION,
    Entry,
    all_entries,
    beside,
    board_folder,
    ours,
)
from vitkit.board.submission import read_submission
from vitkit.board.tables import difference, fitted, leaderboard_lines, overview_lines
from vitkit.board.validate import validate
from vitkit.config import UserError, did_you_mean, write_json
from vitkit.console import Console

__all__ = ["SORTS", "SOURCES", "add_result", "describe_entry", "results", "write_results_site"]

SOURCES = {"paper": PUBLISHED, "community": COMMUNITY, "ours": OURS}
SORTS = ("metric", "date")
_DATASETS = {row.name: row for row in DATASETS}
_TASKS = {row.name: row for row in TASKS}
_PAPERS = {row.name: row for row in PAPERS}


def results(
    *words: str,
    dataset: str | None = None,
    task: str | None = None,
    model: str | None = None,
    source: str | None = None,
    sort: str = "metric",
    console: Console | None = None,
) -> list[Entry]:
    """Entries of the board: published ones with their source, the community's listing, and ours.

    Args:
        words: names of data sets or tasks, or text of a model, paper or table; an entry must answer to each.
        dataset: only of this data set.
        task: only of this task.
        model: only of models whose name holds this.
        source: paper, community or ours.
        sort: metric, best first, or date, newest first.
        console: prints tables; without words and options an overview.

    Raises:
        UserError: an unknown data set, task, source or order, or nothing found.
    """
    for field, value, known in (("source", source, tuple(SOURCES)), ("sort", sort, SORTS)):
        if value is not None and value not in known:
            raise UserError(f"{field}: {value!r}; expected {', '.join(known)}.{did_you_mean(value, known)}")
    everything = all_entries()
    found = [entry for entry in everything if all(_answers(entry, word) for word in words)]
    if dataset:
        found = [entry for entry in found if entry.dataset == find_dataset(dataset).name]
    if task:
        found = [entry for entry in found if entry.task == find_task(task).name]
    if model:
        found = [entry for entry in found if plain(model) in plain(entry.model)]
    if source:
        found = [entry for entry in found if entry.kind == SOURCES[source]]
    chosen = bool(words or dataset or task or model or source)
    if not found:
        raise UserError(_nothing(words, dataset, task, model, source))
    if console is not None:
        for line in (
            leaderboard_lines(found, everything, sort, console.width)
            if chosen
            else overview_lines(found, console.width)
        ):
            console.say(line)
        console.say()
        for line in fitted(_summary(found, chosen), console.width):
            console.say(line)
    if sort == "date":
        found = sorted(found, key=lambda entry: entry.date, reverse=True)
    return found


def describe_entry(entry: Entry, everything: Sequence[Entry] | None = None) -> dict[str, object]:
    """An entry as JSON values, with titles; one of ours with the published value that it stands beside."""
    facts = entry.to_dict()
    facts["task_title"] = _TASKS[entry.task].title
    facts["dataset_title"] = _DATASETS[entry.dataset].title
    if entry.kind == OURS:
        other = beside(entry, all_entries() if everything is None else everything)
        facts["beside"] = other and {
            "value": other.value, "model": other.model, "paper": other.paper, "table": other.table, "source": other.source,
            "difference": None if entry.part else difference(entry, other),
        }  # fmt: skip
    return facts


def add_result(
    run: str | Path,
    *,
    dataset: str = "",
    task: str = "",
    model_name: str = "",
    part: bool = False,
    console: Console | None = None,
) -> list[Entry]:
    """Put the results of a run on the board, after checking them; nothing is written if anything is wrong.

    They are kept as one JSON file in $VITKIT_BOARD, else in ./results-board.

    Args:
        run: a run folder of finetune or pretrain, or what `vit evaluate --out` wrote.
        dataset: the board's name of the data that was scored, where the run has another.
        task: the board's name of the task, where the rows have another.
        model_name: the model's name on the board.
        part: mark it as scored on a part of the published images.

    Raises:
        UserError: as `read_submission` and `validate`.
    """
    console = console or Console()
    submission = read_submission(Path(run))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    checked = validate(submission, ours(), date=today, dataset=dataset, task=task, model=model_name, part=part)
    entries = [entry.to_dict() for entry in checked.entries]
    sign = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:10]
    first = checked.entries[0]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{first.dataset} {first.model}".lower()).strip("-")[:60]
    path = board_folder() / f"{today}-{slug}-{sign}.json"
    write_json(path, {"kind": FORMAT, "version": VERSION, "from": submission.where, "entries": entries})
    for reason in checked.left_out:
        console.say(f"left out  {reason}")
    everything = all_entries()
    for line in leaderboard_lines(checked.entries, everything, "metric", console.width):
        console.say(line)
    console.say(f"added     {len(entries)} results of {first.model}: {path}")
    return checked.entries


def write_results_site(out: str | Path, *, console: Console | None = None) -> Path:
    """Write the board as a static site into the folder ``out`` and return its first page.

    Raises:
        UserError: the files cannot be written.
    """
    from vitkit.board.site import write_site

    return write_site(Path(out), all_entries(), console=console or Console())


def _answers(entry: Entry, word: str) -> bool:
    """Does an entry answer to a word: as the name of its data set or task, or in its model, paper or table?"""
    text = plain(word)
    for rows, own in ((DATASETS, entry.dataset), (TASKS, entry.task)):
        named = [row.name for row in rows if text in {plain(name) for name in (row.name, row.title, *row.aliases)}]
        if named:
            return own in named
    dataset, paper = _DATASETS[entry.dataset], _PAPERS.get(entry.paper)
    said = (
        dataset.name, dataset.title, _TASKS[entry.task].title, entry.metric, entry.metric_title, entry.model, entry.table,
        *((paper.name, paper.short, paper.title) if paper else ()),
    )  # fmt: skip
    return any(text in plain(part) for part in said)


def _nothing(words: Sequence[str], dataset: str | None, task: str | None, model: str | None, source: str | None) -> str:
    if source == "ours" and not (words or dataset or task or model):
        return f"there is no result of ours in {board_folder()}; put one there with vit results add RUN."
    if list(words) in (["ours"], ["paper"], ["community"]):
        return f"no result on the board answers to {words[0]}. Did you mean --source {words[0]}?"
    asked = {"": " ".join(words), "--dataset": dataset, "--task": task, "--model": model, "--source": source}
    shown = " ".join(f"{option} {value}".strip() for option, value in asked.items() if value)
    known = [row.name for row in DATASETS]
    guess = did_you_mean(words[0], known) if words and words[0] not in known else ""
    return f"no result on the board answers to {shown}.{guess} vit results without a word gives an overview."


def _summary(entries: Sequence[Entry], chosen: bool) -> str:
    counts = {kind: sum(entry.kind == kind for entry in entries) for kind in (PUBLISHED, COMMUNITY, OURS)}
    line = (
        f"{counts[PUBLISHED]} published values, {counts[COMMUNITY]} of the community's listing, {counts[OURS]} of ours"
    )
    ours_in = f" (from {board_folder()})" if counts[OURS] else ""
    more = "" if chosen else "; vit results cifar10 shows a table, vit results add RUN adds to it"
    return f"{line}{ours_in}{more}."
