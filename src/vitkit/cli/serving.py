"""`vit serve`. Imports no torch until the command runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from vitkit.cli.options import Duration, Pixels, common, console_for, engine_options, model_options

__all__ = ["serve"]


class Bytes(click.ParamType[int]):
    """A number of bytes: 1048576, 512K, 32M or 1G, in powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?b?", str(value).lower())
        if not match or (count := round(float(match[1]) * 1024 ** " kmg".index(match[2] or " "))) < 1:
            self.fail(f"{value!r} is not a number of bytes; write 33554432, 32M or 1G.", param, ctx)
        return count


@click.command(short_help="Models over HTTP, with a page to try them on.")
@click.argument("models", metavar="M...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all of them.")
@click.option("--port", type=int, default=8000, show_default=True, help="Port; 0 takes a free one and prints it.")
@click.option("--api-key-file", metavar="FILE", help="Keys, one a line; clients have to show one of them.")
@click.option(
    "--cors", multiple=True, metavar="ORIGIN", help="Let pages of this origin ask; may be given several times."
)
@click.option("--max-wait-ms", "wait_ms", type=float, default=5.0, show_default=True, metavar="MS",
              help="A group of images waits at most so long for others that are being decoded.")  # fmt: skip
@click.option("--queue", type=int, default=128, show_default=True, metavar="N", help="Images that may wait; then 429.")
@click.option("--body-limit", "body_bytes", type=Bytes(), default="32M", show_default=True, metavar="BYTES",
              help="Of one request.")  # fmt: skip
@click.option("--image-limit", "images", type=int, default=64, show_default=True, metavar="N", help="Of one request.")
@click.option("--pixel-limit", "pixels", type=Pixels(), default="100M", show_default=True, metavar="N",
              help="Of one image, before it is decoded.")  # fmt: skip
@click.option("--timeout", "seconds", type=Duration(), default="30s", show_default=True, metavar="TIME",
              help="To receive a body, and again to answer it.")  # fmt: skip
@click.option("--connections", type=int, default=512, show_default=True, metavar="N", help="Open at a time.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@click.option("--reload/--no-reload", default=True, show_default=True, help="Open models anew when files are replaced.")
@click.option("--log-format", default="text", show_default=True, metavar="text|json", help="Of the log on stderr.")
@engine_options
@model_options
@common
def serve(
    models: Sequence[str],
    as_json: bool,
    offline: bool,
    overrides: Any,
    wait_ms: float,
    queue: int,
    body_bytes: int,
    images: int,
    pixels: int,
    seconds: float,
    connections: int,
    **options: Any,
) -> None:
    """Serve the models M (paths, names, or NAME=PATH) over HTTP, with a page at /.

    SIGTERM and Ctrl-C stop it when what it accepted is answered; SIGHUP looks for replaced models at once.
    """
    from vitkit.jobs.serve import serve as job
    from vitkit.server.limits import Limits

    limits = Limits(body_bytes, pixels, images, seconds, queue, wait_ms, connections)
    job(models, limits=limits, overrides=dict(overrides), console=console_for(as_json, offline), **options)
