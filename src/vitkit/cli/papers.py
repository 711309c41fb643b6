"""The command of the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vitkit.cli.evaluating import Counts
from vitkit.cli.options import (
    Duration,
    Setting,
    command_line,
    common,
    console_for,
    max_pixels,
    model_options,
    print_json,
)

__all__ = ["paper"]


@click.command(short_help="The paper's tables and figures, made here beside the published values.")
@click.argument("item", required=False)
@click.option(
    "--model", "model", multiple=True, metavar="M", help="Model to look at; repeat it where a figure compares."
)
@click.option(
    "--images", multiple=True, metavar="IMAGES", help="File, folder, glob in quotes or DATA to look at; repeatable."
)
@click.option("--data", default="", metavar="DATA", help="Labelled images that a study trains on.")
@click.option(
    "-o", "--out", metavar="DIR", help="Folder for figures (SVG and PNG) and data (JSON); studies go on there."
)
@click.option("--max-images", type=int, metavar="N", help="Of more images look at so many, evenly spread.")
@click.option("--sizes", type=Counts(), metavar="N,...", help="figure12: image sizes in pixels.")
@click.option("--budget", type=Duration(), metavar="TIME", help="figure12: time that measuring may take: 90s, 10m, 2h.")
@click.option("--all", "everything", is_flag=True, help="Also the parts that take long.")
@click.option("--residual", default="", metavar="half|none", help="Rollout: identity mixed in, or not. [default: half]")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@click.option("--set", "settings", type=Setting(), multiple=True, metavar="NAME=VALUE", help="Settings of an item.")
@max_pixels
@model_options
@common
def paper(
    item: str | None,
    model: Sequence[str],
    images: Sequence[str],
    data: str,
    as_json: bool,
    offline: bool,
    settings: Any,
    overrides: Any,
    sizes: tuple[int, ...] | None,
    **options: Any,
) -> None:
    """Make ITEM, `table1` to `table9` or `figure1` to `figure14`: our values beside the published ones.

    Without ITEM: what each shows, and whether it can be made of what is at hand (weights, data, hardware).
    """
    from vitkit.jobs import paper as job

    console = console_for(as_json, offline)
    if item is None:
        found = job.list_items(model, images, data)
        if as_json:
            print_json(found)
        for line in () if as_json else job.overview_lines(found, console.width):
            console.say(line)
        return
    result = job.paper(
        item,
        model=model,
        images=images,
        data=data,
        sizes=sizes or (),
        settings=dict(settings),
        overrides=dict(overrides),
        command=command_line(),
        console=console,
        **options,
    )
    if as_json:
        print_json(result.facts)
    for line in () if as_json else job.result_lines(result, console.width):
        console.say(line)
