"""`vit explain`. Imports no torch until the command runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vitkit.cli.options import command_line, common, console_for, max_pixels, model_options, strict
from vitkit.config import free_folder

__all__ = ["explain"]


class Numbered(click.ParamType[Any]):
    """Layers or heads: ``all``, or whole numbers and words between commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        if not isinstance(value, str) or value == "all":
            return value
        parts = [part.strip() for part in value.split(",")]
        return [int(part) if part.removeprefix("-").isdecimal() else part for part in parts]


@click.command(short_help="What a model looks at: heat maps over the original images, with evidence.")
@click.argument("model", metavar="M")
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--out", metavar="DIR", help="Folder to write to. [default: runs/explain, numbered]")
@click.option("--method", default="gradient", show_default=True, metavar="gradient|rollout|attention",
              help="gradient: what speaks for a class. rollout, attention: what is looked at, for no class.")  # fmt: skip
@click.option("--class", "target", metavar="NAME", help="gradient: the class to explain. [default: the predicted one]")
@click.option("--layers", type=Numbered(), metavar="11|0,5,-1|all",
              help="attention: layers from 0, or from the end, or pool. [default: the last, or attention pooling]")  # fmt: skip
@click.option("--heads", type=Numbered(), metavar="0,2|all", help="attention: heads from 0. [default: their mean]")
@click.option("--residual", default="half", show_default=True, metavar="half|none",
              help="rollout: 0.5 A + 0.5 I, or A alone.")  # fmt: skip
@click.option("--pool", metavar="cls|mean", help="rollout, attention: read the tokens so. [default: as the model does]")
@click.option("--raw", is_flag=True, help="Also write the maps as arrays, .npz.")
@click.option("--check", type=click.IntRange(min=0), metavar="N",
              help="Images that tell whether the maps matter; 0: none. [default: 10; none of a large model on a CPU]")  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode and draw."
)
@strict
@max_pixels
@model_options
@common
def explain(
    model: str, images: Sequence[str], out: str | None, as_json: bool, offline: bool, overrides: Any, **options: Any
) -> None:
    """Draw what the model M looks at in IMAGES (files, folders, globs, tables), over the originals.

    DIR gets a picture <stem>.png of each image, the page index.html, and explain.json. What the model does not see is dimmed.
    """
    from vitkit.jobs.explain import RESULT
    from vitkit.jobs.explain import explain as job

    folder = Path(out) if out is not None else free_folder(Path("runs"), "explain")
    console = console_for(as_json, offline)
    job(model, list(images), out=folder, overrides=dict(overrides), command=command_line(), console=console, **options)
    if as_json:
        with (folder / RESULT).open(encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                click.echo(line, nl=False)
