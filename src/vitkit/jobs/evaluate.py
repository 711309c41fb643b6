"""`vit evaluate`: score a model on labelled images, with its own preprocessing, classes matched by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitkit.bundle import MULTI, SINGLE, Bundle
from vitkit.config import UserError
from vitkit.console import Console, percent
from vitkit.data.pixels import MAX_PIXELS
from vitkit.data.sources import Source, match_classes, read_source
from vitkit.evals.scoring import rows, score_samples, seen_label, task_of
from vitkit.jobs.load import load
from vitkit.report import Row

__all__ = ["evaluate"]


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    overrides: dict[str, Any] | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Score ``model`` on ``data``.

    Args:
        model: a bundle folder or a checkpoint file.
        data: a folder of class folders, or one with train/ and val/ or test/ inside, a CSV, Parquet or tar file, or
            ``digits``.
        split: which split to score; by default test, else val, else all of a flat folder.
        strict: fail on the first file that cannot be used, instead of listing it.
        max_pixels: larger images are listed without being decoded.

    Returns:
        Rows of task, dataset, metric, value and interval.

    Raises:
        UserError: no such model, data or split; classes that the model does not know; data of the other task.
    """
    console = console or Console()
    bundle = load(model, **(overrides or {}))
    for note in bundle.notes:
        console.say(f"model: {note}")
    source = read_source(data)
    _check_task(bundle, source)
    if bundle.classes is None:
        if len(source.classes) != bundle.config.num_classes:
            raise UserError(
                f"the model has {bundle.config.num_classes} classes without names, the data {len(source.classes)}; "
                "classes are matched by name, so this cannot be scored."
            )
        console.warn("the model's classes have no names: the data's classes in sorted order are taken for them")
    else:
        source = match_classes(source, bundle.classes)
    console.say(f"data: {source.name}: {source.describe()}")
    for note in source.notes:
        console.say(f"data: {note}")
    chosen = split or next((name for name in ("test", "val", "all") if name in source.splits), "train")
    if chosen not in source.splits:
        raise UserError(f"{data} has no split {chosen!r}; it has {', '.join(source.splits)}.")
    samples = source.splits[chosen]
    scored = score_samples(
        bundle, samples, console, f"scoring {chosen}", strict=strict, workers=workers, max_pixels=max_pixels
    )
    for name, reason in scored.skipped:
        console.warn(f"skipped {name}: {reason}")
    label, count = seen_label(bundle, scored.samples)
    if label:
        console.warn(f"{count} of these images took part in making the model: {label}")
    task = task_of(bundle)
    low, high = scored.scores.intervals[task.headline]
    console.say(
        f"{source.name} {chosen}: {task.shown} {percent(scored.scores.values[task.headline])} "
        f"[{percent(low)}, {percent(high)}], {scored.scores.n} scored, {len(scored.skipped)} skipped"
    )
    return rows(scored, "classify", f"{source.name}/{chosen}", str(model), label)


def _check_task(bundle: Bundle, source: Source) -> None:
    found = MULTI if source.multilabel else SINGLE
    if found != bundle.task:
        one, many = "one class per image", "any number of classes per image"
        has, gives = (many, one) if source.multilabel else (one, many)
        raise UserError(
            f"{source.name} is {found} data ({has}), the model is {bundle.task} (it gives {gives}); their answers cannot be "
            "compared. Score the model on data of its own kind, or fine-tune one on this data."
        )
