"""The command `vit evaluate`."""

from __future__ import annotations

from typing import Any

import click

from vitkit.cli.options import Setting, command_line, common, console_for, max_pixels, model_options, print_json, strict
from vitkit.parallel.launch import launched_rank

__all__ = ["evaluate"]


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
    help="classify: the model's own classes. knn, linear, fewshot: learnt from features of the train split.",
)  # fmt: skip
@click.option("--split", metavar="NAME", help="The split to score. [default: test, else val; classify: else all]")
@click.option("--data-root", metavar="DIR", help="Folder with a folder for each published data set. [VITKIT_DATA]")
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
@click.option("--out", metavar="DIR", help="Folder to write results.json to, for `vit results add`.")
@strict
@max_pixels
@model_options
@common
def evaluate(
    model: str, data: str, as_json: bool, offline: bool, settings: Any, overrides: Any, **options: Any
) -> None:
    """Measure the model M on DATA, or on a published data set NAME or NAME=FOLDER; classes are matched by name.

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
    width = max((len(row.metric) for row in rows), default=0)
    for row in rows:
        interval = "" if row.low is None else f"  [{row.low:.6f}, {row.high:.6f}]"
        click.echo(f"  {row.metric:<{max(18, width)}} {row.value:.6f}{interval}")
