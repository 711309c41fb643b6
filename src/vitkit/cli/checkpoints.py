"""Commands about published checkpoints: list them, prove that they are read right, write them in other formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vitkit.cli.options import common, console_for, model_options, print_json

__all__ = ["convert", "models", "verify"]


@click.command(short_help="Write a model in another library's format, and check what was written.")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--to", required=True, metavar="FORMAT", help="google, big_vision, timm, huggingface, torchvision or vitkit."
)
@click.option("--force", is_flag=True, help="Write over what is at DST.")
@model_options
@common
def convert(source: str, destination: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Write the model SRC to the folder DST: the weights under the format's usual name, and vitkit.json.

    vitkit.json holds what the format cannot express. Where DST ends in the format's extension only the weights are written;
    that is refused where the format would make another function of them. The result is read back and compared.
    """
    from vitkit.jobs.convert import convert as job

    result = job(source, destination, overrides=dict(overrides), console=console_for(as_json, offline), **options)
    if as_json:
        print_json(
            {
                "files": [str(path) for path in result.files],
                "layout": result.layout,
                "max_difference": result.difference,
                "max_output": result.scale,
            }
        )


@click.command(short_help="What a checkpoint is, what of it is proved, and what to beware of.")
@click.argument("source", metavar="SRC")
@click.option("--strict", is_flag=True, help="Every warning is a failure.")
@model_options
@common
def verify(source: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Recognise the model SRC, account for its tensors, and compare it with an independent implementation."""
    from vitkit.jobs.verify import verify as job

    result = job(source, overrides=dict(overrides), console=console_for(as_json, offline), **options)
    if as_json:
        print_json(result.to_dict())


@click.command(short_help="Published checkpoints: list them, or show one.")
@click.argument("words", nargs=-1, metavar="[FILTER...] | show NAME")
@common
def models(words: Sequence[str], as_json: bool, offline: bool) -> None:
    """List the published checkpoints that have every word of FILTER, such as `dinov2` or `b/16 384`; or show one NAME."""
    from vitkit.jobs.models import describe, list_models, show_model
    from vitkit.zoo.box import NAME as BOX

    console = console_for(as_json, offline)
    if words[:1] == ("show",):
        if len(words) != 2:
            raise click.UsageError("name the model to show: vit models show NAME.")
        facts = show_model(words[1], console=None if as_json else console)
        if as_json:
            print_json(facts)
        return
    rows = list_models(" ".join(words), console=None if as_json else console)
    if as_json:
        print_json([describe(row) for row in rows] if rows else [show_model(BOX)])
