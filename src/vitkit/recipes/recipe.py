"""What a training job is: model, data, objective, optimisation, views, and the number to expect with its source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitkit.config import UserError, did_you_mean, override
from vitkit.data.loader import Augmentation
from vitkit.data.mixing import Mixing
from vitkit.data.pixels import Preprocess
from vitkit.models.initialise import SCHEMES
from vitkit.models.vit import ViTConfig
from vitkit.optim import OptimConfig

__all__ = ["OBJECTIVES", "Distillation", "Expected", "Recipe", "batch_of", "changed", "fitted_optim", "steps_of"]

PRECISIONS = ("auto", "fp32", "bf16")
OBJECTIVES = ("softmax", "sigmoid", "masked_patch")
# Records inside a recipe, changed as part.field=value, and what is changed by its name alone.
PARTS = ("model", "optim", "augment", "mixing", "preprocess", "distill")
FREE = (
    "steps", "epochs", "batch_size", "seed", "smoothing", "head_bias", "objective", "evaluations", "start", "repeats",
    "precision", "activation_checkpointing", "initialisation",
)  # fmt: skip

WHOLE, TEXT = ((int,), "a whole number"), ((str,), "text")
KINDS: dict[str, tuple[tuple[type, ...], str]] = {  # of settings in FREE that are no numbers with a fraction
    **dict.fromkeys(("steps", "batch_size", "seed", "evaluations", "repeats"), WHOLE),
    **dict.fromkeys(("objective", "start", "precision", "initialisation"), TEXT),
    "activation_checkpointing": ((bool,), "true or false"),
}


@dataclass(frozen=True)
class Expected:
    """A number that the recipe was published, or measured by us, with."""

    value: float  # a fraction
    what: str  # metric and data
    source: str


@dataclass(frozen=True)
class Distillation:
    """What is learnt from a teacher's answers beside the labels; nothing without a teacher. See `vitkit.objectives.distill`."""

    teacher: str = ""  # a bundle, a checkpoint or a name of the zoo, of the same classes
    kind: str = "hard"  # hard: its answer is a label | soft: its probabilities are the target
    weight: float = 0.5  # of the teacher's part of the loss
    temperature: float = 1.0  # soft: both distributions are flattened so

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "soft"):
            raise UserError(
                f"distill.kind is {self.kind!r}; known: hard, soft.{did_you_mean(self.kind, ('hard', 'soft'))}"
            )
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise UserError("distill.weight must be in [0, 1] and distill.temperature above 0.")
        if not self.teacher and (self.kind, self.weight, self.temperature) != ("hard", 0.5, 1.0):
            raise UserError("distillation needs a teacher: say distill.teacher=MODEL.")


