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
from typing import Any, TextIO

from vitkit.bundle import Bundle, Prediction
from vitkit.config import UserError, did_you_mean
from vitkit.console import Console
from vitkit.data.pixels import IMAGE_SUFFIXES, MAX_PIXELS, ImageError
from vitkit.data.sources import find_images
from vitkit.evals.scoring import classify_stream
from vitkit.jobs.load import load

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
    overrides: dict[str, Any] | None = None,
    stream: TextIO | None = None,
    console: Console | None = None,
) -> PredictResult:
    """Classify the images of ``paths``.

    Args:
        model: a bundle, a bundle folder or a checkpoint file.
        paths: files, folders (searched to the bottom) and glob patterns.
        out: ``.csv`` or ``.jsonl`` file; what could not be read goes to ``<out>.skipped.csv``.
        top: classes per image.
        strict: fail on the first file that cannot be used, instead of listing it.
        max_pixels: larger images are listed without being decoded.
        stream: where CSV rows go without ``out``; without either, predictions are returned.

    Raises:
        UserError: no such path or model, an unknown output format, or an output that cannot be written.
    """
    import torch

    console = console or Console()
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}.")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}.")
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    ignored: Counter[str] = Counter()
    images = expand_paths(given, ignored)
    for what, count in ignored.items():
        console.warn(f"left out of the folders: {count} {what}")
    bundle = model if isinstance(model, Bundle) else load(model, **(overrides or {}))
    for note in bundle.notes:
        console.warn(note)
    top = min(top, bundle.config.num_classes or 1)
    skipped: list[tuple[str, str]] = []

    def results() -> Iterator[tuple[str, Prediction]]:
        logits = classify_stream(bundle, images, workers, max_pixels)
        for path, result in zip(images, console.track(logits, len(images), "predicting"), strict=True):
            if isinstance(result, ImageError):
                if strict:
                    raise UserError(f"{path}: {result} (--strict)")
                skipped.append((str(path), str(result)))
                console.warn(f"skipped {path}: {result}")
            else:
                yield str(path), bundle.top(bundle.probabilities(torch.from_numpy(result)[None])[0], top)

    if out is None and stream is None:
        predictions = list(results())
        return PredictResult(predictions, len(predictions), skipped)
    if out is None:
        assert stream is not None
        written = _write(results(), stream, top, "csv")
    else:
        written = _write_file(results(), Path(out), top)
        _list_skipped(Path(out), skipped)
        console.say(f"wrote {out}: {written} predicted, {len(skipped)} skipped")
    if not written:
        raise UserError(f"none of the {len(skipped)} files can be used, the first: {skipped[0][0]}: {skipped[0][1]}.")
    return PredictResult([], written, skipped)


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


def expand_paths(given: Sequence[str | Path], ignored: Counter[str]) -> list[Path]:
    """Files as given, folders and globs as the images in them, in sorted order; duplicates stay.

    What folders hold beside images is counted in ``ignored``.

    Raises:
        UserError: a path that does not exist, a pattern or folder without images.
    """
    images: list[Path] = []
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
        images += found
    if not images:
        raise UserError("no images named; give files, folders or globs.")
    return images


def _write_file(results: Iterator[tuple[str, Prediction]], out: Path, top: int) -> int:
    kind = out.suffix.lower().removeprefix(".")
    if out.exists() and not out.is_file():
        kind = kind or "csv"  # a device or pipe
    if kind not in ("csv", "jsonl"):
        raise UserError(f"{out}: predictions are written as .csv or .jsonl.")
    return _guard(out, lambda file: _write(results, file, top, kind))


def _guard(out: Path, write: Callable[[TextIO], int]) -> int:
    """Write through a partial file, so that an older result stays whole until the new one is complete."""
    in_place = out.exists() and not out.is_file()
    partial = out if in_place else out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8", newline="", errors="surrogateescape") as file:
            result = write(file)
        if not in_place:
            partial.replace(out)
        return result
    except OSError as error:
        kept = f" What was done is in {partial}." if not in_place and os.path.exists(partial) else ""
        raise UserError(
            f"cannot write {out}: {error.strerror or error}. Free space or choose another place.{kept}"
        ) from None


def _write(results: Iterator[tuple[str, Prediction]], file: TextIO, top: int, kind: str) -> int:
    count = 0
    if kind == "csv":
        writer = csv.writer(file, lineterminator="\n")
        more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("prediction", "probability")]
        writer.writerow(["path", "prediction", "probability", *more])
    for path, prediction in results:
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))
        if kind == "csv":
            writer.writerow([path, *(value for pair in pairs for value in pair)])
        else:
            line = {"path": path, "prediction": pairs[0][0], "probability": pairs[0][1]}
            if top > 1:
                line["top"] = [{"class": name, "probability": p} for name, p in pairs]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        count += 1
        if file is sys.stdout:
            file.flush()
    return count
