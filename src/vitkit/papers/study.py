"""The paper's comparisons scaled down: small training runs, one after another, in a queue that goes on where it stopped.

``setting.json`` of the queue's folder says what all runs share, ``runs.jsonl`` has a line for each finished run. A finished
run is never run again, whichever table or figure asks for it; one that was stopped starts over. Everything is of the test
images, on which nothing is chosen during a run: the last weights are scored.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitkit.checkpoint import TrainState
from vitkit.config import UserError, from_dict, read_json, write_file, write_json
from vitkit.console import Console, LiveLine, duration, percent
from vitkit.data.loader import Batch, to_tensor
from vitkit.data.pixels import ImageError, Preprocess, fit_image, normalise, open_image
from vitkit.data.samples import Sample
from vitkit.datasets.book import data_name
from vitkit.diagnose import NotFiniteError
from vitkit.engines.eager import EagerEngine
from vitkit.models.vit import VisionTransformer
from vitkit.planning import free_memory
from vitkit.pretraining.data import RecipeData, batches_of, fingerprint, read_recipe_data
from vitkit.pretraining.model import first_model, with_objective
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import Recipe, batch_of, changed, fitted_optim
from vitkit.report import code_fingerprint, versions
from vitkit.train import StepReport, TrainConfig, best_precision, measure, start, train

__all__ = ["BASE_RATE", "LIMIT", "SETTINGS", "Cell", "Run", "Setting", "Study", "queued", "run_queue"]

RECIPE = "cifar10_small"
BASE_RATE = 2e-3  # the recipe's
LIMIT = 360.0  # seconds that a run may take
EVALUATIONS = 6  # points of a curve
WATCHED = 1_000  # test images scored for a point of a curve but its last, for which all are
GROUP = 100  # images scored together
RUNS, SETTING, LOCK = "runs.jsonl", "setting.json", "queue.lock"
# What `--set` may change of a study.
SETTINGS: dict[str, Any] = {
    "steps": 0,  # of each run; 0: as many as fit into `seconds`, measured before the first run
    "seconds": 150.0,  # of the slowest run
    "seeds": 3,
    "threads": 1,
    "batch_size": 64,
    "width": 72,
    "depth": 4,
}


@dataclass(frozen=True)
class Cell:
    """What one row of a comparison is trained with."""

    pool: str = "cls"  # mean: without a cls token
    position: str = "learned"
    at: str = "stem"
    rate: float = BASE_RATE

    @property
    def changes(self) -> dict[str, Any]:
        """Of the recipe."""
        return {
            "model.pool": self.pool, "model.cls_token": self.pool == "cls", "model.position": self.position,
            "model.position_at": self.at, "optim.lr": self.rate,
        }  # fmt: skip

    def __str__(self) -> str:
        at = "" if self.at == "stem" else f" at {self.at}"
        return f"{self.pool}, positions {self.position}{at}, lr {self.rate:g}"


@dataclass(frozen=True)
class Setting:
    """What all runs of a queue share."""

    data: str  # its name, images and a sign of them
    steps: int
    changes: Mapping[str, Any]  # of the recipe
    threads: int
    precision: str
    fused_attention: bool
    recipe: str = RECIPE
    limit_seconds: float = LIMIT
    made_with: Mapping[str, str] = field(default_factory=dict)  # versions; says nothing about what is alike

    def recipe_of(self, cell: Cell, seed: int) -> Recipe:
        """One run's recipe."""
        steps = {"steps": self.steps, "seed": seed, "evaluations": EVALUATIONS}
        return changed(find_recipe(self.recipe), {**self.changes, **cell.changes, **steps})


@dataclass(frozen=True)
class Run:
    """A finished run."""

    cell: Cell
    seed: int
    top1: float  # of all test images, of the last weights, computed as in training
    images: int  # of them
    curve: tuple[tuple[int, float], ...]  # (step, top-1): of `WATCHED` test images at most, the last point of all
    loss: float  # mean over the last tenth of the steps
    seconds: float
    parameters: int
    code: str  # sign of vitkit's source

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the cell's fields beside the others."""
        values = dataclasses.asdict(self)
        return {**values.pop("cell"), **values}

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Run:
        """From its JSON form.

        Raises:
            UserError: it is not one.
        """
        names = [f.name for f in dataclasses.fields(Cell)]
        rest = {name: value for name, value in values.items() if name not in names}
        cell = from_dict(Cell, {name: values[name] for name in names if name in values}, where)
        run = from_dict(cls, {"cell": cell, **rest}, where)
        return dataclasses.replace(run, curve=tuple((step, top1) for step, top1 in run.curve))


