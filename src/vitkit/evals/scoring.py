"""Runs a bundle over labelled or unlabelled images and keeps count: what predict, evaluate and the report share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import MAX_PIXELS, ImageError, Preprocess
from vitkit.data.sources import Sample
from vitkit.engines.eager import EagerEngine, stream
from vitkit.evals.classify import Scores, score
from vitkit.report import Row

__all__ = ["SELECTION", "Scored", "classify_stream", "features_of", "rows", "score_samples"]


SELECTION = "selection, optimistic"  # figures on data that chose the epoch, the release or the temperature


@dataclass(frozen=True)
class Scored:
    """Results over the samples that could be used."""

    samples: Sequence[Sample]
    logits: np.ndarray  # (n, O) float32
    probabilities: np.ndarray  # (n, O) float64, calibrated
    skipped: Sequence[tuple[str, str]]
    scores: Scores


def classify_stream(
    bundle: Bundle, sources: Sequence[ImageSource], workers: int, max_pixels: int = MAX_PIXELS
) -> Iterator[np.ndarray | ImageError]:
    """Yield logits (O,) of each image in input order, or its error."""
    if bundle.config.num_classes == 0:
        raise UserError("this model has no head: it gives features, not classes. Fine-tune it first.")
    engine = bundle.run if isinstance(bundle.run, EagerEngine) else EagerEngine(bundle.model)
    for result in stream(engine, bundle.require_preprocess(), sources, workers=workers, max_pixels=max_pixels):
        yield result if isinstance(result, ImageError) else result.numpy()


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
    kept, logits, skipped = [], [], []
    results = classify_stream(bundle, [sample.source for sample in samples], workers, max_pixels)
    for sample, result in zip(samples, console.track(results, len(samples), label), strict=True):
        if isinstance(result, ImageError):
            if strict:
                raise UserError(f"{sample.name}: {result} (--strict)")
            skipped.append((sample.name, str(result)))
        else:
            kept.append(sample)
            logits.append(result)
    if not kept:
        raise UserError(f"none of the {len(samples)} images can be used; the first: {skipped[0][0]}: {skipped[0][1]}.")
    stacked = np.stack(logits)
    probabilities = bundle.probabilities(torch.from_numpy(stacked)).numpy()
    labels = np.array([sample.label for sample in kept])
    return Scored(kept, stacked, probabilities, skipped, score(probabilities, labels))


def features_of(
    engine: EagerEngine,
    record: Preprocess,
    samples: Sequence[Sample],
    console: Console,
    label: str,
    *,
    mirror: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Results (n, O) of an engine over samples that were opened before.

    Raises:
        UserError: a file that could be read before and cannot now.
    """
    results = stream(engine, record, [sample.source for sample in samples], mirror=mirror, max_pixels=max_pixels)
    rows = []
    for sample, result in zip(samples, console.track(results, len(samples), label), strict=True):
        if isinstance(result, ImageError):
            raise UserError(f"{sample.name} could be read before and cannot now: {result}")
        rows.append(result)
    return torch.stack(rows)


def rows(scored: Scored, task: str, dataset: str, model: str, label: str) -> list[Row]:
    """Result rows; ``label`` says why a figure is not that of new images, empty where it is."""
    interval = scored.scores.top1_interval
    return [
        Row(
            task=task,
            dataset=dataset,
            metric=metric,
            value=value,
            low=interval[0] if metric == "top1" else None,
            high=interval[1] if metric == "top1" else None,
            n=scored.scores.n,
            model=model,
            label=label,
        )
        for metric, value in scored.scores.values.items()
    ]
