"""The linear probe on frozen features, and whether mirrored images keep their class."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from vitkit.bundle import Bundle
from vitkit.console import Console, duration, percent
from vitkit.data.pixels import Preprocess
from vitkit.data.subsets import Splits, stratified_split
from vitkit.engines.eager import EagerEngine
from vitkit.evals.linear import Probe, fit_probe
from vitkit.evals.scoring import SELECTION, features_of
from vitkit.finetuning.arguments import Arguments

__all__ = ["Probed", "run_probe"]

MAX_PROBE_IMAGES = 5_000  # the probe is to take seconds, not the time of an epoch


@dataclass(frozen=True)
class Probed:
    """The linear probe and what it showed."""

    probe: Probe
    images: int
    val_accuracy: float
    mirrored_accuracy: float
    seconds_per_image: float  # of inference here


def run_probe(backbone: Bundle, record: Preprocess, splits: Splits, arguments: Arguments, console: Console) -> Probed:
    began = time.perf_counter()
    engine = EagerEngine(backbone.model, features=True, group=16)
    training = list(splits.train)
    if len(training) > MAX_PROBE_IMAGES:
        labels = [sample.label for sample in training]
        _, part = stratified_split(labels, MAX_PROBE_IMAGES / len(training), arguments.seed)
        training = [training[i] for i in part]
    limit = arguments.max_pixels
    x = features_of(engine, record, training, console, "probe: training features", max_pixels=limit)
    x_val = features_of(engine, record, splits.val, console, "probe: validation features", max_pixels=limit)
    mirrored = features_of(engine, record, splits.val, console, "probe: mirrored", mirror=True, max_pixels=limit)
    featured = time.perf_counter() - began
    classes = 1 + max(sample.label for sample in splits.train)
    probe = fit_probe(x, torch.tensor([sample.label for sample in training]), classes, arguments.seed)
    labels_val = torch.tensor([sample.label for sample in splits.val])
    accuracy, flipped = (float((probe.logits(f).argmax(1) == labels_val).double().mean()) for f in (x_val, mirrored))
    console.say(
        f"probe     linear probe on frozen features: validation top-1 {percent(accuracy)} ({SELECTION}), "
        f"cross-validated on {len(training)} training images {percent(probe.cv_accuracy)} "
        f"({duration(time.perf_counter() - began)})"
    )
    return Probed(probe, len(training), accuracy, flipped, featured / (len(training) + 2 * len(splits.val)))