class Study(NamedTuple):
    """A queue that has ended."""

    setting: Setting
    runs: Mapping[tuple[Cell, int], Run]
    train_images: int
    name: str  # of the data

    def values(self, cell: Cell) -> dict[int, float]:
        """Top-1 by seed."""
        return {seed: run.top1 for (other, seed), run in self.runs.items() if other == cell}

    def curve(self, cell: Cell) -> list[tuple[int, float]]:
        """(step, mean top-1 over seeds)."""
        curves = [run.curve for (other, _), run in self.runs.items() if other == cell]
        return [(points[0][0], statistics.fmean(top1 for _, top1 in points)) for points in zip(*curves, strict=True)]

    def facts(self) -> dict[str, Any]:
        """The setting as JSON values, with what was measured of the runs."""
        runs = self.runs.values()
        return {
            **dataclasses.asdict(self.setting),
            "train_images": self.train_images,
            "test_images": next(iter(runs)).images,
            "seeds": len({run.seed for run in runs}),
            "longest_run_seconds": max(run.seconds for run in runs),
            "code": sorted({run.code for run in runs}),
        }

    def sentence(self) -> str:
        """The setting for people."""
        model = self.setting.recipe_of(Cell(), 0).model
        batch = min(self.setting.changes["batch_size"], self.train_images)
        (H, W), facts = model.image_size, self.facts()
        return (
            f"scaled down: width {model.embed_dim}, depth {model.depth}, patches of {model.patch_size[0]} on {H} x {W} images of "
            f"{self.name}, {self.setting.steps} steps of {batch} images "
            f"({self.setting.steps * batch / self.train_images:.1f} epochs) from random weights, {facts['seeds']} seeds; top-1 of "
            f"{facts['test_images']:,} test images; the longest run took {duration(facts['longest_run_seconds'])} with "
            f"{self.setting.threads} thread{'s' * (self.setting.threads > 1)}"
        )


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
        scored = _Images.read(found.scored, find_recipe(RECIPE).preprocess)
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
                run = _run(setting, cell, seed, found, scored, label, console)
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


