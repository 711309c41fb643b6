"""Runs a bundle over labelled or unlabelled images and keeps count: what predict, evaluate and the report share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitkit.answers import Outputs
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.audit import digest
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import MAX_PIXELS, ImageError, Preprocess
from vitkit.data.sources import Sample
from vitkit.engines.book import engine_of
from vitkit.engines.engine import Engine
from vitkit.engines.stream import stream
from vitkit.evals.classify import Scores, wilson
from vitkit.evals.intervals import intervals_of
from vitkit.evals.tasks import AnyScores, Task, make_task
from vitkit.report import Row

__all__ = [
    "SELECTION",
    "Scored",
    "classify_stream",
    "judge",
    "outputs_of",
    "rows",
    "score_samples",
    "seconds_for",
    "seen_label",
    "task_of",
]


TIMED = 64  # images that scoring is timed on
SELECTION = "selection, optimistic"  # figures on data that chose the epoch, the release or the temperature


@dataclass(frozen=True)
class Scored:
    """Results over the samples that could be used."""

    samples: Sequence[Sample]
    logits: np.ndarray  # (n, O) float32
    features: np.ndarray  # (n, D) float32
    probabilities: np.ndarray  # (n, O) float64, calibrated
    unknown: np.ndarray | None  # (n,) bool: unlike the training images; None: the model cannot tell
    skipped: Sequence[tuple[str, str]]
    scores: AnyScores
    targets: np.ndarray  # what the answers should be, see `Task.targets`


def classify_stream(
    bundle: Bundle, sources: Sequence[ImageSource], workers: int, max_pixels: int = MAX_PIXELS
) -> Iterator[Outputs | ImageError]:
    """Yield logits (O,) and features (D,) of each image in input order, or its error."""
    bundle.require_classes()
    engine = engine_of(bundle)
    yield from stream(engine, bundle.require_preprocess(), sources, workers=workers, max_pixels=max_pixels)


def score_samples(
    bundle: Bundle,
    samples: Sequence[Sample],
    console: Console,
    label: str,
    *,
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> Scored:
    """Score labelled samples; files that cannot be used are listed and never replaced.

    Raises:
        UserError: with ``strict``, if any file cannot be used; always, if none can.
    """
    kept, logits, features, skipped = [], [], [], []
    results = classify_stream(bundle, [sample.source for sample in samples], workers, max_pixels)
    for sample, result in zip(samples, console.track(results, len(samples), label), strict=True):
        if isinstance(result, ImageError):
            if strict:
                raise UserError(f"{sample.name}: {result} (--strict)")
            skipped.append((sample.name, str(result)))
        else:
            kept.append(sample)
            logits.append(result.logits)
            features.append(result.features)
    if not kept:
        raise UserError(f"none of the {len(samples)} images can be used; the first: {skipped[0][0]}: {skipped[0][1]}.")
    return judge(bundle, kept, np.stack(logits), np.stack(features), skipped)


def judge(
    bundle: Bundle, kept: Sequence[Sample], logits: np.ndarray, features: np.ndarray, skipped: Sequence[tuple[str, str]]
) -> Scored:
    """Score logits (n, O) and features (n, D) of the samples that could be used, as the bundle answers."""
    probabilities = bundle.probabilities(logits)
    task, detector = task_of(bundle), bundle.unknown
    wanted = task.targets(kept)
    unknown = np.array([detector.is_unknown(row) for row in features]) if detector else None
    scores = task.score(probabilities, wanted, bundle.thresholds)
    return Scored(kept, logits, features, probabilities, unknown, skipped, scores, wanted)


def task_of(bundle: Bundle) -> Task:
    """What the bundle's answers are."""
    return make_task(bundle.task, bundle.config.num_classes)


def outputs_of(
    engine: Engine,
    record: Preprocess,
    samples: Sequence[Sample],
    console: Console,
    label: str,
    *,
    mirror: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Outputs:
    """Logits (n, O) and features (n, D) of an engine over samples that were opened before.

    Raises:
        UserError: a file that could be read before and cannot now.
    """
    results = stream(engine, record, [sample.source for sample in samples], mirror=mirror, max_pixels=max_pixels)
    rows = []
    for sample, result in zip(samples, console.track(results, len(samples), label), strict=True):
        if isinstance(result, ImageError):
            raise UserError(f"{sample.name} could be read before and cannot now: {result}")
        rows.append(result)
    return Outputs(*(np.stack(parts) for parts in zip(*rows, strict=True)))


def seconds_for(
    engine: Engine,
    samples: Sequence[Sample],
    record: Preprocess,
    console: Console,
    max_pixels: int = MAX_PIXELS,
) -> float:
    """What `outputs_of` takes for all samples, from at most `TIMED` of them."""
    if not (few := samples[:TIMED]):
        return 0.0
    began = time.perf_counter()
    outputs_of(engine, record, few, console, "timing", max_pixels=max_pixels)
    return (time.perf_counter() - began) * len(samples) / len(few)


def seen_label(bundle: Bundle, samples: Sequence[Sample]) -> tuple[str, int]:
    """Why a figure is not that of new images, and how many of them are meant: they trained the model or chose something."""
    digests = bundle.training.get("data", {}).get("digests", {})
    here = {digest(sample) for sample in samples} if digests else set()
    for split, label in (("train", "includes training images, optimistic"), ("val", SELECTION)):
        if count := len(here & set(digests.get(split, ()))):
            return label, count
    return "", 0


def rows(scored: Scored, task: str, dataset: str, model: str, label: str) -> list[Row]:
    """Result rows; ``label`` says why a figure is not that of new images, empty where it is."""
    n, values, intervals = scored.scores.n, dict(scored.scores.values), dict(scored.scores.intervals)
    if isinstance(scored.scores, Scores):
        intervals = intervals_of(scored.probabilities, scored.targets, scored.scores)
    if scored.unknown is not None:
        hits = int(scored.unknown.sum())
        values["unknown_rate"], intervals["unknown_rate"] = hits / n, wilson(hits, n)
    found = []
    for metric, value in values.items():
        low, high = intervals.get(metric, (None, None))
        found.append(Row(task, dataset, metric, value, low, high, n, model, label=label))
    return found
