"""What the user asked of a run: checked, stored with it, and read again to resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.config import UserError, read_json
from vitkit.data.pixels import FITS
from vitkit.evals.classify import METRICS

__all__ = ["Arguments", "check_arguments", "read_arguments"]


@dataclass(frozen=True)
class Arguments:
    """What the user asked for; stored with the run and read again by ``--resume``."""

    data: str
    model: str | None = None
    val: str | None = None
    budget: float | None = None  # seconds of training
    epochs: float | None = None
    image_size: tuple[int, int] | None = None
    fit: str = "auto"
    train: str = "all"
    select_by: str = "top1"
    seed: int = 0
    strict: bool = False
    workers: int = 1
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of FinetuneRecipe
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the loaded model


def check_arguments(arguments: Arguments) -> None:
    if arguments.fit not in ("auto", *FITS):
        raise UserError(f"--fit is {arguments.fit!r}; known: auto, {', '.join(FITS)}.")
    if arguments.train not in ("all", "head", "lora"):
        raise UserError(f"--train is {arguments.train!r}; known: all, head, lora.")
    if arguments.select_by not in METRICS:
        raise UserError(f"--select-by is {arguments.select_by!r}; known: {', '.join(METRICS)}.")
    if arguments.epochs is not None and arguments.epochs <= 0:
        raise UserError(f"--epochs must be above 0, got {arguments.epochs}.")
    if arguments.seed < 0 or arguments.workers < 0:
        raise UserError("--seed and --workers must not be negative.")
    if arguments.train != "all" and arguments.model is None:
        raise UserError(f"--train {arguments.train} needs weights to keep: name a --model.")


def read_arguments(run: Path) -> tuple[Arguments, str]:
    if not (run / "arguments.json").exists():
        raise UserError(f"{run} is not a fine-tuning run: it has no arguments.json.")
    stored = read_json(run / "arguments.json")
    size = stored["image_size"]
    arguments = Arguments(**{**stored, "image_size": tuple(size) if size else None})
    return arguments, (run / "command.txt").read_text(encoding="utf-8").strip()
