"""Choosing part of a set: stratified splits and folds, a function of the labels and a seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from vitkit.config import UserError
from vitkit.data.sources import Sample
from vitkit.data.stratify import iterative_folds, iterative_split
from vitkit.data.targets import class_counts, strata

__all__ = ["Splits", "check_classes", "make_splits", "stratified_folds", "stratified_split"]

Strata = Sequence[int] | Sequence[tuple[int, ...]]  # a class of each example, or in multi-label data all its classes


@dataclass(frozen=True)
class Splits:
    """What trains, what chooses, and what is scored once at the end."""

    train: Sequence[Sample]
    val: Sequence[Sample]
    test: Sequence[Sample] | None
    rule: str  # how the validation part came to be, for the reader


def stratified_folds(labels: Strata, folds: int, seed: int) -> np.ndarray:
    """Return the fold (0 .. folds-1) of each example; every class is spread as evenly as its count allows."""
    if (sets := _sets(labels)) is not None:
        return iterative_folds(sets, folds, seed)
    labels_ = np.asarray(labels)
    rng = np.random.default_rng([seed, folds])
    fold = np.empty(len(labels_), dtype=np.int64)
    start = 0  # classes go on where the last one ended, so that folds are of equal size
    for label in np.unique(labels_):
        members = rng.permutation(np.flatnonzero(labels_ == label))
        fold[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    return fold


def stratified_split(labels: Strata, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split indices into (kept, held out): ``fraction`` of each class is held out, at least one and never all of it.

    In multi-label data, where one image serves several classes, the numbers are met as nearly as `iterative_split` can.
    """
    if (sets := _sets(labels)) is not None:
        return iterative_split(sets, fraction, seed)
    labels_ = np.asarray(labels)
    rng = np.random.default_rng([seed, 0])
    held: list[int] = []
    for label in np.unique(labels_):
        members = rng.permutation(np.flatnonzero(labels_ == label))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.extend(members[:count].tolist())
    chosen = set(held)
    return [i for i in range(len(labels_)) if i not in chosen], sorted(held)


def _sets(labels: Strata) -> Sequence[tuple[int, ...]] | None:
    """The labels if they are sets of classes, None if each is one class."""
    return cast("Sequence[tuple[int, ...]]", labels) if len(labels) and isinstance(labels[0], tuple) else None


def check_classes(samples: Sequence[Sample], classes: Sequence[str], split: str, least: int) -> None:
    """Every class needs at least ``least`` images in ``split``.

    Raises:
        UserError: a single class (fine in multi-label data: it is there or not), or a class with too few images.
    """
    multilabel = bool(samples) and samples[0].label < 0
    if len(classes) < 2 and not multilabel:
        raise UserError(f"the data has one class, {classes[0]!r}; telling classes apart needs images of at least two.")
    counts = class_counts(samples, len(classes))
    for label, name in enumerate(classes):
        if counts[label] < least:
            has = "no usable image" if not counts[label] else f"only {counts[label]} usable image"
            raise UserError(
                f"class {name!r} has {has} in the {split} split; expected at least {least}: "
                "one to train on and one to validate with. Add images or remove the class."
                if least > 1
                else f"class {name!r} has {has} in the {split} split; expected at least one. Add images or remove the class."
            )


def make_splits(
    splits: Mapping[str, Sequence[Sample]], classes: Sequence[str], fraction: float, most: int, seed: int
) -> Splits:
    """Take the splits that are there; hold out a stratified validation part where there is none.

    Args:
        splits: usable samples under ``train`` or ``all``, and where they exist ``val`` and ``test``.
        classes: class names.
        fraction: part of each class to hold out.
        most: images to hold out at the most.
        seed: of the draw.

    Raises:
        UserError: see `check_classes`.
    """
    training = splits["train"] if "train" in splits else splits["all"]
    where = "train" if "train" in splits else "data"
    test = splits.get("test")
    if "val" in splits:
        check_classes(training, classes, where, 1)
        return Splits(training, splits["val"], test, "validation split as given")
    check_classes(training, classes, where, 2)
    fraction = min(fraction, most / len(training))
    kept, held = stratified_split(strata(training), fraction, seed)
    rule = f"{len(held)} of {len(training)} held out for validation, stratified, seed {seed} (stored in split.json)"
    return Splits([training[i] for i in kept], [training[i] for i in held], test, rule)
