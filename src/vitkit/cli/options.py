"""Parameter types and options that several commands share."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from typing import Any

import click

from vitkit.config import parse_value
from vitkit.console import Console

__all__ = [
    "Duration",
    "Pixels",
    "Setting",
    "Size",
    "command_line",
    "common",
    "console_for",
    "engine_options",
    "max_pixels",
    "model_options",
    "print_json",
    "strict",
]


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value))
        if not match or float(match[1]) == 0:
            self.fail(f"{value!r} is not a duration; write 90s, 10m or 2h.", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "": 1}[match[2]]


class Size(click.ParamType[tuple[int, int]]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
        if not match or int(match[1]) == 0 or match[2] == "0":
            self.fail(f"{value!r} is not a size; write N or HxW, for example 224 or 192x320.", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class Pixels(click.ParamType[int]):
    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mg]?)p?", str(value).lower())
        if not match or (pixels := round(float(match[1]) * {"": 1, "m": 10**6, "g": 10**9}[match[2]])) < 1:
            self.fail(f"{value!r} is not a number of pixels; write 200000000, 200M or 200MP.", param, ctx)
        return pixels


class Setting(click.ParamType[tuple[str, Any]]):
    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not of the form name=value.", param, ctx)
        parsed = parse_value(text)
        if isinstance(parsed, list):
            parsed = tuple(parsed)
        return key, parsed


def common(command: Any) -> Any:
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Print results as JSON on stdout, everything else on stderr."
        ),
        click.option("--offline", is_flag=True, help="Open no socket."),
    ):
        command = option(command)
    return command


def strict(command: Any) -> Any:
    text = "Fail on the first file that cannot be used, instead of listing it."
    return click.option("--strict", is_flag=True, help=text)(command)


def max_pixels(command: Any) -> Any:
    return click.option(
        "--max-pixels", type=Pixels(), default="100M", show_default=True, metavar="N",
        help="Larger images are listed without being decoded: 200000000, 200M or 200MP.",
    )(command)  # fmt: skip


def model_options(command: Any) -> Any:
    return click.option(
        "--override", "overrides", type=Setting(), multiple=True, metavar="NAME=VALUE",
        help="What the weights cannot tell: num_heads=4, image_size=[96,160], mean=[0.5,0.5,0.5], ...",
    )(command)  # fmt: skip


def engine_options(command: Any) -> Any:
    for option in (
        click.option("--precision", default="auto", show_default=True, metavar="auto|fp32|bf16|int8",
                     help="Of matrix products; auto loses no accuracy."),
        click.option("--engine", default="auto", show_default=True, metavar="NAME",
                     help="What computes: auto or one of `vit doctor`'s list."),
    ):  # fmt: skip
        command = option(command)
    return command


def console_for(as_json: bool, offline: bool) -> Console:
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return Console(sys.stderr if as_json else sys.stdout)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def command_line() -> str:
    from vitkit.data.download import without_secrets

    return without_secrets(" ".join(["vit", *map(shlex.quote, sys.argv[1:])]))
