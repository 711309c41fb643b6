"""The linear probe on frozen features, and whether mirrored images keep their class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitkit.audits.labels import Suspects, find_among
from vitkit.bundle import Bundle
from vitkit.console import Console, duration, percent
from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Sample
from vitkit.data.subsets import stratified_split
from vitkit.data.targets import strata
from vitkit.engines.eager import EagerEngine
from vitkit.evals.linear import Probe, fit_probe
from vitkit.evals.scoring import SELECTION, outputs_of
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.balance import Balance
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.mirror import Mirrored, mirror_pixels

__all__ = ["Probed", "run_probe"]

MAX_PROBE_IMAGES = 5_000  # the probe is to take seconds, not the time of an epoch


@dataclass(frozen=True)
class Probed:
    """The linear probe and what it showed."""

    probe: Probe
    suspects: Suspects  # labels of training images that features contradict
    images: int
    val_accuracy: float  # in multi-label data the mAP
    mirrored_accuracy: float
    mirror: Mirrored | None  # what the pixels say of mirrored images; None in multi-label data
    seconds_per_image: float  # of inference here


def run_probe(
    backbone: Bundle, record: Preprocess, data: TaskData, balance: Balance, arguments: Arguments, console: Console
) -> Probed:
    splits, task = data.splits, data.task
    began = time.perf_counter()
    engine = EagerEngine(backbone.model, group=16)
    training = list(splits.train)
    if len(training) > MAX_PROBE_IMAGES:
        _, part = stratified_split(strata(training), MAX_PROBE_IMAGES / len(training), arguments.seed)
        training = [training[i] for i in part]
    limit = arguments.max_pixels

    def features(samples: Sequence[Sample], label: str, *, mirror: bool = False) -> Tensor:
        found = outputs_of(engine, record, samples, console, f"probe: {label}", mirror=mirror, max_pixels=limit)
        return torch.from_numpy(found.features)

    x = features(training, "training features")
    x_val = features(splits.val, "validation features")
    mirrored = features(splits.val, "mirrored", mirror=True)
    featured = time.perf_counter() - began
    classes = len(data.source.classes)
    probe = fit_probe(x, torch.from_numpy(task.targets(training)), classes, arguments.seed)
    if balance.weights is not None:
        probe = probe.weighted(balance.weights)
    wanted = task.targets(splits.val)
    accuracy, flipped = (task.score_logits(probe.logits(f), wanted).values[task.headline] for f in (x_val, mirrored))
    console.say(
        f"probe     linear probe on frozen features: validation {task.shown} {percent(accuracy)} ({SELECTION}), "
        f"cross-validated on {len(training)} training images {percent(probe.cv_accuracy)} "
        f"({duration(time.perf_counter() - began)})"
    )
    suspects = find_among(data.survey, training, x, f"features of {backbone.source}")
    for finding in suspects.findings:
        console.say(f"labels    {finding.message}")
    mirror = None if data.source.multilabel else mirror_pixels(training, splits.val, classes, record, limit)
    return Probed(
        probe, suspects, len(training), accuracy, flipped, mirror, featured / (len(training) + 2 * len(splits.val))
    )