class _Images(NamedTuple):
    """Test images at the model's size, read once for all runs."""

    pixels: np.ndarray  # (n, H, W, 3) uint8
    labels: np.ndarray  # (n,)

    @classmethod
    def read(cls, samples: Sequence[Sample], record: Preprocess) -> _Images:
        pixels = np.empty((len(samples), *record.image_size, 3), np.uint8)
        for place, sample in enumerate(samples):
            try:
                pixels[place] = fit_image(open_image(sample.source), record)
            except ImageError as error:
                raise UserError(f"{sample.name} cannot be read: {error}. Every test image counts.") from None
        return cls(pixels, np.array([sample.label for sample in samples]))

    def watched(self) -> _Images:
        """Some of them, evenly spread."""
        every = -(-len(self.labels) // WATCHED)
        return _Images(self.pixels[::every], self.labels[::every])

    def top1(self, engine: EagerEngine, record: Preprocess) -> float:
        hits = 0
        for first in range(0, len(self.labels), engine.group):
            part = slice(first, first + engine.group)
            logits = engine.forward(to_tensor(normalise(self.pixels[part], record))).logits
            if not torch.isfinite(logits).all():
                raise UserError("the model's outputs are not finite numbers: its training diverged.")
            hits += int((logits.argmax(dim=1).numpy() == self.labels[part]).sum())
        return hits / len(self.labels)


def _setting(
    folder: Path,
    data: str,
    found: RecipeData,
    cells: Sequence[Cell],
    settings: Mapping[str, Any],
    scored: _Images,
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
        named, int(settings["steps"]), changes, int(settings["threads"]), precision, fused, made_with=versions()
    )
    path = folder / SETTING
    if path.exists():
        stored = from_dict(Setting, read_json(path), str(path))
        alike = dataclasses.replace(
            asked, precision=stored.precision, fused_attention=stored.fused_attention, made_with=stored.made_with,
            steps=asked.steps or stored.steps,
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
    if not asked.steps:
        asked = dataclasses.replace(
            asked, steps=_fitting(asked, float(settings["seconds"]), cells, found, scored, console)
        )
    write_json(path, dataclasses.asdict(asked))
    return asked


def _fitting(
    asked: Setting, seconds: float, cells: Sequence[Cell], data: RecipeData, scored: _Images, console: Console
) -> int:
    """Steps with which the slowest of the cells takes so many seconds."""
    trial = dataclasses.replace(asked, steps=1_000)
    slowest, scoring = 0.0, 0.0
    for cell in {(cell.pool, cell.position, cell.at): cell for cell in cells}.values():
        recipe = trial.recipe_of(cell, 0)
        model = first_model(recipe, len(data.source.classes), console)
        module, objective = with_objective(recipe, model)
        config = _config(trial, recipe, len(data.train))
        batches = batches_of(recipe, data, config.batch_size, range(2), 0)
        batch = next(batches)
        began = time.perf_counter()
        next(batches)
        loading = time.perf_counter() - began
        slowest = max(slowest, loading + measure(module, config, objective, batch, free_memory()).seconds)
        engine = EagerEngine(model, precision=config.precision, fused_attention=config.fused_attention, group=GROUP)
        few = _Images(scored.pixels[:GROUP], scored.labels[:GROUP])
        few.top1(engine, recipe.preprocess)
        began = time.perf_counter()
        few.top1(engine, recipe.preprocess)
        images = len(scored.labels) + (EVALUATIONS - 1) * len(scored.watched().labels)
        scoring = max(scoring, (time.perf_counter() - began) * images / len(few.labels))
    steps = int((seconds - scoring) / slowest)
    console.say(
        f"timing    {slowest:.2f} s a step at most, {scoring:.0f} s of scoring: {steps} steps in {duration(seconds)}"
    )
    if steps < 1:
        raise UserError(
            f"no step fits into {duration(seconds)}; allow more seconds, or take a smaller width or batch_size."
        )
    return steps


def _config(setting: Setting, recipe: Recipe, images: int) -> TrainConfig:
    batch_size = batch_of(recipe, images)
    return TrainConfig(
        steps=setting.steps,
        batch_size=batch_size,
        microbatch_size=batch_size,
        seed=recipe.seed,
        eval_every=max(1, -(-setting.steps // recipe.evaluations)),
        patience=0,
        precision=setting.precision,
        fused_attention=setting.fused_attention,
        optim=fitted_optim(recipe.optim, setting.steps)[0],
        checkpoint_every=math.inf,
    )


def _run(
    setting: Setting, cell: Cell, seed: int, data: RecipeData, scored: _Images, label: str, console: Console
) -> Run:
    """Train from random weights and score."""
    began = time.perf_counter()
    recipe = setting.recipe_of(cell, seed)
    model = first_model(recipe, len(data.source.classes), console)
    scoring = VisionTransformer(model.config)  # beside the one that trains, whose mode and weights are left alone
    config, record, watched = _config(setting, recipe, len(data.train)), recipe.preprocess, scored.watched()
    engine = EagerEngine(scoring, precision=config.precision, fused_attention=config.fused_attention, group=GROUP)

    def score(weights: Mapping[str, Tensor], images: _Images = watched) -> float:
        engine.model.load_state_dict(weights)
        return images.top1(engine, record)

    module, objective = with_objective(recipe, model)
    state = start(module, config)
    with console.live(config.steps, label) as line:
        hooks = _Hooks(line, console, config.steps, score, began, setting.limit_seconds)
        train(state, config, objective, batches_of(recipe, data, config.batch_size, range(config.steps), 0), hooks)
    top1 = score(state.best_weights, scored)
    tail = hooks.losses[-max(1, config.steps // 10) :]
    hooks.check_time(config.steps)
    return Run(
        cell,
        seed,
        top1,
        len(scored.labels),
        (*hooks.curve, (config.steps, top1)),
        statistics.fmean(tail),
        round(time.perf_counter() - began, 1),
        sum(parameter.numel() for parameter in model.parameters()),
        code_fingerprint(),
    )


class _Hooks:
    """What the loop tells: losses, points of the curve, and the time, which is limited."""

    def __init__(
        self,
        line: LiveLine,
        console: Console,
        steps: int,
        score: Callable[[Mapping[str, Tensor]], float],
        began: float,
        limit: float,
    ) -> None:
        self.line, self.console, self.steps, self.score = line, console, steps, score
        self.began, self.limit = began, limit
        self.losses: list[float] = []
        self.curve: list[tuple[int, float]] = []

    def check_time(self, step: int) -> None:
        """Raises UserError where the run has taken longer than it may."""
        if time.perf_counter() - self.began > self.limit:
            raise UserError(
                f"more than {duration(self.limit)} had gone by at step {step} of {self.steps}. Leave the machine to it, or begin "
                "anew in another folder with fewer steps."
            )

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.loss)
        self.line.update(report.step, f"loss {report.loss:.3f}  {report.seconds:.2f} s a step")
        self.check_time(report.step)

    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        if step < self.steps:
            self.curve.append((step, self.score(weights)))
        return float(step), float(step)  # nothing is chosen: the last weights are kept

    def on_checkpoint(self, state: TrainState) -> None:
        del state

    def on_note(self, text: str) -> None:
        self.console.warn(text)

    def on_not_finite(self, fault: NotFiniteError, batch: Batch) -> str:
        del fault, batch
        return "A lower rate would train."

    def stop_requested(self) -> bool:
        return False


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
