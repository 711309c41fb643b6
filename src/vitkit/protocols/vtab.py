"""`vit evaluate MODEL vtab --protocol vtab`: fine-tune on each of VTAB-1k's tasks whose files are at hand.

DATA is ``vtab`` (every task), or ``vtab:kitti_distance,svhn``; ``=FOLDER`` behind either says where the data sets lie. Images
are squashed to 384 x 384 pixels without crop or mirror; SGD with momentum 0.9, batch 512, cosine, no weight decay, clipping at norm
1, a new head of zeros (table 4 of arXiv 2010.11929). Fixed: rate 0.01 and 2,500 steps. Swept: four rates and two lengths, chosen on
the 200 images (arXiv 2106.10270).

With ``--out`` the result of every task is kept as it is found, and a stopped evaluation goes on with the next one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from vitkit.bundle import Bundle
from vitkit.config import UserError, did_you_mean, read_json, write_json
from vitkit.console import Console, duration, percent
from vitkit.data.audit import digest
from vitkit.data.samples import Sample
from vitkit.datasets.vtab import GROUPS, TASKS, OpenTask, Task, find_task, open_task, task_folder
from vitkit.evals.features import data_fingerprint
from vitkit.evals.vtab import FIXED, SWEPT, Outcome, Settings, Trial, group_means, run_task, vtab_rows
from vitkit.pretraining.transfer import transfer_top1
from vitkit.protocols.opening import open_model
from vitkit.protocols.request import Request
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import Recipe, changed
from vitkit.report import Row, versions

__all__ = ["run"]

RECIPE = "paper_finetune_vtab"
WARMUPS = {500: 100, 2_500: 200}  # steps, of a sweep. Source: arXiv 2106.10270, table 4
CHANGEABLE = (
    "steps", "batch_size", "image_size", "precision", "activation_checkpointing", "smoothing", "model.dropout", "model.drop_path",
)  # fmt: skip
PIECE = 256  # images that are in memory together
OTHER_SETTINGS = "other settings than the protocol"


def run(request: Request, console: Console) -> list[Row]:
    """Rows of every task that could be run, of every group that is complete, and of all 19 where none is missing.

    Raises:
        UserError: no such task, no folder of any, data that is not as published, a stored result of another evaluation.
    """
    tasks, root = _asked(request)
    found = [(task, folder) for task in tasks if (folder := task_folder(task, root)) is not None]
    missing = [task.name for task in tasks if task not in [known for known, _ in found]]
    if not found:
        raise UserError(
            f"{root} has no folder of {'any VTAB task' if len(tasks) > 1 else tasks[0].name}; expected "
            f"{', '.join(dict.fromkeys(task.folder for task in tasks))}, each with the publisher's files or what tfds prepared."
        )
    if missing:
        console.warn(f"{len(missing)} of {len(tasks)} tasks have no folder in {root}: {', '.join(missing)}")
    bundle = open_model(request, console, runs=False)  # it is trained, and the loop computes
    recipe, settings = _recipe(request, bundle), _grid(request)
    about = _about(request, settings)
    rates, lengths = (sorted({choice[place] for choice in settings}) for place in (0, 1))
    console.say(
        f"protocol: {' or '.join(f'{steps:,}' for steps in lengths)} steps of {recipe.batch_size} images at "
        f"{recipe.preprocess.image_size[0]} x {recipe.preprocess.image_size[1]}, squashed, {recipe.optim.optimiser}, rate "
        f"{' or '.join(f'{lr:g}' for lr in rates)}{', chosen on 200 images' if len(settings) > 1 else ''}"
    )
    if not request.out:
        console.say("results are not kept: with --out FOLDER a stopped evaluation goes on where it was")
    done: dict[str, Outcome] = {}
    signs: dict[str, str] = {}
    labels: dict[str, str] = {}
    todo: list[tuple[Task, Path, dict[str, Any]]] = []
    for (
        task,
        folder,
    ) in found:  # all of them before the first is trained on: what is wrong with the last is told at once
        opened = open_task(task, folder, partial_set=request.partial)
        labels[task.name] = _label(request, opened)
        images = _sign(chain(opened.train, opened.val, opened.test))
        signed = {**about, "task": task.name, "images": images, "n": len(opened.test)}
        if (stored := _stored(_result(request, task), signed)) is not None:
            done[task.name], signs[task.name] = stored
            if signs[task.name] != _fingerprint(opened, request.workers):
                raise UserError(
                    f"{_result(request, task)} is a result of images whose contents have changed since. Choose another --out, or "
                    "move the file away."
                )
            console.say(f"{task.name}: {percent(done[task.name].accuracy)} top-1, from {_result(request, task)}")
        else:
            todo.append((task, folder, signed))
            for note in opened.notes:
                console.say(f"{task.name}: {note}")
        del opened  # some are large
    began = time.perf_counter()
    for number, (task, folder, signed) in enumerate(todo, 1):
        opened = open_task(task, folder, partial_set=request.partial)
        outcome = done[task.name] = _run(bundle, recipe, opened, settings, request, console)
        signs[task.name] = _fingerprint(opened, request.workers)
        if path := _result(request, task):
            write_json(path, _record(signed, outcome, signs[task.name]))
        seconds = time.perf_counter() - began
        left = f", about {duration(seconds / number * (len(todo) - number))} to go" if number < len(todo) else ""
        console.say(
            f"{task.name}: {percent(outcome.accuracy)} top-1 on {outcome.n:,} images, lr {outcome.settings.lr:g}, "
            f"{outcome.settings.steps:,} steps; {number} of {len(todo)} tasks, {duration(seconds)} so far{left}"
        )
    groups = {task.name: task.group for task in TASKS}
    _account(request, settings, done, signs)
    _say_means(done, groups, console)
    return vtab_rows(done, groups, request.model, labels)


def _result(request: Request, task: Task) -> Path | None:
    """Where a task's result is kept."""
    return Path(request.out) / "vtab" / f"{task.name}.json" if request.out else None


