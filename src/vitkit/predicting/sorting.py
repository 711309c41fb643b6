"""Sorts names of which there may be more than memory should hold."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import TextIO

__all__ = ["RUN", "sort_names"]

RUN = 100_000  # names in memory at once


def sort_names(names: Iterable[str], run: int = RUN) -> Iterator[str]:
    """The names in sorted order; more than ``run`` of them are sorted in temporary files."""
    waiting = iter(names)
    with ExitStack() as stack:
        files: list[TextIO] = []
        while len(held := sorted(islice(waiting, run))) == run:
            file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(json.dumps(name) + "\n" for name in held)
            file.seek(0)
            files.append(file)
        yield from heapq.merge(*map(_read, files), held)


def _read(file: TextIO) -> Iterator[str]:
    return map(json.loads, file)
