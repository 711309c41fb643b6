"""The model's own answers on labelled images, classes matched by name."""

from __future__ import annotations

from vitkit.answers import MULTI, SINGLE
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console, percent
from vitkit.data.samples import Source, match_classes
from vitkit.evals.features import FeatureTable
from vitkit.evals.scoring import judge, rows, task_of
from vitkit.protocols.opening import (
    account,
    chosen_view,
    open_data,
    open_model,
    row_label,
    say_data,
    scored_split,
    table_of,
)
from vitkit.protocols.request import Request
from vitkit.report import Row

__all__ = ["run"]

ADVICE = "vit finetune teaches it the data's classes; --protocol linear, knn or fewshot measures its features with these classes."


def run(request: Request, console: Console) -> list[Row]:
    """Score a model's classes: the named split, else test, else val, else all of a flat folder, else train.

    Raises:
        UserError: classes that the model does not know, data of the other task, or as reading model and data.
    """
    bundle = open_model(request, console)
    source = open_data(request)
    _check_task(bundle, source)
    _check_head(bundle)
    source = _matched(bundle, source, console)
    say_data(source, console)
    view = chosen_view(request, bundle, "own", console)
    split = scored_split(request, source, ("test", "val", "all", "train"))
    table = table_of(request, bundle, source.splits[split], console, f"scoring {split}", view)
    account(request, source, split, table)
    with request.world.first_alone("scoring"):
        return _score(request, bundle, source, split, table, console) if request.world.main else []


def _score(
    request: Request, bundle: Bundle, source: Source, split: str, table: FeatureTable, console: Console
) -> list[Row]:
    scored = judge(bundle, table.samples, table.logits.numpy(), table.features.numpy(), table.skipped)
    label = row_label(bundle, source, scored.samples, console)
    task = task_of(bundle)
    low, high = scored.scores.intervals[task.headline]
    console.say(
        f"{source.name} {split}: {task.shown} {percent(scored.scores.values[task.headline])} "
        f"[{percent(low)}, {percent(high)}], {scored.scores.n} scored, {len(scored.skipped)} skipped"
    )
    return rows(scored, "classify", f"{source.name}/{split}", request.model, label)


def _matched(bundle: Bundle, source: Source, console: Console) -> Source:
    """The data with the model's classes."""
    if bundle.classes is not None:
        try:
            return match_classes(source, bundle.classes)
        except UserError as error:
            raise UserError(f"{error} {ADVICE}") from None
    if len(source.classes) != bundle.config.num_classes:
        raise UserError(
            f"the model has {bundle.config.num_classes} classes without names, the data {len(source.classes)}; "
            f"classes are matched by name, so this cannot be scored. {ADVICE}"
        )
    console.warn("the model's classes have no names: the data's classes in sorted order are taken for them")
    return source


def _check_head(bundle: Bundle) -> None:
    try:
        bundle.require_classes()
    except UserError as error:
        if bundle.config.pool == "none":
            raise
        raise UserError(f"{error} Or measure its features: --protocol linear, knn and fewshot need no head.") from None


def _check_task(bundle: Bundle, source: Source) -> None:
    found = MULTI if source.multilabel else SINGLE
    if found != bundle.task:
        one, many = "one class per image", "any number of classes per image"
        has, gives = (many, one) if source.multilabel else (one, many)
        raise UserError(
            f"{source.name} is {found} data ({has}), the model is {bundle.task} (it gives {gives}); their answers cannot be "
            "compared. Score the model on data of its own kind, or fine-tune one on this data."
        )