def _asked(request: Request) -> tuple[list[Task], Path]:
    text, _, folder = str(request.data).partition("=")
    word, _, names = text.partition(":")
    if word != "vtab":
        raise UserError(
            f"protocol vtab is of vtab or vtab:TASK, got {request.data!r}. Known: {', '.join(t.name for t in TASKS)}."
        )
    root = folder or request.data_root or os.environ.get("VITKIT_DATA")
    if not root:
        raise UserError(
            "where are VTAB's data sets? Write vtab=FOLDER, or give --data-root DIR (or the environment variable VITKIT_DATA), "
            "with a folder for each data set in it."
        )
    if not Path(root).is_dir():
        raise UserError(f"no folder {root}; expected one with a folder for each of VTAB's data sets.")
    wanted = [find_task(name) for name in dict.fromkeys(names.split(","))] if names else list(TASKS)
    return wanted, Path(root)


def _recipe(request: Request, bundle: Bundle) -> Recipe:
    """The paper's, with the model's own means and deviations of pixels, and the changes that were asked for."""
    record = bundle.preprocess_record
    own: dict[str, Any] = {"seed": request.seed}
    if record is not None:
        own |= {"preprocess.mean": record.mean, "preprocess.std": record.std}
    if bundle.config.in_channels != 3:
        raise UserError(f"VTAB's images are RGB; the model takes {bundle.config.in_channels} channels.")
    for key in request.settings:
        if key not in CHANGEABLE and not key.startswith("optim."):
            raise UserError(
                f"protocol vtab has no setting {key!r}.{did_you_mean(key, CHANGEABLE)} Known: {', '.join(CHANGEABLE)} and those of "
                "optim, such as optim.lr."
            )
    return changed(find_recipe(RECIPE), {**own, **request.settings})


def _grid(request: Request) -> tuple[Settings, ...]:
    """The settings to choose from; a rate or a number of steps that was asked for takes the place of the protocol's."""
    grid = SWEPT if request.sweep else FIXED
    lr, steps = request.settings.get("optim.lr"), request.settings.get("steps")
    chosen = (Settings(choice.lr if lr is None else lr, choice.steps if steps is None else steps) for choice in grid)
    return tuple(dict.fromkeys(chosen))


def _run(
    bundle: Bundle, recipe: Recipe, opened: OpenTask, settings: Sequence[Settings], request: Request, console: Console
) -> Outcome:
    task = opened.task

    def transfer(train: Sequence[Sample], test: Sequence[Sample], choice: Settings) -> float:
        changes: dict[str, Any] = {"steps": choice.steps, "optim.lr": choice.lr}
        if request.sweep and "optim.warmup_steps" not in request.settings and choice.steps in WARMUPS:
            changes["optim.warmup_steps"] = WARMUPS[choice.steps]
        label = f"{task.name} lr {choice.lr:g} x {choice.steps}"
        accuracy = transfer_top1(
            bundle.model, changed(recipe, changes), train, test, opened.classes, console, label=label,
            workers=request.workers, max_pixels=request.max_pixels,
        )  # fmt: skip
        if test is opened.val:
            console.say(f"{label}: {percent(accuracy)} on the {len(test)} images to choose with")
        return accuracy

    return run_task(opened.train, opened.val, opened.test, transfer, settings)


