"""The command `vit`. Imports no torch until a command needs it.

Exit codes: 0 done, 1 a user's error with one message, 2 wrong usage, 70 a bug (trace in a file), 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vitkit import __version__
from vitkit.cli import (
    analysing,
    benchmarking,
    checkpoints,
    comparing,
    evaluating,
    explaining,
    exporting,
    papers,
    published,
    serving,
    training,
)
from vitkit.cli.options import (
    Duration,
    Setting,
    Size,
    command_line,
    common,
    console_for,
    engine_options,
    max_pixels,
    model_options,
    print_json,
    strict,
)
from vitkit.cli.results import results
from vitkit.config import UserError, did_you_mean
from vitkit.parallel.launch import launched_rank

__all__ = ["cli", "main"]

SECTIONS = (
    ("Make a classifier", ("audit", "finetune", "demo")),
    ("Use it", ("predict", "evaluate", "compare", "serve")),
    ("See inside", ("explain", "analyze")),
    ("Train as published", ("pretrain", "recipes")),
    ("Published models", ("models", "verify", "convert")),
    ("Published data and results", ("datasets", "results", "paper")),
    ("This machine", ("doctor", "benchmark")),
)
PAGE = """\
vit {version}: Vision Transformers, from a folder of photos to a classifier you can trust.

  vit finetune photos/ --model deit_tiny_patch16_224.safetensors
  vit predict runs/photos/model new/*.jpg -o answers.csv

{sections}
  A model M is a bundle folder (runs/photos/model), or a checkpoint file or folder of Google, timm, Hugging Face,
  torchvision, DeiT, DINO, DINOv2, MAE or OpenCLIP, or a name of `vit models`.
  DATA is a folder of class folders, one with train/ and val/ or test/ inside,
  a CSV or Parquet table, a tar file, `digits`, or NAME=FOLDER of `vit datasets`.
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


@click.group(cls=_Page, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="vit %(version)s")
def cli() -> None:
    """Vision Transformers."""


@cli.command(short_help="Folder of labelled images in, tested classifier with a report out.")
@click.argument("data", required=False)
@click.option(
    "--model",
    metavar="M",
    help="Weights to start from; box: those that ship; scratch: none. "
    "[default: the recommended checkpoint where it is here or --download is said, else box]",
)
@click.option("-o", "--out", metavar="RUN", help="Run folder. [default: runs/<data>, numbered]")
@click.option("--val", metavar="DATA", help="Validation images; without them a stratified part is held out.")
@click.option(
    "--budget",
    type=Duration(),
    metavar="TIME",
    help="Time that the whole command may take: 90s, 10m, 2h. Steps are fitted.",
)
@click.option("--epochs", type=float, metavar="N", help="Passes over the training images, instead of the recipe's.")
@click.option(
    "--image-size", type=Size(), metavar="N|HxW", help="Size to run at, instead of the model's own, or 8/7 of it."
)
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
@click.option("--resized-cache", type=float, default=0.0, metavar="GB",
              help="Keep so many GB of decoded training images on disk for later runs; never changes the result.")  # fmt: skip
@click.option("--channels", type=click.IntRange(1, 64), default=3, show_default=True, metavar="N",
              help="3: every image becomes RGB. Else images (.npy, TIFF, ...) must have N channels.")  # fmt: skip
@click.option("--set", "settings", type=Setting(), multiple=True, metavar="NAME=VALUE",
              help="Change the recipe: lr=3e-4, smoothing=0, ema=0.99, ... (see plan.json of a run).")  # fmt: skip
@click.option("--plan", metavar="RUN", help="Use the split, recipe and measured choices of another run.")
@click.option("--track", multiple=True, metavar="NAME",
              help="Give the run's numbers to tensorboard, wandb or mlflow too (installed by you).")  # fmt: skip
@click.option("--download/--no-download", default=None,
              help="Without --model, fetch the recommended checkpoint. [default: as VITKIT_DOWNLOAD says, else no]")  # fmt: skip
@click.option("--resume", metavar="RUN", help="Go on with a stopped run.")
@strict
@max_pixels
@model_options
@common
def finetune(data: str | None, as_json: bool, offline: bool, settings: Any, overrides: Any, **options: Any) -> None:
    """Fine-tune a Vision Transformer on DATA: class folders, a CSV, Parquet or tar file, or `digits`.

    First a linear probe on frozen features, then fine-tuning; the better of the two is released. test/ is scored once,
    at the end. The run folder gets model/ (the bundle), report.html, report.json and metrics.jsonl.
    """
    if data is None and options["resume"] is None:
        raise click.UsageError("name the DATA to fine-tune on, or --resume RUN.")
    began = time.perf_counter()  # before torch is imported
    from vitkit.jobs.finetune import finetune as job

    result = job(
        data,
        began=began,
        settings=dict(settings),
        overrides=dict(overrides),
        command=command_line(),
        console=console_for(as_json, offline),
        **options,
    )
    if as_json:
        print_json(
            {"run": str(result.run), "bundle": str(result.bundle), "report": str(result.report), **result.headline}
        )


@cli.command(short_help="What is wrong with the data: broken, doubled, leaked, mislabelled images.")
@click.argument("data")
@click.option("--model", metavar="M", help="Its features find label errors. Without: features learnt from the images.")
@click.option("-o", "--out", metavar="DIR", help="Folder to write to. [default: runs/audit-<data>, numbered]")
@click.option(
    "--fit", default="auto", show_default=True, metavar="auto|crop|squash|pad", help="How images are to be fitted."
)
@click.option("--image-size", type=Size(), metavar="N|HxW", help="Size to fit to, instead of the model's own.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that open files.")
@click.option("--channels", type=click.IntRange(1, 64), default=3, show_default=True, metavar="N",
              help="Channels that images must have; 3: every image becomes RGB.")  # fmt: skip
@strict
@max_pixels
@model_options
@common
def audit(data: str, as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Open every image of DATA once and tell what is broken, doubled, leaked between splits, skewed or mislabelled.

    The folder gets audit.html and audit.json. Nothing of the data is changed.
    """
    from vitkit.jobs.audit import audit as job

    result = job(
        data, overrides=dict(overrides), command=command_line(), console=console_for(as_json, offline), **options
    )
    if as_json:
        print_json(result.facts)


@cli.command(short_help="Classify files, folders and archives to CSV, JSON lines or Parquet.")
@click.argument("model", metavar="M")
@click.argument("paths", nargs=-1, required=True)
@click.option("-o", "--out", metavar="FILE", help=".csv, .jsonl or .parquet file. [default: CSV on stdout]")
@click.option("--top", default=1, show_default=True, metavar="K", help="Classes per image.")
@click.option("--features", is_flag=True, help="Also write what the model's head reads, to .parquet or .jsonl.")
@click.option("--restart", is_flag=True, help="Begin anew where a stopped run could be gone on with.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode images.")
@strict
@max_pixels
@engine_options
@model_options
@common
def predict(model: str, paths: Sequence[str], as_json: bool, offline: bool, overrides: Any, **options: Any) -> None:
    """Classify the images in PATHS with the model M, one row per image in input order.

    PATHS are files, folders, globs, CSV and Parquet tables, tar and zip files, text files with a path in each line, and addresses
    (s3://bucket/photos). Many images are written in parts; a run that was stopped goes on when the command is repeated.
    """
    from vitkit.jobs.predict import predict as job

    to_stdout = options["out"] is None
    console = console_for(as_json or to_stdout, offline)
    stream = sys.stdout if to_stdout and not as_json else None
    result = job(model, paths, overrides=dict(overrides), stream=stream, console=console, **options)
    if as_json:
        found = [
            {"path": path, "prediction": p.answer, "probability": p.probability,
             **({} if p.labels is None else {"labels": list(p.labels)}),
             **({} if p.unknown is None else {"unknown": p.unknown}),
             "top": [{"class": c, "probability": v} for c, v in zip(p.classes, p.probabilities, strict=True)],
             **({} if result.features is None else {"features": result.features[number].tolist()})}
            for number, (path, p) in enumerate(result.predictions)
        ]  # fmt: skip
        skipped = [{"path": path, "reason": reason} for path, reason in result.skipped]
        facts = {"written": result.written, "out": options["out"], "num_skipped": result.num_skipped}
        print_json({**facts, "predictions": found, "skipped": skipped})


@cli.command(short_help="The main job on embedded data: digits as PNG files, fine-tune, predict.")
@click.option("-o", "--out", default="runs/demo", show_default=True, metavar="DIR", help="Folder for data and run.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal results.")
@common
def demo(out: str, seed: int, as_json: bool, offline: bool) -> None:
    """Write scikit-learn's digits as PNG files in class folders, fine-tune on them, predict on some."""
    from vitkit.jobs.demo import demo as job

    result = job(out, seed=seed, console=console_for(as_json, offline))
    if as_json:
        print_json(
            {"run": str(result.run), "bundle": str(result.bundle), "report": str(result.report), **result.headline}
        )


@cli.command(short_help="Versions, processor, memory, and what vitkit would use.")
@click.option(
    "--perf", is_flag=True, help="Also what decides speed here, each choice with its reason and how to override it."
)
@common
def doctor(as_json: bool, offline: bool, perf: bool) -> None:
    """Print the environment: attach it to a bug report."""
    from vitkit.jobs.doctor import doctor as job

    facts = job(perf=perf, console=console_for(as_json, offline))
    if as_json:
        print_json(facts)


for _command in (
    analysing.analyze,
    benchmarking.benchmark,
    checkpoints.convert,
    checkpoints.models,
    checkpoints.verify,
    comparing.compare,
    evaluating.evaluate,
    explaining.explain,
    exporting.export,
    papers.paper,
    published.datasets,
    results,
    serving.serve,
    training.pretrain,
    training.recipes,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; one of several ranks ends here."""
    code = _run(arguments)
    if launched_rank() is not None:
        # The threads of a process group whose model is still referenced can abort a finished process as it is torn down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    rank = launched_rank()
    name = f"vit, rank {rank}" if rank else "vit"
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
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, click.Abort):
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit
        return 0
    except OSError as error:  # a full disk, a file-size limit, a folder that may not be written
        where = f" {error.filename}" if error.filename else " the output"
        print(f"{name}: cannot use{where}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"{name}: a bug in vitkit: {type(error).__name__}: {error}\n{_trace()}", file=sys.stderr)
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
