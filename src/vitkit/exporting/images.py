"""The images that an export is proved on: those that were named, the run's validation images, or random pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.config import UserError, read_json
from vitkit.console import Console
from vitkit.data.audit import digest
from vitkit.data.containers import ImageSource
from vitkit.data.samples import Sample, Source, match_classes
from vitkit.data.sources import find_images
from vitkit.datasets.book import data_name, read_data
from vitkit.engines.calibration import MOST as CALIBRATING
from vitkit.engines.calibration import for_calibration

__all__ = ["RANDOM", "CheckImages", "find_images_to_check", "spread"]

T = TypeVar("T")
RANDOM = 32  # images of random pixels, where a model has no run and no images were named
MOST = 2_000  # images that are compared; more are thinned out evenly
SPLITS = ("test", "val", "all", "train")  # of named data, the first that is there


class CheckImages(NamedTuple):
    """Images to compare answers on, and others to calibrate 8 bits on."""

    samples: tuple[Sample, ...]  # none: random pixels
    labelled: bool
    name: str  # for people
    calibrating: tuple[ImageSource, ...] = ()


def find_images_to_check(bundle: Bundle, data: str | Path | None, eight: bool, console: Console) -> CheckImages:
    """The images of ``data``, by default the run's validation images.

    Args:
        eight: some are needed to calibrate 8 bits on, which are then not compared.

    Raises:
        UserError: data that cannot be read; validation images that are gone; 8 bits and no images.
    """
    found: CheckImages | None = None
    if data is not None:
        found = _named(bundle, data, console)
    elif bundle.training:
        found = _of_run(bundle, eight)
    if found is None:
        if eight:
            raise UserError(
                "int8 is calibrated and judged on images like those to come, and this model has no run that says which. "
                "Name some: --check DATA."
            )
        return CheckImages(
            (), False, f"{RANDOM} images of random pixels, as the model has no run: name some with --check"
        )
    if eight and not found.calibrating:
        apart = [for_calibration(digest(sample)) for sample in found.samples]
        ours = tuple(sample.source for sample, chosen in zip(found.samples, apart, strict=True) if chosen)
        others = tuple(sample for sample, chosen in zip(found.samples, apart, strict=True) if not chosen)
        found = found._replace(samples=others, calibrating=ours)
    if not found.samples:
        raise UserError(f"{found.name}: there is no image to compare answers on.")
    if len(found.samples) > MOST:
        found = found._replace(
            samples=tuple(spread(found.samples, MOST)),
            name=f"{MOST:,} of {len(found.samples):,}, evenly spread, of {found.name}",
        )
    return found._replace(calibrating=tuple(spread(found.calibrating, CALIBRATING)))


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of a sequence, evenly spread."""
    if not items:
        return []
    return [items[place] for place in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int)).tolist()]


def _named(bundle: Bundle, data: str | Path, console: Console) -> CheckImages:
    path = Path(data)
    try:
        source = read_data(data)
    except UserError:
        if not path.exists():
            raise
        files = find_images(path, Counter()) if path.is_dir() else [path]
        if not files:
            raise
        return CheckImages(
            tuple(Sample(str(each), each, -1) for each in files), False, f"{len(files):,} images of {path}"
        )
    split = next((name for name in SPLITS if source.splits.get(name)), None)
    if split is None:
        raise UserError(f"{data} holds no images; there is nothing to compare answers on.")
    matched = _matched(bundle, source, console)
    samples = (matched or source).splits[split]
    return CheckImages(tuple(samples), matched is not None, f"{len(samples):,} images, {split} of {data_name(data)}")


def _matched(bundle: Bundle, source: Source, console: Console) -> Source | None:
    """The data with the model's classes; None, and the reason said, where accuracy cannot be told."""
    why = ""
    if not bundle.config.num_classes:
        why = "the model has no head"
    elif source.multilabel != (bundle.task == MULTI):
        why = f"the model is {bundle.task} and the data is not"
    elif bundle.classes is None:
        why = "the model's classes have no names"
    else:
        try:
            return match_classes(source, bundle.classes)
        except UserError as error:
            why = str(error)
    console.warn(f"answers are compared and accuracy is not told: {why}")
    return None


def _of_run(bundle: Bundle, eight: bool) -> CheckImages | None:
    """The validation images of the run that made the model, known by their digests; with ``eight`` also training images.

    Raises:
        UserError: they are not where they were.
    """
    known = bundle.training.get("data", {}).get("digests", {})
    wanted = set(known.get("val", ()))
    if not wanted:
        return None
    run = bundle.place.resolve().parent if bundle.place is not None else None
    ask = "Name images to compare answers on: --check DATA (labelled images tell accuracy too)."
    if run is None or not (run / "arguments.json").is_file() or not (run / "split.json").is_file():
        raise UserError(f"the run that made this model is not beside it, so its validation images are not known. {ask}")
    arguments, split = read_json(run / "arguments.json"), read_json(run / "split.json")
    samples: dict[str, Sample] = {}
    try:
        for data in filter(None, (arguments.get("data"), arguments.get("val"))):
            source = match_classes(read_data(data), bundle.classes or ())
            samples |= {sample.name: sample for part in source.splits.values() for sample in part}
    except UserError as error:
        raise UserError(f"the validation images of this model's run cannot be read: {error} {ask}") from None
    there = [samples[name] for name in split.get("val", ()) if name in samples]
    kept = tuple(sample for sample in there if _digest(sample) in wanted)
    if len(kept) < len(wanted):
        raise UserError(
            f"{len(wanted) - len(kept)} of the {len(wanted)} validation images of this model's run are gone from "
            f"{arguments.get('data')} or were changed. {ask}"
        )
    train = [samples[name] for name in split.get("train", ()) if name in samples] if eight else []
    return CheckImages(
        kept,
        True,
        f"the run's {len(kept)} validation images",
        tuple(sample.source for sample in spread(train, CALIBRATING)),
    )


def _digest(sample: Sample) -> str:
    try:
        return digest(sample)
    except (UserError, OSError):
        return ""
