"""`vit compare`. Imports no torch until the command runs."""

from __future__ import annotations

from typing import Any

import click

from vitkit.cli.options import command_line, common, console_for, max_pixels, model_options, print_json, strict

__all__ = ["compare"]


@click.command(short_help="Two models on the same images: which is better, and where they disagree.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("data")
@click.option("--split", metavar="NAME", help="train, val, test or all. [default: test, else val, else all]")
@click.option("-o", "--out", metavar="DIR", help="Folder to write to. [default: runs/compare-<data>, numbered]")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@click.option("--data-root", metavar="DIR", help="Folder with a folder for each published data set.")
@click.option("--partial", is_flag=True, help="Compare on a part of a published data set too.")
@strict
@max_pixels
@model_options
@common
def compare(a: str, b: str, data: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Compare the models A and B on the same images of DATA, each with its own preprocessing; classes are matched by name.

    The folder gets compare.html, compare.json and disagreements.csv: every image that A and B answer differently.
    """
    from vitkit.jobs.compare import compare as job

    result = job(
        a, b, data, overrides=dict(overrides), command=command_line(), console=console_for(as_json, offline), **options
    )
    if as_json:
        print_json({"folder": str(result.folder), "page": str(result.page), **result.facts})