def _label(request: Request, opened: OpenTask) -> str:
    """Why the number is not the published protocol's; empty where it is."""
    words = []
    if request.settings:
        words.append(f"{OTHER_SETTINGS}: " + ", ".join(f"{key}={value}" for key, value in request.settings.items()))
    if opened.caveat:
        words.append(f"not exactly the published task: {opened.caveat}")
    if request.partial:
        words.append("a part of the data set may be missing (--partial)")
    return "; ".join(words)


def _about(request: Request, settings: Sequence[Settings]) -> dict[str, Any]:
    """What a stored result must be of to be used again."""
    return {
        "model": request.account.model["fingerprint"],
        "grid": [list(choice) for choice in settings],
        "settings": {key: request.settings[key] for key in sorted(request.settings)},
        "sweep": request.sweep,
        "seed": request.seed,
    }


def _account(
    request: Request, settings: Sequence[Settings], done: Mapping[str, Outcome], signs: Mapping[str, str]
) -> None:
    """Note the tasks' images, in the order of the tasks, and what is not of the published protocol."""
    names = [task.name for task in TASKS if task.name in done]
    request.account.data.update(
        name="vtab",
        split="test",
        images=sum(done[name].n for name in names),
        fingerprint=data_fingerprint([signs[name] for name in names]),
        sets=[{"name": f"vtab/{name}", "images": done[name].n, "fingerprint": signs[name]} for name in names],
    )
    request.account.settings.update(
        grid=[_shown(choice) for choice in settings],
        chosen={name: _shown(done[name].settings) for name in names},
        sweep=request.sweep,
        seed=request.seed,
        changes={key: request.settings[key] for key in sorted(request.settings)},
    )


def _shown(choice: Settings) -> str:
    return f"lr {choice.lr:g} x {choice.steps}"


def _fingerprint(opened: OpenTask, workers: int) -> str:
    """Over the contents of all images of a task."""
    signs: list[str] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for part in (opened.train, opened.val, opened.test):
            for start in range(0, len(part), PIECE):
                signs += pool.map(digest, part[start : start + PIECE])
    return data_fingerprint(signs)


def _sign(samples: Iterable[Sample]) -> str:
    lines = "\n".join(f"{sample.name}\t{sample.label}" for sample in samples)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _record(about: dict[str, Any], outcome: Outcome, sign: str) -> dict[str, Any]:
    return {
        **about,
        "fingerprint": sign,
        "accuracy": outcome.accuracy,
        "chosen": list(outcome.settings),
        "trials": [[*trial.settings, trial.accuracy] for trial in outcome.trials],
        "versions": versions(),
    }


def _stored(path: Path | None, about: dict[str, Any]) -> tuple[Outcome, str] | None:
    """A finished task's result, of the same model, images and settings, and the fingerprint of its images."""
    if path is None or not path.exists():
        return None
    stored = read_json(path)
    try:
        differs = [key for key, value in about.items() if stored[key] != _as_json(value)]
        chosen, trials, sign = stored["chosen"], stored["trials"], str(stored["fingerprint"])
        outcome = Outcome(
            Settings(*chosen),
            float(stored["accuracy"]),
            int(stored["n"]),
            tuple(Trial(Settings(lr, steps), accuracy) for lr, steps, accuracy in trials),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a result of this protocol ({error!r}). Move it away, or choose another --out."
        ) from None
    if differs:
        raise UserError(
            f"{path} is a result with another {', another '.join(differs)}. Choose another --out, or move the file away."
        )
    return outcome, sign


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _say_means(done: dict[str, Outcome], groups: dict[str, str], console: Console) -> None:
    means = group_means({name: outcome.accuracy for name, outcome in done.items()}, groups)
    for group in GROUPS:
        members = [name for name in groups if groups[name] == group]
        if group in means:
            console.say(f"{group}: {percent(means[group])}, mean of {len(members)} tasks")
        elif absent := [name for name in members if name not in done]:
            console.say(f"{group}: no mean, {len(absent)} of {len(members)} tasks are missing: {', '.join(absent)}")
    if "" in means:
        console.say(f"VTAB-1k: {percent(means[''])}, mean of {len(groups)} tasks")
    else:
        console.say(f"VTAB-1k: no score, {len(groups) - len(done)} of {len(groups)} tasks are missing")