@dataclass(frozen=True)
class Recipe:
    """One training job. ``steps`` or ``epochs`` says how long it is."""

    name: str
    title: str  # one line for `vit recipes`
    data: str  # what it trains on, in words
    images: int  # of that, which train
    model: ViTConfig  # at the size it trains at; a run takes the number of classes from its data
    batch_size: int
    optim: OptimConfig
    augment: Augmentation
    preprocess: Preprocess  # of evaluation, and of the released bundle
    objective: str = "softmax"
    epochs: float | None = None
    steps: int | None = None
    mixing: Mixing = field(default_factory=Mixing)
    repeats: int = (
        1  # of each image in a batch, in other views (repeated augmentation); epochs are passes over the data
    )
    precision: str = "auto"  # of training: fp32 | bf16 | auto, the fastest here that a run of its length needs
    activation_checkpointing: bool = False  # keep each block's input only: less memory, a third more arithmetic
    smoothing: float = 0.0
    head_bias: float = 0.0  # that the head starts from
    initialisation: str = "official"  # of random weights: official | small, see `models.initialise`
    evaluations: int = 10  # on the validation part, evenly spread
    seed: int = 0
    distill: Distillation = field(default_factory=Distillation)
    start: str = ""  # weights to go on from; empty: random ones
    needs_start: bool = False  # a fine-tuning job: a run must name its ``start``
    rates: tuple[float, ...] = ()  # learning rates that the source chooses between on held-out data, where it does
    expected: tuple[Expected, ...] = ()
    notes: str = ""  # what the source leaves open, and what was chosen

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UserError(
                f"objective is {self.objective!r}; known: {', '.join(OBJECTIVES)}.{did_you_mean(self.objective, OBJECTIVES)}"
            )
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UserError(
                f"precision is {self.precision!r}; known: {known}.{did_you_mean(self.precision, PRECISIONS)}"
            )
        if self.initialisation not in SCHEMES:
            guess = did_you_mean(self.initialisation, SCHEMES)
            raise UserError(f"initialisation is {self.initialisation!r}; known: {', '.join(SCHEMES)}.{guess}")
        if self.distill.teacher and self.objective != "softmax":
            raise UserError(
                f"recipe {self.name}: distillation is for the objective softmax, and the recipe's is {self.objective}. Leave "
                "distill.teacher out."
            )
        if (self.steps is None) == (self.epochs is None):
            raise UserError(f"recipe {self.name}: say either steps or epochs.")
        for name in ("steps", "epochs", "batch_size", "evaluations", "repeats"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} must be above 0, got {value}.")
        if not 0 <= self.smoothing < 1 or not math.isfinite(self.head_bias):
            raise UserError("smoothing must be in [0, 1) and head_bias a finite number.")
        if self.model.image_size != self.preprocess.image_size:
            raise UserError(
                f"recipe {self.name}: the model's image_size is {self.model.image_size} and that of preprocess "
                f"{self.preprocess.image_size}; say both."
            )


def steps_of(recipe: Recipe, images: int) -> int:
    """Optimiser steps on so many training images; epochs are rounded to whole steps, as the reference does."""
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    return max(1, round(recipe.epochs * images * recipe.repeats / batch_of(recipe, images)))


def batch_of(recipe: Recipe, images: int) -> int:
    """Images per step: the recipe's, or all where there are fewer, rounded down to what repeats divide."""
    size = min(recipe.batch_size, images * recipe.repeats)
    return size - size % recipe.repeats if size < recipe.batch_size else size


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with changes: ``batch_size``, ``optim.lr``, ``model.depth``, ...

    ``image_size`` changes model and preprocessing together; ``steps`` takes the place of ``epochs`` and the reverse.

    Raises:
        UserError: no such setting, the nearest one named, or a value of the wrong kind.
    """
    top: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    known = [*FREE, "image_size", *(f"{part}.{f.name}" for part in PARTS for f in _fields(getattr(recipe, part)))]
    for key, value in changes.items():
        if key not in known:
            raise UserError(f"recipe {recipe.name} has no setting {key!r}.{did_you_mean(key, known)}")
        part, _, name = key.rpartition(".")
        if key == "image_size":
            parts.setdefault("model", {})[key] = parts.setdefault("preprocess", {})[key] = value
        elif part:
            parts.setdefault(part, {})[name] = value
        else:
            top[key] = value
    if "steps" in top and "epochs" in top:
        raise UserError("say either steps or epochs, not both.")
    if "steps" in top:
        top["epochs"] = None
    elif "epochs" in top:
        top["steps"] = None
    records = {
        part: override(getattr(recipe, part), values, f"{recipe.name}: {part}") for part, values in parts.items()
    }
    _check_kinds(recipe, top)
    return dataclasses.replace(recipe, **top, **records)


def _fields(record: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(record)


def _check_kinds(recipe: Recipe, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is None:
            continue
        kinds, wanted = KINDS.get(name, ((int, float), "a number"))
        if not isinstance(value, kinds) or isinstance(value, bool) != (kinds == (bool,)):
            raise UserError(f"recipe {recipe.name}: {name} must be {wanted}, got {value!r}.")


def fitted_optim(optim: OptimConfig, steps: int) -> tuple[OptimConfig, str]:
    """(the optimisation, what to tell) where the recipe's warm-up does not fit into so few steps: a tenth of them instead."""
    if optim.warmup_steps < steps:
        return optim, ""
    note = f"the recipe's warm-up of {optim.warmup_steps} steps does not fit into {steps}: it takes a tenth of them instead"
    return dataclasses.replace(optim, warmup_steps=0, warmup=0.1), note
