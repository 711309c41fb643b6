"""`vit pretrain` and `vit recipes`."""

from __future__ import annotations

import time
from typing import Any

import click

from vitkit.cli.options import Duration, Setting, command_line, common, console_for, print_json

__all__ = ["pretrain", "recipes"]


@click.command(short_help="Train from a recipe: pre-training and transfer as published.")
@click.argument("recipe", required=False)
@click.argument("changes", nargs=-1, type=Setting(), metavar="[data=FOLDER] [KEY=VALUE]...")
@click.option("-o", "--out", metavar="RUN", help="Run folder.")
@click.option(
    "--budget",
    type=Duration(),
    metavar="TIME",
    help="Time that the whole command may take: 90s, 10m, 2h. Steps are fitted.",
)
@click.option("--plan", metavar="RUN", help="Repeat the steps, microbatch, precision and kernels of another run.")
@click.option("--resume", metavar="RUN", help="Go on with a stopped run.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that prepare images; never changes the result. [default: cores - 1]",
)
@click.option(
    "--resized-cache",
    type=float,
    default=0.0,
    metavar="GB",
    help="Keep so many GB of decoded training images on disk for later runs; never changes the result.",
)
@click.option(
    "--parallel",
    type=click.Choice(["ddp", "fsdp2"]),
    default="ddp",
    show_default=True,
    help="Under torchrun: every rank has the whole model, or a part of it; never changes the result.",
)
@click.option(
    "--rank-timeout",
    type=Duration(),
    default="10m",
    show_default=True,
    help="Under torchrun: how long ranks wait for another one before they name it and end the run.",
)
@click.option(
    "--track",
    multiple=True,
    metavar="NAME",
    help="Give the run's numbers to tensorboard, wandb or mlflow too (installed by you); may be repeated.",
)
@common
def pretrain(recipe: str | None, changes: Any, as_json: bool, offline: bool, **options: Any) -> None:
    """Train RECIPE (see vit recipes) on data=FOLDER, with changes such as epochs=5 or optim.lr=3e-4.

    The run folder gets model/ (the bundle), report.html, report.json and metrics.jsonl.
    """
    if recipe is None and options["resume"] is None:
        raise click.UsageError("name a RECIPE (vit recipes lists them), or --resume RUN.")
    if recipe is not None and "=" in recipe:
        raise click.UsageError(f"name a recipe before {recipe!r}; vit recipes lists them.")
    settings = dict(changes)
    if twice := [key for key, _ in changes if sum(key == other for other, _ in changes) > 1]:
        raise click.UsageError(f"{twice[0]} is given more than once; which value is meant?")
    began = time.perf_counter()  # before torch is imported
    from vitkit.jobs.pretrain import pretrain as job

    data = settings.pop("data", None)
    result = job(
        recipe,
        data=None if data is None else str(data),
        settings=settings,
        command=command_line(),
        console=console_for(as_json, offline),
        began=began,
        **options,
    )
    if as_json:
        print_json(
            {
                "run": str(result.run),
                "bundle": str(result.bundle),
                "report": str(result.report),
                "rows": [row.to_dict() for row in result.rows],
            }
        )


@click.command(short_help="The recipes: what they train, what they cost, what to expect.")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@common
def recipes(words: tuple[str, ...], as_json: bool, offline: bool) -> None:
    """List the recipes whose name or title has every word of FILTER."""
    import dataclasses

    from vitkit.jobs.recipes import list_recipes

    found = list_recipes(" ".join(words), console=console_for(as_json, offline))
    if as_json:
        print_json([dataclasses.asdict(recipe) for recipe in found])
