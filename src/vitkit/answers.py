"""What a model's outputs say: calibrated probabilities, classes by name, sets of classes. numpy only, so that it answers
without torch where an engine needs none.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitkit.unknown import Unknown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MULTI", "SEPARATOR", "SINGLE", "Answers", "Outputs", "Prediction", "calibrated"]

Array = np.ndarray[Any, Any]
SINGLE, MULTI = "single-label", "multi-label"  # tasks: each image has one class, or any number of them
SEPARATOR = "|"  # between the classes of one image, in files


class Outputs(NamedTuple):
    """What an engine gives for images: one row each, float32."""

    logits: Array  # (B, O); the features where the model has no head
    features: Array  # (B, D), the representation that the head reads


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first. Classes without names are called by their index."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    unknown: bool | None = None  # unlike the training images; None: the model cannot tell
    labels: tuple[str, ...] | None = (
        None  # multi-label: all classes that reach their threshold, in the order of classes
    )
    least: float | None = None  # the lowest probability among ``labels``; None where there are none

    @property
    def answer(self) -> str:
        """The class; in a multi-label prediction all of ``labels`` joined by ``|``, empty where there are none."""
        return self.classes[0] if self.labels is None else SEPARATOR.join(self.labels)

    @property
    def probability(self) -> float:
        """Of the answer; in a multi-label prediction of its least probable class, or the highest of all where it is empty."""
        return self.probabilities[0] if self.least is None else self.least


@dataclass(frozen=True)
class Answers:
    """What turns a model's outputs into answers."""

    num_classes: int
    classes: tuple[str, ...] | None = None
    temperature: float = 1.0  # logits are divided by it before the softmax or sigmoid
    task: str = SINGLE
    thresholds: tuple[float, ...] | None = None  # multi-label: of each class; None until they were chosen
    unknown: Unknown | None = None

    def probabilities(self, logits: Array | Tensor) -> Array:
        """Calibrated probabilities (B, O) of logits (B, O), in float64 so that they print alike everywhere."""
        return calibrated(logits, self.temperature, self.task)

    @property
    def cuts(self) -> tuple[float, ...]:
        """The threshold of each class of a multi-label model: 0.5 where none was chosen."""
        return self.thresholds or (0.5,) * self.num_classes

    def class_name(self, index: int) -> str:
        """The name of a class, its index where classes have no names."""
        return self.classes[index] if self.classes else str(index)

    def top(self, probabilities: Array | Tensor, top: int) -> Prediction:
        """The ``top`` most probable classes of one image, probabilities (O,); the lower index wins a tie.

        A multi-label model also says which classes reach their threshold, however many they are.
        """
        row = np.asarray(probabilities)
        keep = np.argsort(-row, kind="stable")[: max(1, top)].tolist()
        best = tuple(self.class_name(i) for i in keep), tuple(row[keep].tolist())
        if self.task != MULTI:
            return Prediction(*best)
        found = [(i, p) for i, p in enumerate(row.tolist()) if p >= self.cuts[i]]
        names = tuple(self.class_name(i) for i, _ in found)
        return Prediction(*best, labels=names, least=min((p for _, p in found), default=None))

    def answer(self, outputs: Outputs, top: int) -> Prediction:
        """The prediction for one image, from its logits (O,) and features (D,)."""
        found = self.top(self.probabilities(outputs.logits[None])[0], top)
        if self.unknown is None:
            return found
        return dataclasses.replace(found, unknown=self.unknown.is_unknown(outputs.features))


def calibrated(logits: Array | Tensor, temperature: float, task: str) -> Array:
    """Probabilities (B, O) in float64 of logits (B, O): softmax over the classes, or a sigmoid of each.

    Row by row: how vectors share out a larger array may change its last digits, and an image's probabilities are to be the same
    whatever is beside it.
    """
    scaled = np.asarray(logits).astype(np.float64) / temperature
    result = np.empty_like(scaled)
    for row, out in zip(scaled, result, strict=True):
        if task == MULTI:
            small = np.exp(-np.abs(row))  # never overflows
            out[:] = np.where(row >= 0, 1.0, small) / (1.0 + small)
        else:
            raised = np.exp(row - row.max())
            out[:] = raised / raised.sum()
    return result
