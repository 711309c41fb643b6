"""`vit analyze`. Imports no torch until the command runs."""

from __future__ import annotations

from typing import Any

import click

from vitkit.cli.options import command_line, common, console_for, max_pixels, model_options, print_json, strict

__all__ = ["analyze"]

LARGE = {"filters": "components", "positions": "similarity"}  # a hundred thousand numbers, for files


@click.command(short_help="Pictures of what is inside a model: filters, positions, attention, layers, tokens.")
@click.argument("model", metavar="M")
@click.option("-o", "--out", metavar="DIR", help="Folder to write to. [default: runs/analyze-<model>, numbered]")
@click.option(
    "--images", metavar="DATA", help="Images to look at; labels are not needed. Without: what needs no images."
)
@click.option("--max-images", type=click.IntRange(min=1), default=128, show_default=True, metavar="N",
              help="Of more images so many are taken, evenly spread.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@strict
@max_pixels
@model_options
@common
def analyze(model: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Look into the model M, and at what it does with images.

    From its weights: principal components of the patch embedding's filters, similarity of position embeddings. Over images:
    attention distance and entropy of every head, similarity of the layers' representations, norms of tokens and outliers.

    DIR gets index.html, analysis.json with all numbers, and each figure as SVG and PNG. DATA is a file, folder, table, or data
    as for `vit evaluate`. --json prints what analysis.json holds, but for the numbers of each filter and position.
    """
    from vitkit.jobs.analyze import analyze as job

    result = job(
        model, overrides=dict(overrides), command=command_line(), console=console_for(as_json, offline), **options
    )
    if as_json:
        facts = {
            name: {key: each for key, each in value.items() if key != LARGE[name]} if name in LARGE else value
            for name, value in result.facts.items()
        }
        print_json({"folder": str(result.folder), "page": str(result.page), **facts})
