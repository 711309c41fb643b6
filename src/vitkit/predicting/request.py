"""What a prediction was asked for, and the images that this names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.engines.kept.ready import Ready
from vitkit.engines.opened import open_for_answers
from vitkit.predicting.finding import Container, find
from vitkit.predicting.listing import Listing
from vitkit.predicting.writers import KINDS, check_kind

__all__ = ["Request", "kind_of", "list_images", "open_model"]


class Request(NamedTuple):
    """The arguments of `vitkit.predict` that a result depends on."""

    model: str | Path | Bundle
    given: Sequence[str | Path]
    out: Path | None
    kind: str  # one of `KINDS`
    top: int
    features: bool
    strict: bool
    restart: bool
    workers: int
    max_pixels: int
    engine: str
    precision: str
    overrides: Mapping[str, Any]

    @property
    def in_place(self) -> bool:
        """Is it written to a device or pipe?"""
        return self.out is not None and self.out.exists() and not self.out.is_file()


def kind_of(out: Path | None, features: bool, returned: bool) -> str:
    """The format to write.

    Args:
        returned: whether features may be returned where no file is named.

    Raises:
        UserError: an unknown one, or one that cannot hold what was asked for.
    """
    if out is None:
        if features and not returned:
            raise UserError("--features are written to .parquet or .jsonl files: name one with -o.")
        return "csv"
    kind = out.suffix.lower().removeprefix(".")
    in_place = out.exists() and not out.is_file()
    if in_place:
        kind = kind or "csv"
    if kind not in KINDS:
        raise UserError(f"{out}: predictions are written as .csv or .jsonl or .parquet.")
    if in_place and kind == "parquet":
        raise UserError(f"{out} is not a file, and Parquet is written to one. Choose another -o.")
    check_kind(kind, features)
    return kind


def list_images(request: Request, console: Console) -> Listing:
    """All images in order.

    Raises:
        UserError: as `find`; the output is one of the files.
    """
    out = request.out
    if out is not None:
        for item in request.given:
            _refuse_same(out, Path(item))
    listing = Listing(out.parent if out is not None and os.access(out.parent, os.W_OK) else None)
    try:
        _fill(listing, request, console)
    except BaseException:
        listing.close()
        raise
    return listing


def _fill(listing: Listing, request: Request, console: Console) -> None:
    out = request.out
    apart = [] if out is None else [out, Path(f"{out}.parts"), Path(f"{out}.partial")]
    ignored: Counter[str] = Counter()
    try:
        for each in find(request.given, ignored, console.warn, apart):
            place = each.path if isinstance(each, Container) else each.source
            if out is not None and isinstance(place, str | Path) and os.path.basename(place) == out.name:
                _refuse_same(out, Path(place))
            listing.add(each)
    except OSError as error:
        raise UserError(
            f"cannot keep the list of images: {error.strerror or error}. Free space in {listing.folder}."
        ) from None
    for what, count in ignored.items():
        console.warn(f"left out of the folders: {count} {what}")


def _refuse_same(out: Path, path: Path) -> None:
    if out.is_file() and path.is_file() and out.samefile(path):
        raise UserError(f"{out} is one of the files to predict on; it would be overwritten. Choose another -o.")


def open_model(request: Request, images: int, engine: tuple[str, str], console: Console) -> Ready:
    """The model, ready to answer, with what is worth knowing of it said.

    Raises:
        UserError: as `open_for_answers`.
    """
    opened = open_for_answers(request.model, *engine, request.overrides, images=images, say=console.say)
    for note in opened.notes:
        console.warn(note)
    facts = opened.engine.facts
    if facts.precision != "fp32":
        console.say(f"engine: {facts.describe()}: answers may differ from those of float32")
    return opened
