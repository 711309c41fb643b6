"""What an error of each class costs: equal by default where classes are of like size, inverse to their size where not."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitkit.config import UserError, did_you_mean, read_json
from vitkit.console import Console
from vitkit.data.targets import class_counts
from vitkit.finetuning.data import TaskData

__all__ = ["Balance", "choose_balance"]

MOST_RATIO = 10_000  # of costs; more than that is a mistake, and no longer a number that training can follow
SKEWED = 1.5  # largest class over smallest, from which `auto` weights


@dataclass(frozen=True)
class Balance:
    """The cost of an error of each class, of mean 1 over the classes; None: all alike."""

    weights: tuple[float, ...] | None
    reason: str

    def metric(self, select_by: str) -> str:
        """What a run is to select by: what the loss is made to optimise, where nothing else is asked for."""
        if select_by != "auto":
            return select_by
        return "auto" if self.weights is None else "balanced_accuracy"


def choose_balance(balance: str, data: TaskData, console: Console) -> Balance:
    """Decide the class weights.

    Args:
        balance: ``auto``, ``none``, or a JSON or CSV file of class and weight.
        data: the images that train, and their classes.

    Raises:
        UserError: a file that cannot be read, an unknown or missing class, a weight that is not above 0.
    """
    classes = data.source.classes
    if data.source.multilabel:
        if balance not in ("auto", "none"):
            raise UserError(
                "--balance FILE is for one class per image; in multi-label data each class has its own threshold."
            )
        return Balance(None, "not used: in multi-label data each class has its own threshold")
    counts = np.array(class_counts(data.splits.train, len(classes)))
    ratio = counts.max() / max(1, counts.min())
    if balance == "none":
        chosen = Balance(None, f"none, as asked for (the largest class has {ratio:.1f} times the smallest)")
    elif balance != "auto":
        chosen = Balance(_normalised(_read_weights(Path(balance), classes)), f"class weights of {Path(balance).name}")
    elif ratio < SKEWED:
        chosen = Balance(None, f"not needed: the largest class has {ratio:.1f} times the images of the smallest")
    else:
        reason = (
            f"the largest class has {ratio:.1f} times the images of the smallest: errors are weighted inversely to class "
            "size, so that rare classes count as much as frequent ones (--balance none to turn it off)"
        )
        chosen = Balance(_normalised(1 / np.maximum(counts, 1)), reason)
    console.say(f"balance   {chosen.reason}")
    return chosen


def _normalised(weights: np.ndarray) -> tuple[float, ...]:
    return tuple(float(w) for w in weights / weights.mean())


def _read_weights(path: Path, classes: Sequence[str]) -> np.ndarray:
    found = _read_csv(path) if path.suffix.lower() in (".csv", ".tsv") else _read_object(path)
    for name in found:
        if name not in classes:
            raise UserError(f"{path} weighs a class {name!r} that the data does not have.{did_you_mean(name, classes)}")
    missing = [name for name in classes if name not in found]
    if missing:
        raise UserError(f"{path} has no weight for {', '.join(map(repr, missing[:8]))}; expected one for each class.")
    for name, weight in found.items():
        if not 0 < weight < math.inf:
            raise UserError(f"{path}: the weight of {name!r} is {weight:g}; expected a number above 0.")
    weights = np.array([found[name] for name in classes], dtype=float)
    if weights.max() > MOST_RATIO * weights.min():
        raise UserError(
            f"{path}: weights from {weights.min():g} to {weights.max():g}; expected the largest to be at most {MOST_RATIO:,} "
            "times the smallest."
        )
    return weights


def _read_object(path: Path) -> Mapping[str, float]:
    values = read_json(path)
    pairs = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"), object_pairs_hook=list)
    names = [pair[0] for pair in pairs] if isinstance(values, dict) else []
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: class {twice!r} has a weight already. Keep one.")
    if not isinstance(values, dict):
        raise UserError(f'{path} must hold one JSON object such as {{"cat": 1.0, "dog": 2.5}}, or be a .csv file.')
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{path}: the weight of {name!r} is {value!r}; expected a number above 0.")
    return values


def _read_csv(path: Path) -> Mapping[str, float]:
    """Two columns, class and weight; a first line that is no class and number is a heading."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}.") from None
    found: dict[str, float] = {}
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=separator), start=1):
        if not row:
            continue
        try:
            name, weight = row[0].strip(), float(row[1])
        except (IndexError, ValueError):
            if number == 1 and len(row) == 2:
                continue
            raise UserError(f"{path} line {number}: expected a class and its weight, got {','.join(row)!r}.") from None
        if name in found:
            raise UserError(f"{path} line {number}: class {name!r} has a weight already.")
        found[name] = weight
    return found
