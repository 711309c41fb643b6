"""The queue of a study's runs, one after another, which goes on where it stopped.

``setting.json`` of the queue's folder says what all runs share, ``runs.jsonl`` has a line for each finished run. A finished
run is never run again, whichever table or figure asks for it; one that was stopped starts over.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vitkit.config import UserError, from_dict, read_json, write_file, write_json
from vitkit.console import Console, duration, percent
from vitkit.datasets.book import data_name
from vitkit.papers.study import LIMIT, RECIPE, Cell, Run, Setting, Study
from vitkit.papers.training import ScoredImages, fitting_steps, train_one
from vitkit.pretraining.data import RecipeData, fingerprint, read_recipe_data
from vitkit.recipes.book import find_recipe
from vitkit.report import versions
from vitkit.train import best_blocks, best_precision

__all__ = ["queued", "run_queue"]

RUNS, SETTING, LOCK = "runs.jsonl", "setting.json", "queue.lock"


def queued(cells: Iterable[Cell], seeds: int) -> list[tuple[Cell, int]]:
    """Each cell once, seed by seed: what a queue stopped early has made is a whole comparison of fewer seeds."""
    return [(cell, seed) for seed in range(seeds) for cell in dict.fromkeys(cells)]


def run_queue(folder: Path, data: str, cells: Sequence[Cell], settings: Mapping[str, Any], console: Console) -> Study:
    """Make the runs that the folder has not, and give those of ``cells``.

    Args:
        folder: of the queue; several studies may share it.
        data: what `read_recipe_data` reads, with test images.
        cells: what is compared.
        settings: as `SETTINGS`.
        console: told what is done and how long it will take.

    Raises:
        UserError: the folder is of another setting or in use, the data has no test images, or runs failed: the others were
            made, and the same call tries again.
    """
    found = read_recipe_data(data, console)
    if not found.scored:
        raise UserError(f"{data} has no test or val images to score the runs on.")
    wanted = queued(cells, _count(settings, "seeds"))
    with _held(folder), _threads(_count(settings, "threads")):
        scored = ScoredImages.read(found.scored, find_recipe(RECIPE).preprocess)
        setting = _setting(folder, data, found, cells, settings, scored, console)
        done = _read_runs(folder)
        left = [key for key in wanted if key not in done]
        console.say(
            f"queue     {len(wanted)} runs of {setting.steps} steps, {len(wanted) - len(left)} of them made before"
        )
        failed = []
        for number, (cell, seed) in enumerate(left):
            label = f"run {len(wanted) - len(left) + number + 1} of {len(wanted)}"
            try:
                run = train_one(setting, cell, seed, found, scored, label, console)
            except UserError as error:
                failed.append(f"{cell}, seed {seed}: {error}")
                console.warn(failed[-1])
                continue
            done[cell, seed] = run
            _append(folder, run)
            ahead = len(left) - number - 1
            rest = f"; {ahead} left, about {duration(ahead * _pace(done))}" if ahead else ""
            console.say(f"{label}: {cell}, seed {seed}: top-1 {percent(run.top1)} in {duration(run.seconds)}{rest}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(wanted)} runs failed; the same call tries them again. First: {failed[0]}"
        )
    return Study(setting, {key: done[key] for key in wanted}, len(found.train), data_name(data))


def _pace(done: Mapping[tuple[Cell, int], Run]) -> float:
    return statistics.fmean(run.seconds for run in done.values())


def _count(settings: Mapping[str, Any], name: str) -> int:
    if (value := settings[name]) < 1:
        raise UserError(f"{name} must be at least 1, got {value}.")
    return int(value)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder for this process alone."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process is at work on the queue in {folder}. Wait for it, or name another folder."
        ) from None
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}. Name another folder.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads: sums depend on it in the last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _setting(
    folder: Path,
    data: str,
    found: RecipeData,
    cells: Sequence[Cell],
    settings: Mapping[str, Any],
    scored: ScoredImages,
    console: Console,
) -> Setting:
    """The folder's, which must be what is asked for; or a new one, stored, its steps measured where none are said."""
    width = _count(settings, "width")
    changes = {
        "batch_size": _count(settings, "batch_size"), "model.embed_dim": width, "model.mlp_dim": 4 * width,
        "model.depth": _count(settings, "depth"),
    }  # fmt: skip
    precision, fused = best_precision()
    named = f"{data_name(data)}: {fingerprint(found)}, {len(found.scored)} scored"
    asked = Setting(
        named, int(settings["steps"]), changes, int(settings["threads"]), precision, fused, scored.sign(),
        made_with=versions(), compiled_blocks=best_blocks(precision),
    )  # fmt: skip
    path = folder / SETTING
    if path.exists():
        stored = from_dict(Setting, read_json(path), str(path))
        alike = dataclasses.replace(
            asked, precision=stored.precision, fused_attention=stored.fused_attention, made_with=stored.made_with,
            compiled_blocks=stored.compiled_blocks, steps=asked.steps or stored.steps,
            scored=asked.scored if stored.scored else "",
        )  # fmt: skip
        if alike != stored:
            other = [
                f"{f.name} {getattr(stored, f.name)} there, {getattr(alike, f.name)} asked for"
                for f in dataclasses.fields(Setting)
                if getattr(stored, f.name) != getattr(alike, f.name)
            ]
            raise UserError(
                f"{folder} holds runs of another setting: {'; '.join(other)}. Say the same, or name another folder."
            )
        return stored
    if asked.steps < 0:
        raise UserError(f"steps must be at least 1, or 0 to measure how many fit, got {asked.steps}.")
    if not 0 < settings["seconds"] <= LIMIT:
        raise UserError(
            f"seconds must be above 0 and at most {LIMIT:g}, which no run may exceed, got {settings['seconds']}."
        )
    for cell in cells:  # what no model can be made of is said before the folder is of this setting
        dataclasses.replace(asked, steps=asked.steps or 1).recipe_of(cell, 0)
    if not asked.steps:
        asked = dataclasses.replace(
            asked, steps=fitting_steps(asked, float(settings["seconds"]), cells, found, scored, console)
        )
    write_json(path, dataclasses.asdict(asked))
    return asked


def _read_runs(folder: Path) -> dict[tuple[Cell, int], Run]:
    """The finished runs, in their order.

    Raises:
        UserError: a line that is none.
    """
    path = folder / RUNS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except ValueError:
            raise UserError(f"{where} is not JSON. Remove the line; its run will be made again.") from None
        run = Run.of(values, where)
        found[run.cell, run.seed] = run
    return found


def _append(folder: Path, run: Run) -> None:
    """One more line, whole or not at all."""
    path = folder / RUNS
    before = path.read_bytes() if path.exists() else b""
    write_file(path, before + json.dumps(run.to_dict()).encode() + b"\n")
