"""`vit predict`: classify files, folders and globs to CSV or JSON lines, one row per image in input order."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from vitkit.answers import MULTI, Prediction
from vitkit.bundle import Bundle
from vitkit.config import UserError, did_you_mean
from vitkit.console import Console
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import IMAGE_SUFFIXES, MAX_PIXELS, ImageError
from vitkit.data.sources import TABLE_SUFFIXES, find_images, read_images
from vitkit.engines.opened import open_for_answers
from vitkit.engines.stream import stream as compute

__all__ = ["PredictResult", "expand_paths", "predict"]


@dataclass(frozen=True)
class PredictResult:
    """What was predicted and what was left out."""

    predictions: list[tuple[str, Prediction]]  # empty where a file was written
    written: int
    skipped: list[tuple[str, str]]


def predict(
    model: str | Path | Bundle,
    paths: Sequence[str | Path] | str | Path,
    *,
    out: str | Path | None = None,
    top: int = 1,
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    engine: str = "auto",
    precision: str = "auto",
    overrides: dict[str, Any] | None = None,
    stream: TextIO | None = None,
    console: Console | None = None,
) -> PredictResult:
    """Classify the images of ``paths``.

    Args:
        model: a bundle, a bundle folder or a checkpoint file.
        paths: files, folders (searched to the bottom) and glob patterns; of a CSV, Parquet or tar file its images.
        out: ``.csv`` or ``.jsonl`` file; what could not be read goes to ``<out>.skipped.csv``.
        top: classes per image, by rank; a multi-label model's answer has as many as reach their thresholds.
        strict: fail on the first file that cannot be used, instead of listing it.
        max_pixels: larger images are listed without being decoded.
        engine, precision: what computes, see `vitkit.load`.
        stream: where CSV rows go without ``out``; without either, predictions are returned.

    Raises:
        UserError: no such path or model, an unknown output format, or an output that cannot be written.
    """
    console = console or Console()
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}.")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}.")
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    ignored: Counter[str] = Counter()
    images = expand_paths(given, ignored)
    if out is not None and any(_is_same_file(Path(out), Path(item)) for item in (*given, *(p for p, _ in images))):
        raise UserError(f"{out} is one of the files to predict on; it would be overwritten. Choose another -o.")
    for what, count in ignored.items():
        console.warn(f"left out of the folders: {count} {what}")
    opened = open_for_answers(model, engine, precision, overrides, images=len(images), say=console.say)
    for note in opened.notes:
        console.warn(note)
    facts = opened.engine.facts
    if facts.precision != "fp32":
        console.say(f"engine: {facts.describe()}: answers may differ from those of float32")
    answers = opened.answers
    top = min(top, answers.num_classes)
    columns = _Columns(top, answers.task == MULTI, answers.unknown is not None)
    skipped: list[tuple[str, str]] = []

    def results() -> Iterator[tuple[str, Prediction]]:
        sources = [source for _, source in images]
        outputs = compute(opened.engine, opened.preprocess, sources, workers=workers, max_pixels=max_pixels)
        for (path, _), result in zip(images, console.track(outputs, len(images), "predicting"), strict=True):
            if isinstance(result, ImageError):
                if strict:
                    raise UserError(f"{path}: {result} (--strict)")
                skipped.append((path, str(result)))
                console.warn(f"skipped {path}: {result}")
            else:
                yield path, answers.answer(result, top)

    if out is None and stream is None:
        predictions = list(results())
        return PredictResult(predictions, len(predictions), skipped)
    if out is None:
        assert stream is not None
        written = _write(results(), stream, columns, "csv")
    else:
        written = _write_file(results(), Path(out), columns)
        _list_skipped(Path(out), skipped)
        console.say(f"wrote {out}: {written} predicted, {len(skipped)} skipped; by {facts.describe()}")
    if not written:
        raise UserError(f"none of the {len(skipped)} files can be used, the first: {skipped[0][0]}: {skipped[0][1]}.")
    return PredictResult([], written, skipped)


def _is_same_file(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and a.samefile(b)


def _list_skipped(out: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """Write ``<out>.skipped.csv``, or remove that of an earlier run."""
    if out.exists() and not out.is_file():
        return  # a device or pipe has no file beside it
    beside = Path(f"{out}.skipped.csv")
    if not skipped:
        beside.unlink(missing_ok=True)
        return
    listing = io.StringIO()
    csv.writer(listing, lineterminator="\n").writerows([("path", "reason"), *skipped])
    _guard(beside, lambda file: file.write(listing.getvalue()))


def expand_paths(given: Sequence[str | Path], ignored: Counter[str]) -> list[tuple[str, ImageSource]]:
    """Name and place of each image: files as given, folders and globs as the images in them, in sorted order.

    A CSV, Parquet or tar file stands for its images, in its order. Duplicates stay.

    What folders hold beside images is counted in ``ignored``.

    Raises:
        UserError: a path that does not exist, a pattern or folder without images.
    """
    images: list[tuple[str, ImageSource]] = []
    for item in given:
        path = Path(item)
        if path.is_dir():
            found = find_images(path, ignored)
            if not found:
                raise UserError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES)[:6])}, ...).")
        elif path.exists():
            found = [path]
        elif glob.has_magic(str(item)):
            found = [Path(name) for name in sorted(glob.glob(str(item), recursive=True)) if Path(name).is_file()]
            if not found:
                raise UserError(f"no file matches {str(item)!r}.")
        else:
            near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"no such file: {item}.{did_you_mean(path.name, near)}")
        for file in found:
            images += read_images(file) if file.name.lower().endswith(TABLE_SUFFIXES) else [(str(file), file)]
    if not images:
        raise UserError("no images named; give files, folders or globs.")
    return images


def _write_file(results: Iterator[tuple[str, Prediction]], out: Path, columns: _Columns) -> int:
    kind = out.suffix.lower().removeprefix(".")
    if out.exists() and not out.is_file():
        kind = kind or "csv"  # a device or pipe
    if kind not in ("csv", "jsonl"):
        raise UserError(f"{out}: predictions are written as .csv or .jsonl.")
    return _guard(out, lambda file: _write(results, file, columns, kind))


def _guard(out: Path, write: Callable[[TextIO], int]) -> int:
    """Write through a partial file, so that an older result stays whole until the new one is complete and says something."""
    in_place, result = out.exists() and not out.is_file(), 1
    partial = out if in_place else out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8", newline="", errors="surrogateescape") as file:
            result = write(file)
        if not in_place and result:
            partial.replace(out)
        return result
    except UserError:  # one file was refused (--strict): what others gave is no result
        result = 0
        raise
    except OSError as error:
        kept = f" What was done is in {partial}." if not in_place and os.path.exists(partial) else ""
        raise UserError(
            f"cannot write {out}: {error.strerror or error}. Free space or choose another place.{kept}"
        ) from None
    finally:
        if not in_place and not result:
            partial.unlink(missing_ok=True)


class _Columns(NamedTuple):
    """What a row says beside path, prediction and probability."""

    top: int  # ranked classes
    multilabel: bool  # the prediction is a set of classes
    unknown: bool  # the model can tell images unlike its training images


def _write(results: Iterator[tuple[str, Prediction]], file: TextIO, columns: _Columns, kind: str) -> int:
    count, top = 0, columns.top
    first = 1 if columns.multilabel and top > 1 else 2  # a set of classes is not the first of them
    if kind == "csv":
        writer = csv.writer(file, lineterminator="\n")
        more = [f"{name}_{rank}" for rank in range(first, top + 1) for name in ("prediction", "probability")]
        writer.writerow(["path", "prediction", "probability", *more, *(["unknown"] if columns.unknown else [])])
    for path, prediction in results:
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))
        if kind == "csv":
            ranked = (value for pair in pairs[first - 1 :] for value in pair)
            mark = [str(prediction.unknown).lower()] if columns.unknown else []
            writer.writerow([path, prediction.answer, prediction.probability, *ranked, *mark])
        else:
            line: dict[str, Any] = {
                "path": path, "prediction": prediction.answer, "probability": prediction.probability,
            }  # fmt: skip
            if prediction.labels is not None:
                line["labels"] = list(prediction.labels)
            if columns.unknown:
                line["unknown"] = prediction.unknown
            if top > 1:
                line["top"] = [{"class": name, "probability": p} for name, p in pairs]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        count += 1
        if file is sys.stdout:
            file.flush()
    return count
