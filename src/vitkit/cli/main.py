"""The command `vit`. Imports no torch until a command needs it.

Exit codes: 0 done, 1 a user's error with one message, 2 wrong usage, 70 a bug (trace in a file), 130 interrupted.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vitkit import __version__
from vitkit.config import UserError, did_you_mean, parse_value
from vitkit.console import Console

__all__ = ["cli", "main"]

SECTIONS = (
    ("Make a classifier", ("audit", "finetune", "demo")),
    ("Use it", ("predict", "evaluate")),
    ("Published weights", ("models",)),
    ("This machine", ("doctor",)),
)
PAGE = """\
vit {version}: Vision Transformers, from a folder of photos to a classifier you can trust.

  vit finetune photos/ --model deit_tiny_patch16_224.safetensors
  vit predict runs/photos/model new/*.jpg -o answers.csv

{sections}
  A model M is a bundle folder (runs/photos/model) or a .safetensors or .npz checkpoint.
  DATA is a folder of class folders, one with train/ and val/ or test/ inside,
  a CSV or Parquet table, a tar file, or `digits`.
  Everywhere: --json prints results as JSON, --offline opens no socket. `vit COMMAND --help` says more.
"""


class _Page(click.Group):
    """A group whose help is one page, and that guesses what a mistyped command meant."""

    def format_help(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = []
        for title, names in SECTIONS:
            lines.append(f"{title}:")
            lines += [f"  vit {name:<10} {self.commands[name].get_short_help_str(90)}" for name in names]
            lines.append("")
        formatter.write(PAGE.format(version=__version__, sections="\n".join(lines)))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            raise click.UsageError(
                f"no command {args[0]!r}.{did_you_mean(args[0], self.commands)} See vit --help."
            ) from None


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value))
        if not match or float(match[1]) == 0:
            self.fail(f"{value!r} is not a duration; write 90s, 10m or 2h.", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "": 1}[match[2]]


class _Size(click.ParamType[tuple[int, int]]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
        if not match or int(match[1]) == 0 or match[2] == "0":
            self.fail(f"{value!r} is not a size; write N or HxW, for example 224 or 192x320.", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class _Pixels(click.ParamType[int]):
    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mg]?)p?", str(value).lower())
        if not match or (pixels := round(float(match[1]) * {"": 1, "m": 10**6, "g": 10**9}[match[2]])) < 1:
            self.fail(f"{value!r} is not a number of pixels; write 200000000, 200M or 200MP.", param, ctx)
        return pixels


class _Setting(click.ParamType[tuple[str, Any]]):
    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not of the form name=value.", param, ctx)
        parsed = parse_value(text)
        if isinstance(parsed, list):
            parsed = tuple(parsed)
        return key, parsed


def _common(command: Any) -> Any:
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Print results as JSON on stdout, everything else on stderr."
        ),
        click.option("--offline", is_flag=True, help="Open no socket."),
    ):
        command = option(command)
    return command


def _strict(command: Any) -> Any:
    text = "Fail on the first file that cannot be used, instead of listing it."
    return click.option("--strict", is_flag=True, help=text)(command)


def _max_pixels(command: Any) -> Any:
    return click.option(
        "--max-pixels", type=_Pixels(), default="100M", show_default=True, metavar="N",
        help="Larger images are listed without being decoded: 200000000, 200M or 200MP.",
    )(command)  # fmt: skip


def _model_options(command: Any) -> Any:
    return click.option(
        "--override", "overrides", type=_Setting(), multiple=True, metavar="NAME=VALUE",
        help="What the weights cannot tell: num_heads=4, image_size=[96,160], mean=[0.5,0.5,0.5], ...",
    )(command)  # fmt: skip


def _console(as_json: bool, offline: bool) -> Console:
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return Console(sys.stderr if as_json else sys.stdout)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@click.group(cls=_Page, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="vit %(version)s")
def cli() -> None:
    """Vision Transformers."""


@cli.command(short_help="Folder of labelled images in, tested classifier with a report out.")
@click.argument("data", required=False)
@click.option("--model", metavar="M", help="Weights to start from. Without: a small model from random weights.")
@click.option("--out", metavar="RUN", help="Run folder. [default: runs/<data>, numbered]")
@click.option("--val", metavar="DATA", help="Validation images; without them a stratified part is held out.")
@click.option(
    "--budget", type=_Duration(), metavar="TIME", help="Time that the run may take, by its own estimate: 90s, 10m, 2h."
)
@click.option("--epochs", type=float, metavar="N", help="Passes over the training images, instead of the recipe's.")
@click.option("--image-size", type=_Size(), metavar="N|HxW", help="Size to run at, instead of the model's own.")
@click.option(
    "--fit", default="auto", show_default=True, metavar="auto|crop|squash|pad", help="How images fit that size."
)
@click.option("--train", default="all", show_default=True, metavar="all|head|lora", help="What is trained.")
@click.option("--select-by", default="auto", metavar="METRIC",
              help="Validation metric that chooses what is kept: top1, balanced_accuracy, macro_f1, nll; in multi-label "
              "data map, micro_f1, macro_f1, nll. [default: top1; balanced_accuracy where errors are weighed; map]")  # fmt: skip
@click.option("--balance", default="auto", show_default=True, metavar="auto|none|FILE",
              help="What errors cost: inverse to class size where sizes differ much, all alike, or class weights.")  # fmt: skip
@click.option("--folds", default=0, metavar="K",
              help="Cross-validate with K models first: an honest estimate where there is no test split.")  # fmt: skip
@click.option("--earlier", metavar="RUN", help="An earlier run to compare with in the report.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal results.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that prepare images; never changes the result. [default: cores - 1]",
)
@click.option("--channels", type=click.IntRange(1, 64), default=3, show_default=True, metavar="N",
              help="3: every image becomes RGB. Else images (.npy, TIFF, ...) must have N channels.")  # fmt: skip
@click.option("--set", "settings", type=_Setting(), multiple=True, metavar="NAME=VALUE",
              help="Change the recipe: lr=3e-4, smoothing=0, ema=0.99, ... (see plan.json of a run).")  # fmt: skip
@click.option("--plan", metavar="RUN", help="Use the split, recipe and measured choices of another run.")
@click.option("--resume", metavar="RUN", help="Go on with a stopped run.")
@_strict
@_max_pixels
@_model_options
@_common
def finetune(data: str | None, as_json: bool, offline: bool, settings: Any, overrides: Any, **options: Any) -> None:
    """Fine-tune a Vision Transformer on DATA: class folders, a CSV, Parquet or tar file, or `digits`.

    First a linear probe on frozen features, then fine-tuning; the better of the two is released. test/ is scored once,
    at the end. The run folder gets model/ (the bundle), report.html, report.json and metrics.jsonl.
    """
    if data is None and options["resume"] is None:
        raise click.UsageError("name the DATA to fine-tune on, or --resume RUN.")
    from vitkit.jobs.finetune import finetune as job

    result = job(
        data,
        settings=dict(settings),
        overrides=dict(overrides),
        command=_command_line(),
        console=_console(as_json, offline),
        **options,
    )
    if as_json:
        _print_json(
            {"run": str(result.run), "bundle": str(result.bundle), "report": str(result.report), **result.headline}
        )


@cli.command(short_help="What is wrong with the data: broken, doubled, leaked, mislabelled images.")
@click.argument("data")
@click.option("--model", metavar="M", help="Its features find label errors. Without: features learnt from the images.")
@click.option("--out", metavar="DIR", help="Folder to write to. [default: runs/audit-<data>, numbered]")
@click.option(
    "--fit", default="auto", show_default=True, metavar="auto|crop|squash|pad", help="How images are to be fitted."
)
@click.option("--image-size", type=_Size(), metavar="N|HxW", help="Size to fit to, instead of the model's own.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that open files.")
@click.option("--channels", type=click.IntRange(1, 64), default=3, show_default=True, metavar="N",
              help="Channels that images must have; 3: every image becomes RGB.")  # fmt: skip
@_strict
@_max_pixels
@_model_options
@_common
def audit(data: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Open every image of DATA once and tell what is broken, doubled, leaked between splits, skewed or mislabelled.

    The folder gets audit.html and audit.json. Nothing of the data is changed.
    """
    from vitkit.jobs.audit import audit as job

    result = job(
        data, overrides=dict(overrides), command=_command_line(), console=_console(as_json, offline), **options
    )
    if as_json:
        _print_json(result.facts)


def _command_line() -> str:
    return " ".join(["vit", *map(shlex.quote, sys.argv[1:])])


@cli.command(short_help="Classify files, folders and globs to CSV or JSON lines.")
@click.argument("model", metavar="M")
@click.argument("paths", nargs=-1, required=True)
@click.option("-o", "--out", metavar="FILE", help=".csv or .jsonl file. [default: CSV on stdout]")
@click.option("--top", default=1, show_default=True, metavar="K", help="Classes per image.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@_strict
@_max_pixels
@_model_options
@_common
def predict(model: str, paths: Sequence[str], as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Classify the images in PATHS (files, folders, globs, tables) with the model M, one row per image in input order."""
    from vitkit.jobs.predict import predict as job

    to_stdout = options["out"] is None
    console = _console(as_json or to_stdout, offline)
    stream = sys.stdout if to_stdout and not as_json else None
    result = job(model, paths, overrides=dict(overrides), stream=stream, console=console, **options)
    if as_json:
        found = [
            {"path": path, "prediction": p.answer, "probability": p.probability,
             **({} if p.labels is None else {"labels": list(p.labels)}),
             **({} if p.unknown is None else {"unknown": p.unknown}),
             "top": [{"class": c, "probability": v} for c, v in zip(p.classes, p.probabilities, strict=True)]}
            for path, p in result.predictions
        ]  # fmt: skip
        skipped = [{"path": path, "reason": reason} for path, reason in result.skipped]
        _print_json({"written": result.written, "out": options["out"], "predictions": found, "skipped": skipped})


@cli.command(short_help="Score a model on labelled images.")
@click.argument("model", metavar="M")
@click.argument("data")
@click.option("--split", metavar="NAME", help="train, val, test or all. [default: test, else val, else all]")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@_strict
@_max_pixels
@_model_options
@_common
def evaluate(model: str, data: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Score the model M on DATA with its own preprocessing; classes are matched by name."""
    from vitkit.jobs.evaluate import evaluate as job

    rows = job(model, data, overrides=dict(overrides), console=_console(as_json, offline), **options)
    if as_json:
        _print_json([row.to_dict() for row in rows])
        return
    for row in rows:
        interval = "" if row.low is None else f"  [{row.low:.6f}, {row.high:.6f}]"
        click.echo(f"  {row.metric:<18} {row.value:.6f}{interval}")


@cli.command(short_help="The main job on embedded data: digits as PNG files, fine-tune, predict.")
@click.option("--out", default="runs/demo", show_default=True, metavar="DIR", help="Folder for data and run.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal results.")
@_common
def demo(out: str, seed: int, as_json: bool, offline: bool) -> None:
    """Write scikit-learn's digits as PNG files in class folders, fine-tune on them, predict on some."""
    from vitkit.jobs.demo import demo as job

    result = job(out, seed=seed, console=_console(as_json, offline))
    if as_json:
        _print_json(
            {"run": str(result.run), "bundle": str(result.bundle), "report": str(result.report), **result.headline}
        )


@cli.command(short_help="Published checkpoints: list them, or show one.")
@click.argument("words", nargs=-1, metavar="[FILTER...] | show NAME")
@_common
def models(words: Sequence[str], as_json: bool, offline: bool) -> None:
    """List the published checkpoints that have every word of FILTER, such as `dinov2` or `b/16 384`; or show one NAME."""
    from vitkit.jobs.models import describe, list_models, show_model

    console = _console(as_json, offline)
    if words[:1] == ("show",):
        if len(words) != 2:
            raise click.UsageError("name the model to show: vit models show NAME.")
        facts = show_model(words[1], console=None if as_json else console)
        if as_json:
            _print_json(facts)
        return
    rows = list_models(" ".join(words), console=None if as_json else console)
    if as_json:
        _print_json([describe(row) for row in rows])


@cli.command(short_help="Versions, processor, memory, and what vitkit would use.")
@_common
def doctor(as_json: bool, offline: bool) -> None:
    """Print the environment: attach it to a bug report."""
    from vitkit.jobs.doctor import doctor as job

    facts = job(console=_console(as_json, offline))
    if as_json:
        _print_json(facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names need not be UTF-8
    try:
        cli(args=list(arguments) if arguments is not None else None, prog_name="vit", standalone_mode=False)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except UserError as error:
        print(f"vit: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, click.Abort):
        print("vit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit
        return 0
    except OSError as error:  # a full disk, a file-size limit, a folder that may not be written
        where = f" {error.filename}" if error.filename else " the output"
        print(f"vit: cannot use{where}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"vit: a bug in vitkit: {type(error).__name__}: {error}\n{_trace()}", file=sys.stderr)
        return 70


def _trace() -> str:
    """Write the current exception's trace to a file and say where."""
    try:
        handle, name = tempfile.mkstemp(prefix="vit-trace-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"vit {' '.join(sys.argv[1:])}\n{traceback.format_exc()}")
        return f"The trace is in {Path(name)}"
    except OSError:
        return ""
