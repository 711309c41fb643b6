"""What differs between one class per image and any number of them: targets, loss, scores, calibration, in one place each.

The rest of a run asks its `Task` and holds no ``if`` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vitkit.answers import MULTI, SINGLE, calibrated
from vitkit.config import UserError
from vitkit.data.sources import Sample
from vitkit.data.targets import targets
from vitkit.evals import classify, multilabel
from vitkit.evals.calibration import fit_bias_and_temperature, fit_multilabel_temperature
from vitkit.evals.classify import Scores, score
from vitkit.evals.multilabel import MultiScores, choose_thresholds, score_multilabel
from vitkit.objectives.classify import Classify
from vitkit.objectives.multilabel import MultiLabel, frequency_bias
from vitkit.train import Objective

__all__ = ["AnyScores", "Calibration", "MultiLabelTask", "SingleLabelTask", "Task", "check_metric", "make_task"]

AnyScores = Scores | MultiScores
Array = np.ndarray


class Calibration(NamedTuple):
    """What makes a model's answers honest, chosen on validation images."""

    shift: Array  # (O,) added to the logits, zeros for none; a run folds it into the head
    temperature: float
    thresholds: tuple[float, ...] | None  # of the classes of a multi-label model


class Task(Protocol):
    """What an answer is, and what makes one good."""

    @property
    def name(self) -> str: ...  # as the bundle stores it
    @property
    def headline(self) -> str: ...  # the metric that a run is known by, and selects by unless told otherwise
    @property
    def shown(self) -> str: ...  # its name for people
    @property
    def metrics(self) -> tuple[str, ...]: ...  # what a run can select by
    @property
    def outputs(self) -> int | None: ...  # of `targets`: None for (n,), else the O of (n, O)

    def targets(self, samples: Sequence[Sample]) -> Array:
        """What the samples' answers should be, (n,) int64 or (n, O) float32."""
        ...

    def objective(self, smoothing: float, class_weights: tuple[float, ...] | None = None) -> Objective:
        """What training minimises; the costs of errors are for single-label data."""
        ...

    def head_bias(self, wanted: Array) -> Tensor | None:
        """The bias (O,) that a new head starts from, None for zeros."""
        ...

    def score(self, probabilities: Array, wanted: Array, thresholds: multilabel.Cuts | None = None) -> AnyScores:
        """Score probabilities (n, O)."""
        ...

    def score_logits(self, logits: Array | Tensor, wanted: Array) -> AnyScores:
        """Score logits (n, O) of a model that is not calibrated yet."""
        ...

    def calibrate(self, logits: Array, wanted: Array, class_weights: tuple[float, ...] | None = None) -> Calibration:
        """What to do to the answers of a model whose validation logits these are."""
        ...


@dataclass(frozen=True)
class SingleLabelTask:
    """Each image has exactly one class."""

    name: str = SINGLE
    headline: str = "top1"
    shown: str = "top-1"
    metrics: tuple[str, ...] = classify.METRICS
    outputs: int | None = None

    def targets(self, samples: Sequence[Sample]) -> Array:
        return targets(samples)

    def objective(self, smoothing: float, class_weights: tuple[float, ...] | None = None) -> Objective:
        return Classify(smoothing, class_weights)

    def head_bias(self, wanted: Array) -> Tensor | None:  # noqa: ARG002 - part of the protocol
        return None

    def score(self, probabilities: Array, wanted: Array, thresholds: multilabel.Cuts | None = None) -> Scores:  # noqa: ARG002
        return score(probabilities, wanted)

    def score_logits(self, logits: Array | Tensor, wanted: Array) -> Scores:
        return score(calibrated(logits, 1.0, SINGLE), wanted)

    def calibrate(self, logits: Array, wanted: Array, class_weights: tuple[float, ...] | None = None) -> Calibration:
        return Calibration(*fit_bias_and_temperature(logits, wanted, class_weights), None)


@dataclass(frozen=True)
class MultiLabelTask:
    """Each image has any number of ``outputs`` classes."""

    outputs: int | None
    name: str = MULTI
    headline: str = "map"
    shown: str = "mAP"
    metrics: tuple[str, ...] = multilabel.METRICS

    def targets(self, samples: Sequence[Sample]) -> Array:
        return targets(samples, self.outputs)

    def objective(self, smoothing: float, class_weights: tuple[float, ...] | None = None) -> Objective:
        assert class_weights is None
        return MultiLabel(smoothing)

    def head_bias(self, wanted: Array) -> Tensor | None:
        return frequency_bias(torch.from_numpy(wanted))

    def score(self, probabilities: Array, wanted: Array, thresholds: multilabel.Cuts | None = None) -> MultiScores:
        return score_multilabel(probabilities, wanted, thresholds)

    def score_logits(self, logits: Array | Tensor, wanted: Array) -> MultiScores:
        return score_multilabel(calibrated(logits, 1.0, MULTI), wanted)

    def calibrate(self, logits: Array, wanted: Array, class_weights: tuple[float, ...] | None = None) -> Calibration:
        assert class_weights is None
        temperature = fit_multilabel_temperature(logits, wanted)
        probabilities = calibrated(logits, temperature, MULTI)
        return Calibration(np.zeros(logits.shape[1]), temperature, choose_thresholds(probabilities, wanted > 0.5))


def make_task(name: str, classes: int) -> Task:
    """The task of a bundle or of data: `SINGLE` or `MULTI`."""
    return MultiLabelTask(classes) if name == MULTI else SingleLabelTask()


def check_metric(task: Task, metric: str) -> str:
    """The metric to select by: ``auto`` is the task's headline.

    Raises:
        UserError: a metric of the other task.
    """
    if metric == "auto":
        return task.headline
    if metric not in task.metrics:
        raise UserError(
            f"--select-by {metric} does not fit this data, which is {task.name}; it can be selected by "
            f"{', '.join(task.metrics)}."
        )
    return metric
