"""`--folds K`: an honest estimate where there is no test split. Every image is scored once, by a model that never saw it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console, percent
from vitkit.data.targets import class_counts
from vitkit.evals.multilabel import MultiScores
from vitkit.evals.scoring import Scored, score_samples
from vitkit.evals.tasks import Task
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.data import TaskData, fold_numbers

__all__ = ["check_folds", "cross_validate"]


def check_folds(arguments: Arguments, data: TaskData) -> None:
    """Refuse a cross-validation that cannot be made, before anything is trained.

    Raises:
        UserError: there is a test split already, or more folds than images of the rarest class.
    """
    if not arguments.folds or arguments.fold is not None:
        return
    if data.splits.test:
        raise UserError(
            "--folds estimates accuracy where there is no test split, but this data has one, which gives an honest figure by "
            "itself. Leave --folds out."
        )
    least = min(class_counts(data.training_scan.usable, len(data.source.classes)))
    if arguments.folds > least:
        raise UserError(
            f"--folds {arguments.folds} is more than the rarest class has images ({least}): some folds could not test it. "
            f"Ask for at most {max(2, least)} folds, or add images."
        )


def cross_validate(
    run: Path, arguments: Arguments, data: TaskData, fit: Callable[[Path, Arguments], None], console: Console
) -> Scored:
    """Train one model per fold on the other folds, and score each fold with its own.

    Args:
        run: its ``folds/`` gets one run folder per fold; finished ones are kept, stopped ones go on.
        arguments: of the whole run; each fold's run repeats them with its own test part.
        data: all usable images.
        fit: makes the run of one fold.
    """
    share = arguments.budget / (arguments.folds + 1) if arguments.budget else None
    pool = data.training_scan.usable
    fold_of = fold_numbers(pool, arguments.folds, arguments.seed)
    parts = []
    for fold in range(arguments.folds):
        folder = run / "folds" / f"fold-{fold + 1}"
        if not (folder / "report.json").exists():
            console.say(f"fold      {fold + 1} of {arguments.folds}: {folder}")
            fit(folder, dataclasses.replace(arguments, fold=fold, budget=share, earlier=None))
        held = [sample for sample, f in zip(pool, fold_of, strict=True) if f == fold]
        parts.append(
            score_samples(
                Bundle.read(folder / "model"),
                held,
                console,
                f"scoring fold {fold + 1}",
                max_pixels=arguments.max_pixels,
            )
        )
    pooled, metric = _pool(parts, data.task), data.task.headline
    low, high = pooled.scores.intervals[metric]
    each = ", ".join(percent(part.scores.values[metric]) for part in parts)
    console.say(
        f"folds     cross-validated {data.task.shown} {percent(pooled.scores.values[metric])} [{percent(low)}, {percent(high)}] "
        f"on {pooled.scores.n} images, each scored by a model that never saw it (folds: {each})"
    )
    return pooled


def _pool(parts: list[Scored], task: Task) -> Scored:
    """The folds' results as one. In multi-label data each fold keeps the thresholds of its own model."""
    samples = [sample for part in parts for sample in part.samples]
    logits, features, probabilities, targets = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("logits", "features", "probabilities", "targets")
    )
    flags = [part.unknown for part in parts if part.unknown is not None]
    unknown = np.concatenate(flags) if len(flags) == len(parts) else None
    own = [np.tile(p.scores.thresholds, (p.scores.n, 1)) for p in parts if isinstance(p.scores, MultiScores)]
    scores = task.score(probabilities, targets, np.concatenate(own) if own else None)
    return Scored(samples, logits, features, probabilities, unknown, [], scores, targets)
