"""`vit benchmark`. Imports no torch until the command runs."""

from __future__ import annotations

from typing import Any

import click

from vitkit.cli.options import Duration, command_line, common, console_for, max_pixels, model_options, print_json

__all__ = ["benchmark"]


class Names(click.ParamType[tuple[str, ...]]):
    name = "names"

    def convert(self, value: Any, _: click.Parameter | None, __: click.Context | None) -> tuple[str, ...]:
        return tuple(part for part in (piece.strip() for piece in str(value).split(",")) if part)


class Numbers(click.ParamType[tuple[int, ...]]):
    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        pieces = [piece.strip() for piece in str(value).split(",")]
        if not all(piece.isdecimal() for piece in pieces):
            self.fail(f"{value!r} is not a list of whole numbers; write 1,8,32.", param, ctx)
        return tuple(map(int, pieces))


@click.command(short_help="Which engine is fastest for a model here, and whether it computes the same.")
@click.argument("model", metavar="[M]", required=False)
@click.option("--engines", type=Names(), metavar="A,B", help="Engines to measure. [default: all that are here]")
@click.option("--precisions", type=Names(), metavar="A,B",
              help="fp32, bf16, int8. Reduced precision is recommended only if named. [default: all]")  # fmt: skip
@click.option("--batch", type=Numbers(), default="1,8,32", show_default=True, metavar="N,N", help="Images of a call.")
@click.option("--images", metavar="DATA",
              help="Images on which answers are compared with plain PyTorch's. [default: random pixels]")  # fmt: skip
@click.option("--seconds", type=Duration(), default="60", show_default=True, metavar="TIME",
              help="For comparing and timing: 60, 5m. Compiling comes on top.")  # fmt: skip
@click.option("--store", is_flag=True, help="Keep the recommendation beside M, for --engine auto.")
@click.option("-o", "--out", metavar="DIR", help="Folder for benchmark.json and benchmark.csv.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@max_pixels
@model_options
@common
def benchmark(model: str | None, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Measure engines x precisions x batch sizes for the model M on this machine, in turn, each in a process of its own.

    Without M: Ti/16 with random weights; `scratch` and sizes such as S/16 are random weights, too. Every line tells images/s, the
    latency of a call, the peak memory of the process, the share of the machine's own fastest matrix product, and agreement with
    plain PyTorch in fp32; and whether the engine is ours or a wrapped runtime.
    """
    from vitkit.jobs.benchmark import benchmark as job

    result = job(
        model, overrides=dict(overrides), command=command_line(), console=console_for(as_json, offline), **options
    )
    if as_json:
        print_json(result.facts)
