"""`vit predict`: classify any number of images to CSV, JSON lines or Parquet, one row per image in input order."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vitkit.answers import Prediction
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.pixels import MAX_PIXELS
from vitkit.parallel.launch import launched_rank
from vitkit.predicting.listing import Listing
from vitkit.predicting.parts import Parts
from vitkit.predicting.ranks import Ranks, ranks
from vitkit.predicting.request import Request, kind_of, list_images, open_model
from vitkit.predicting.resuming import predict_in_parts
from vitkit.predicting.whole import write_whole
from vitkit.predicting.working import make_work
from vitkit.predicting.writers import Row, write_text

__all__ = ["PredictResult", "predict"]

Array = np.ndarray[Any, Any]
FEW = 200  # images that are computed again after a stop, and written without parts
TOLD = 10_000  # skipped images that a result holds


@dataclass(frozen=True)
class PredictResult:
    """What was predicted and what was left out."""

    predictions: list[tuple[str, Prediction]]  # empty where a file was written
    written: int
    skipped: list[tuple[str, str]]  # name and reason, of 10,000 at most; `<out>.skipped.csv` has all
    features: Array | None = None  # (n, D) float32 of ``predictions``, where they were asked for
    num_skipped: int = 0


def predict(
    model: str | Path | Bundle,
    paths: Sequence[str | Path] | str | Path,
    *,
    out: str | Path | None = None,
    top: int = 1,
    features: bool = False,
    strict: bool = False,
    restart: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    engine: str = "auto",
    precision: str = "auto",
    overrides: dict[str, Any] | None = None,
    stream: TextIO | None = None,
    console: Console | None = None,
) -> PredictResult:
    """Classify the images of ``paths``. Under torchrun ranks share them, and write one file.

    Many images are written in parts beside ``out``, which are joined at the end: a call that was stopped goes on when it is
    repeated.

    Args:
        model: a bundle, a bundle folder or a checkpoint file.
        paths: files, folders (searched to the bottom), glob patterns and addresses; of a CSV, Parquet, tar or zip file, and of a
            text file with a path in each line, its images.
        out: ``.csv``, ``.jsonl`` or ``.parquet`` file; what could not be read goes to ``<out>.skipped.csv``.
        top: classes per image, by rank; a multi-label model's answer has as many as reach their thresholds.
        features: also give what the model's head reads: a column of ``.parquet`` and ``.jsonl`` files, or `PredictResult.features`.
        strict: fail on the first file that cannot be used, instead of listing it.
        restart: begin anew where a stopped call could be gone on with.
        workers: threads that decode images; never changes the result.
        max_pixels: larger images are listed without being decoded.
        engine, precision: what computes, see `vitkit.load`.
        stream: where CSV rows go without ``out``; without either, predictions are returned.

    Raises:
        UserError: no such path or model, an unknown output format, an output that cannot be written, or a stopped call that was
            another one.
    """
    console = console or Console()
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}.")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}.")
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    place = None if out is None else Path(out)
    kind = kind_of(place, features, returned=stream is None)
    request = Request(
        model, given, place, kind, top, features, strict, restart, workers, max_pixels, engine, precision, overrides or {}
    )  # fmt: skip
    if launched_rank():  # ranks after the first one only speak up when something is wrong
        console = Console(out=open(os.devnull, "w"), err=open(os.devnull, "w"))  # noqa: SIM115, until the process ends
    with ranks(Console().warn) as world:
        world.work("listing the images")
        with list_images(request, console) as listing:
            if place is not None and not request.in_place:
                parts = Parts(place, kind)
                if listing.count > FEW or world.size > 1 or parts.folder.exists():
                    return _predict_in_parts(request, parts, listing, world, console)
            if world.size > 1:
                raise UserError(f"under torchrun predictions go to a file that all ranks can reach; -o names {out}.")
            return _predict_at_once(request, listing, stream, console)


def _predict_in_parts(
    request: Request, parts: Parts, listing: Listing, world: Ranks, console: Console
) -> PredictResult:
    inside = f", those of {listing.containers:,} tables or archives among them" if listing.containers else ""
    console.say(f"found {listing.count:,} images{inside}")
    try:
        done = predict_in_parts(request, parts, listing, world, console)
    finally:
        parts.release()
    console.say(f"wrote {parts.out}: {done.written:,} predicted, {done.skipped:,} skipped")
    _require_some(done.written, done.skipped, done.first)
    skipped = _read_skipped(parts.out, done.skipped) if world.main else []
    return PredictResult([], done.written, skipped, num_skipped=done.skipped)


def _predict_at_once(request: Request, listing: Listing, stream: TextIO | None, console: Console) -> PredictResult:
    """Without parts: a few images, or what is returned or goes to a pipe."""
    opened = open_model(request, listing.count, (request.engine, request.precision), console)
    work = make_work(request, opened, console)
    skipped: list[tuple[str, str]] = []

    def rows() -> Iterator[Row]:
        for row in work.rows(listing, [(0, listing.count)], "predicting"):
            if isinstance(row, Row):
                yield row
            else:
                skipped.append(row)

    if request.out is not None:
        written = write_whole(rows(), request.out, work.columns, request.kind, skipped)
        told = f"wrote {request.out}: {written} predicted, {len(skipped)} skipped"
        console.say(f"{told}; by {opened.engine.facts.describe()}")
    elif stream is not None:
        written = write_text(rows(), stream, work.columns, request.kind)
    else:
        found = list(rows())
        vectors = [row.features for row in found if row.features is not None]
        features = np.stack(vectors) if vectors else np.empty((0, work.columns.features), np.float32)
        predictions = [(row.path, row.prediction) for row in found]
        return PredictResult(predictions, len(found), skipped, features if request.features else None, len(skipped))
    _require_some(written, len(skipped), skipped[0] if skipped else ("", ""))
    return PredictResult([], written, skipped, num_skipped=len(skipped))


def _require_some(written: int, skipped: int, first: tuple[str, str]) -> None:
    if not written:
        raise UserError(f"none of the {skipped} files can be used, the first: {first[0]}: {first[1]}.")


def _read_skipped(out: Path, count: int) -> list[tuple[str, str]]:
    """The first ones of the list beside an output."""
    if not count:
        return []
    with open(f"{out}.skipped.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(row[0], row[1]) for row in islice(csv.reader(file), 1, 1 + TOLD)]
