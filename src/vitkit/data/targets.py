"""What a sample's classes look like to the rest: strata to split by, arrays to train and score with, counts to show.

A sample of single-label data has a class in ``label``. One of multi-label data has ``label`` -1 and any number in ``labels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["Labelled", "class_counts", "strata", "targets"]


class Labelled(Protocol):
    """Anything with a sample's classes."""

    @property
    def label(self) -> int: ...
    @property
    def labels(self) -> tuple[int, ...]: ...


def strata(samples: Sequence[Labelled]) -> list[int] | list[tuple[int, ...]]:
    """What `stratified_split` and `stratified_folds` take: a class, or in multi-label data all classes, per sample."""
    if samples and samples[0].label < 0:
        return [sample.labels for sample in samples]
    return [sample.label for sample in samples]


def targets(samples: Sequence[Labelled], outputs: int | None = None) -> np.ndarray:
    """Class indices (n,) int64; with ``outputs``, for multi-label data of that many classes, (n, outputs) float32 of 0 and 1."""
    if outputs is None:
        return np.array([sample.label for sample in samples], np.int64)
    hot = np.zeros((len(samples), outputs), np.float32)
    for row, sample in zip(hot, samples, strict=True):
        row[list(sample.labels)] = 1
    return hot


def class_counts(samples: Sequence[Labelled], classes: int) -> list[int]:
    """Images of each class."""
    found = [index for sample in samples for index in (sample.labels if sample.label < 0 else (sample.label,))]
    return np.bincount(np.array(found, np.int64), minlength=classes).tolist()
