"""Computes rows from a listing: decoding ahead of the model, whatever parts the rows are for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vitkit.answers import MULTI
from vitkit.config import UserError
from vitkit.console import Console, duration
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import ImageError
from vitkit.data.rowgroups import reading_in_order
from vitkit.engines.kept.ready import Ready
from vitkit.engines.stream import stream
from vitkit.predicting.listing import Listing
from vitkit.predicting.parts import Parts
from vitkit.predicting.request import Request
from vitkit.predicting.writers import Columns, Row, encode

__all__ = ["Work", "make_work", "write_parts"]

WARNED = 100  # images that cannot be used and are said; the others are in the list alone
EVERY = 60.0  # seconds between two lines of progress where there is no terminal
Skip = Callable[[str, str], object]


class _Sources:
    """The images of spans of a listing; their names are left in ``names``."""

    def __init__(self, listing: Listing, spans: Sequence[tuple[int, int]]) -> None:
        self._listing, self._spans = listing, spans
        self.names: deque[str] = deque()

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self._spans)

    def __iter__(self) -> Iterator[ImageSource]:
        for span in self._spans:
            for name, source in self._listing.read(*span):
                self.names.append(name)
                yield source


class Work:
    """A model, ready to answer, with how it is to do so."""

    def __init__(self, request: Request, opened: Ready, columns: Columns, console: Console) -> None:
        self.request, self.opened, self.columns, self.console = request, opened, columns, console
        self._warned = 0

    def rows(self, listing: Listing, spans: Sequence[tuple[int, int]], label: str) -> Iterator[Row | tuple[str, str]]:
        """A row of each image in order, or name and reason of one that cannot be used.

        Raises:
            UserError: one that cannot be used, with ``strict``.
        """
        sources, opened, request = _Sources(listing, spans), self.opened, self.request
        outputs = stream(
            opened.engine, opened.preprocess, sources, workers=request.workers, max_pixels=request.max_pixels
        )
        with reading_in_order():
            for result in self._tracked(outputs, len(sources), label):
                path = sources.names.popleft()
                if isinstance(result, ImageError):
                    self._skip(path, str(result))
                    yield path, str(result)
                else:
                    features = np.asarray(result.features, np.float32) if self.columns.features else None
                    yield Row(path, opened.answers.answer(result, self.columns.top), features)

    def _skip(self, path: str, reason: str) -> None:
        if self.request.strict:
            raise UserError(f"{path}: {reason} (--strict)")
        self._warned += 1
        if self._warned <= WARNED:
            self.console.warn(f"skipped {path}: {reason}")
        if self._warned == WARNED:
            self.console.warn("more that are skipped are not said one by one")

    def _tracked(self, outputs: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        """With a bar, or where there is no terminal a line now and then."""
        began = said = time.monotonic()
        bar = self.console.err.isatty()
        for done, output in enumerate(self.console.track(outputs, total, label)):
            now = time.monotonic()
            if not bar and done and now - said >= EVERY:
                rate = done / (now - began)
                self.console.say(
                    f"{done:,} of {total:,} images, {rate:,.0f} images/s, {duration((total - done) / rate)} left"
                )
                said = now
            yield output


def write_parts(work: Work, listing: Listing, parts: Parts, mine: Sequence[int]) -> float:
    """Compute and write parts, and return the seconds that the slowest of them took.

    Raises:
        UserError: a part cannot be written, or an image not be used, with ``strict``.
    """
    label = "predicting" if len(mine) == parts.count else f"predicting {len(mine)} of {parts.count} parts"
    rows = work.rows(listing, [parts.span(part) for part in mine], label)
    slowest = 0.0
    try:
        for part in mine:
            began = time.monotonic()
            start, stop = parts.span(part)
            good: list[Row] = []
            skipped: list[tuple[str, str]] = []
            for _ in range(stop - start):
                row = next(rows)
                if isinstance(row, Row):
                    good.append(row)
                else:
                    skipped.append(row)
            parts.write(part, encode(good, work.columns, parts.kind), skipped)
            slowest = max(slowest, time.monotonic() - began)
    finally:
        rows.close()  # type: ignore[attr-defined]  # ends the threads before anything is said
    return slowest


def make_work(request: Request, opened: Ready, console: Console) -> Work:
    """What is asked of an opened model."""
    answers, width = opened.answers, 0
    if request.features:  # as many as one empty image has
        record = opened.preprocess
        empty = np.zeros((1, record.channels, *record.image_size), np.float32)
        width = int(opened.engine(empty).features.shape[1])
    top = min(request.top, answers.num_classes)
    columns = Columns(top, answers.task == MULTI, answers.unknown is not None, width)
    return Work(request, opened, columns, console)
