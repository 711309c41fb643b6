"""The command `vit evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from vitkit.cli.options import (
    Setting,
    command_line,
    common,
    console_for,
    engine_options,
    max_pixels,
    model_options,
    print_json,
    strict,
)
from vitkit.parallel.launch import launched_rank

if TYPE_CHECKING:
    from vitkit.report import Row

__all__ = ["evaluate", "row_lines"]


SEED = "-seed-"
MEANINGS = {
    "top1": "the first answer is right",
    "top5": "one of the first five is right",
    "top1_majority": "top-1 if all neighbours count alike",
    "balanced_accuracy": "top-1 if all classes count alike",
    "macro_f1": "F1, mean of the classes",
    "micro_f1": "F1 of all labels together",
    "macro_auroc": "area under the ROC curve, mean of the classes",
    "map": "average precision, mean of the classes",
    "exact_match": "all labels of an image are right",
    "nll": "negative log-likelihood in nats; lower is better",
    "ece": "calibration error; lower is better",
    "unknown_rate": "called unlike the training images",
    "ce": "error, as a part of AlexNet's; lower is better",
    "mce": "mean corruption error, as a part of AlexNet's; lower is better",
}


class Counts(click.ParamType[tuple[int, ...]]):
    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is no list of whole numbers; write 5,10,25.", param, ctx)
        return tuple(int(part) for part in parts)


@click.command(short_help="Score a model on labelled images, by the protocol you name.")
@click.argument("model", metavar="M")
@click.argument("data")
@click.option(
    "--protocol", default="classify", show_default=True, metavar="classify|knn|linear|fewshot|vtab|robustness",
    help="classify: the model's own classes. knn, linear, fewshot: learnt from features of train/, scored on test/. "
    "vtab: fine-tune on 19 tasks. robustness: ImageNet's shifted test sets.",
)  # fmt: skip
@click.option(
    "--split",
    metavar="NAME",
    help="The split to score. [default: test, else val; classify: else every image of a flat folder]",
)
@click.option(
    "--data-root", metavar="DIR", help="Folder with a folder for each published data set. [default: $VITKIT_DATA]"
)
@click.option("--partial", is_flag=True, help="Score a published data set of which a part is missing.")
@click.option("--preprocess", metavar="own|fewshot|resize_small|squash",
              help="How images are fitted: as the model says, or as the official code does. "
              "[default: own; fewshot for that protocol]")  # fmt: skip
@click.option("--shots", type=Counts(), metavar="N,...", help="fewshot: images of each class. [default: 1,5,10,25]")
@click.option("--neighbours", type=int, metavar="K", help="knn: training images that vote. [default: 20]")
@click.option("--sweep", is_flag=True, help="vtab: choose hyper-parameters on its 200 validation images.")
@click.option("--set", "settings", type=Setting(), multiple=True, metavar="NAME=VALUE",
              help="vtab: change its recipe: steps=500, batch_size=64, image_size=224, optim.lr=0.003, ...")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of what a protocol draws.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@click.option("-o", "--out", metavar="DIR", help="Folder to write results.json to, for `vit results add`.")
@strict
@max_pixels
@engine_options
@model_options
@common
def evaluate(
    model: str, data: str, as_json: bool, offline: bool, settings: Any, overrides: Any, **options: Any
) -> None:
    """Measure the model M on DATA; classes are matched by name.

    M is a bundle folder, a checkpoint file, or a name of `vit models`. DATA is a folder of class folders or one with train/ and
    val/ or test/ inside, a CSV, Parquet or tar file, a published data set NAME=FOLDER of `vit datasets`, or vtab or robustness
    for the protocol of that name.

    Features are computed once and kept for all protocols. Under torchrun the ranks share the images, with equal results.
    """
    from vitkit.jobs.evaluate import evaluate as job

    rows = job(
        model,
        data,
        settings=dict(settings),
        overrides=dict(overrides),
        command=command_line(),
        console=console_for(as_json, offline),
        **options,
    )
    if launched_rank():
        return
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    for line in row_lines(rows):
        click.echo(line)


def row_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each row: metric, value, 95 % interval and what it is; of several data sets or counts, these too, and
    below what a reader must know."""
    if not rows:
        return []
    datasets, counts = ({getattr(row, field) for row in rows} for field in ("dataset", "n"))
    labels = list(dict.fromkeys(row.label for row in rows))
    notes = [label for label in labels if label]
    several = len(labels) > 1
    lines = [
        (
            row.dataset if len(datasets) > 1 else "",
            row.metric,
            f"{row.value:.6f}",
            "" if row.low is None else f"[{row.low:.6f}, {row.high:.6f}]",
            f"{row.n:,} images" if len(counts) > 1 else "",
            _meaning(row.metric) + (f" ({notes.index(row.label) + 1})" if several and row.label else ""),
        )
        for row in rows
    ]
    scored = f", {rows[0].n:,} images" if len(counts) == 1 else ""
    title = f"{rows[0].task} on {rows[0].dataset if len(datasets) == 1 else f'{len(datasets)} sets'}{scored}"
    below = [f"  ({number}) {note}" if several else f"  {note}" for number, note in enumerate(notes, 1)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[f"{cell:{width}}" for cell, width in zip(line, widths, strict=True) if width] for line in lines]
    return [f"{title}, with 95 % intervals", *(f"  {'  '.join(line)}".rstrip() for line in cells), *below]


def _meaning(metric: str) -> str:
    shots, shot, draw = metric.partition("shot")
    if shot and shots.isdecimal():
        each = f"top-1, learnt from {shots} image{'' if shots == '1' else 's'} a class"
        return f"{each}, {f'draw {draw.removeprefix(SEED)}' if draw else 'mean of the draws'}"
    return MEANINGS.get(metric, "")
