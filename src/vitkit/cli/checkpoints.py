"""Commands about checkpoints: write them in other formats, prove that they were read right."""

from __future__ import annotations

from typing import Any

import click

from vitkit.cli.options import common, console_for, model_options, print_json, strict

__all__ = ["convert", "verify"]


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
@strict
@model_options
@common
def verify(source: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Recognise the model SRC, account for its tensors, and compare it with an independent implementation.

    With --strict every warning is a failure.
    """
    from vitkit.jobs.verify import verify as job

    result = job(source, overrides=dict(overrides), console=console_for(as_json, offline), **options)
    if as_json:
        print_json(result.to_dict())
