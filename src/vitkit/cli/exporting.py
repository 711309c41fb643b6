"""The command that writes a model for another runtime."""

from __future__ import annotations

from typing import Any

import click

from vitkit.cli.options import Size, common, console_for, max_pixels, model_options, print_json

__all__ = ["export"]


@click.command(short_help="Write a model for another runtime, and prove it there.")
@click.argument("model", metavar="M")
@click.option("--to", required=True, metavar="TARGET", help="onnx, openvino or torch.")
@click.option("-o", "--out", metavar="DST", help="The artefact's folder; by default beside the model.")
@click.option("--check", metavar="DATA", help="Images to compare answers on; by default the run's validation images.")
@click.option("--precision", default="fp32", show_default=True, metavar="fp32|fp16|bf16|int8", help="Of dense layers.")
@click.option("--image-size", type=Size(), metavar="N|HxW", help="The size to run at.")
@click.option("--force", is_flag=True, help="Write it though it does not pass; the reasons stay with it.")
@click.option("--no-timing", "timed", is_flag=True, flag_value=False, default=True, help="Do not measure its speed.")
@click.option("--workers", default=2, show_default=True, help="Threads that decode images.")
@max_pixels
@model_options
@common
def export(model: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Write the model M as a graph that ONNX Runtime, OpenVINO or PyTorch alone computes, and score images with it there.

    The graph takes cropped pixels and gives calibrated probabilities. It is refused where it does not answer as the model does:
    in fp32 under 100 % (ties apart), in fp16 and bf16 under 99.5 %, in int8 under 97 %, with more than a point of accuracy lost,
    or slower than fp32. predict, evaluate, benchmark and serve take the folder like a model.
    """
    from vitkit.jobs.export import export as job

    result = job(model, overrides=dict(overrides), console=console_for(as_json, offline), **options)
    if as_json:
        print_json(result.to_dict())
