"""What the user asked of a run: checked, stored with it, and read again to resume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.config import UserError, override, read_json
from vitkit.data.bands import MAX_CHANNELS
from vitkit.data.download import without_secrets
from vitkit.data.pixels import FITS, MAX_PIXELS
from vitkit.data.resized import check_size
from vitkit.evals import multilabel
from vitkit.evals.classify import METRICS
from vitkit.models.vit import ViTConfig
from vitkit.recipes.finetune import choose_recipe
from vitkit.runfolder import not_begun
from vitkit.trackers import check_trackers

__all__ = ["Arguments", "absolute", "check_arguments", "read_arguments"]


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
    select_by: str = "auto"
    balance: str = "auto"
    earlier: str | None = None  # a run to compare with
    folds: int = 0  # 0: no cross-validation
    fold: int | None = None  # of a run inside folds/: which one tests
    seed: int = 0
    strict: bool = False
    workers: int = 1
    channels: int = 3  # 3: every image becomes RGB; otherwise images must have so many
    max_pixels: int = MAX_PIXELS  # larger images are listed without being decoded
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of FinetuneRecipe
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the loaded model
    plan: str | None = None  # a run whose plan is used again
    resized_cache: float = 0.0  # GB of decoded training images that may be kept on disk; never changes the result
    track: tuple[str, ...] = ()  # programs that get the run's numbers beside metrics.jsonl

    def as_python(self) -> str:
        """The call that asks for the same run."""
        shown = [repr(self.data)]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            default = field.default_factory() if callable(field.default_factory) else field.default
            if field.name == "model":  # None was said as a word, and no word means the default
                value = value or "scratch"
            if value != default and field.name != "workers":
                shown.append(f"{field.name}={value!r}")
        return without_secrets(f"vitkit.finetune({', '.join(shown)})")


def absolute(name: str | Path | None) -> str | None:
    """A name as the run stores it: existing paths absolute, so that it can be resumed from any folder."""
    if name is None:
        return None
    return str(Path(name).resolve()) if Path(name).exists() else str(name)


def check_arguments(arguments: Arguments) -> None:
    """Refuse what no run can be made of, before anything is read or written.

    Raises:
        UserError: an unknown word, a value out of range, or an unknown setting of the recipe.
    """
    if arguments.fit not in ("auto", *FITS):
        raise UserError(f"--fit is {arguments.fit!r}; known: auto, {', '.join(FITS)}.")
    if arguments.train not in ("all", "head", "lora"):
        raise UserError(f"--train is {arguments.train!r}; known: all, head, lora.")
    if arguments.select_by not in ("auto", *METRICS, *multilabel.METRICS):
        raise UserError(
            f"--select-by is {arguments.select_by!r}; known: auto, {', '.join(METRICS)}; in multi-label data "
            f"{', '.join(multilabel.METRICS)}."
        )
    if arguments.balance not in ("auto", "none") and not Path(arguments.balance).is_file():
        raise UserError(
            f"--balance is {arguments.balance!r}; expected auto, none, or a JSON or CSV file of class and weight."
        )
    check_trackers(arguments.track)
    if arguments.folds and not 2 <= arguments.folds <= 100:
        raise UserError(f"--folds must be from 2 to 100, got {arguments.folds}.")
    if arguments.epochs is not None and not 0 < arguments.epochs < math.inf:
        raise UserError(f"--epochs must be above 0, got {arguments.epochs}.")
    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed must not be negative and below 2**63, got {arguments.seed}.")
    if not 1 <= arguments.channels <= MAX_CHANNELS:
        raise UserError(f"--channels must be from 1 to {MAX_CHANNELS}, got {arguments.channels}.")
    if arguments.max_pixels < 1:
        raise UserError(f"--max-pixels must be at least 1, got {arguments.max_pixels}.")
    if arguments.workers < 0:
        raise UserError(f"--workers must not be negative, got {arguments.workers}.")
    check_size(arguments.resized_cache)
    if arguments.train != "all" and arguments.model is None:
        raise UserError(f"--train {arguments.train} needs weights to keep, and --model scratch has none.")

    if arguments.earlier is not None and not (Path(arguments.earlier) / "model" / "config.json").is_file():
        raise UserError(f"--earlier {arguments.earlier} is not a finished run: it has no model/.")

    some = choose_recipe(images=100, config=ViTConfig(), pretrained=True, train="all", upscaled=False)
    override(some, arguments.settings, "--set")  # which recipe it will be changes nothing about what may be set


def read_arguments(run: Path) -> tuple[Arguments, str]:
    """The arguments and the command line of a run.

    Raises:
        UserError: not a fine-tuning run.
    """
    if not (run / "arguments.json").exists():
        raise UserError(f"{run} is not a fine-tuning run: it has no arguments.json.{not_begun(run)}")
    stored = read_json(run / "arguments.json")
    if stored.get("kind") == "pretrain":
        raise UserError(f"{run} is a run from a recipe: vit pretrain --resume {run}.")
    size = stored["image_size"]
    arguments = Arguments(**{**stored, "image_size": tuple(size) if size else None})
    return arguments, (run / "command.txt").read_text(encoding="utf-8", errors="surrogateescape").strip()
