"""What the wrapped runtimes share: a compiled graph kept in a sealed folder, and an engine of one image per request.

A folder is named by everything its content depends on but the model, which names the folder around it; ``facts.json`` seals its
files. Imports no torch: only writing a graph needs the model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitkit.answers import Outputs
from vitkit.bundle import Bundle
from vitkit.config import UserError, read_json
from vitkit.console import Console
from vitkit.engines.engine import EngineFacts
from vitkit.engines.kept.places import PlaceError, candidates, first_writable, make_once, write_whole
from vitkit.engines.kept.seals import GRAIN, is_same, seal
from vitkit.engines.processor import processor_sign

if TYPE_CHECKING:
    from vitkit.exporters.graph import Range
    from vitkit.models.vit import VisionTransformer

__all__ = [
    "Infer",
    "Source",
    "WrappedEngine",
    "build_or_find",
    "folder_name",
    "notes_of",
    "problem",
    "source_of",
    "why_missing",
]

Array = np.ndarray[Any, Any]
Infer = Callable[[Array], Outputs]  # one image (1, C, H, W), in the calling thread
FACTS = "facts.json"


class WrappedEngine:
    """An engine of another library, each request one image.

    Many images are computed by as many requests at a time as there are processor threads, each by one thread. A request always
    has the same shape, so no image's digits depend on those beside it.

    Args:
        single: computes one image by one thread; called from several threads at a time.
        all_threads: makes what computes one image by all threads, for the latency of one image alone; called at most once.
        pool: the threads that ``single`` is called in, where not any will do.
    """

    group = together = 1

    def __init__(
        self,
        facts: EngineFacts,
        single: Infer,
        all_threads: Callable[[], Infer],
        folder: Path,
        *,
        pool: Executor | None = None,
    ) -> None:
        self.facts, self.folder = facts, folder
        self._single, self._all_threads = single, all_threads
        self._alone: Infer | None = None
        self._lock = threading.Lock()
        self._pool = pool

    @property
    def threads(self) -> int:
        """Requests at a time."""
        return self.facts.threads

    @property
    def pool(self) -> Executor:
        """Threads that wait for one request each."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, "vitkit-requests")
            return self._pool

    def __call__(self, images: Array) -> Outputs:
        """Images (B, C, H, W), several at a time; one alone by all threads."""
        if len(images) == 1:
            with self._lock:
                if self._alone is None:
                    self._alone = self._all_threads() if self.threads > 1 else self._single
            return self._alone(images)
        rows = self.pool.map(self._single, [images[place : place + 1] for place in range(len(images))])
        return Outputs(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))

    def outputs_of_group(self, images: Array) -> Outputs:
        """Images (B, C, H, W) in this very thread, one after the other."""
        rows = [self._single(images[place : place + 1]) for place in range(len(images))]
        return Outputs(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def why_missing(package: str, extra: str) -> str:
    """Why a package cannot be imported here; empty where it can."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            return f"{package} is not installed; get it with pip install 'vitkit[{extra}]'."
        return f"{package} is installed and cannot be used: {error}."
    except Exception as error:  # a package made for another system fails with what it likes
        return f"{package} is installed and cannot be used: {type(error).__name__}: {error}."
    return ""


def folder_name(engine: str, precision: str, version: str, writer: int, more: str = "") -> str:
    """The folder of a compiled graph: what it depends on beside the model. ``writer`` is the version of the graph's writer."""
    parts = [engine, precision, version, f"w{writer}", processor_sign(), *([more] if more else [])]
    return "-".join(parts)


class Source(NamedTuple):
    """What a graph is written from."""

    sign: str  # of what it depends on beside the model and the precision; empty for nothing
    notes: tuple[str, ...]  # for people
    parts: Callable[[], tuple[VisionTransformer, Mapping[str, Range] | None]]  # the model, and what is in 8 bits of it


def source_of(bundle: Bundle, precision: str) -> Source:
    """The model to write in a precision.

    Raises:
        UserError: int8 of a model that was not calibrated.
    """
    if precision != "int8":
        return Source("", (), lambda: (bundle.model, None))
    from vitkit.engines.calibration import prepared, read_calibration

    found = read_calibration(bundle)
    sign = hashlib.sha256(repr((sorted(found.ranges.items()), sorted(found.factors.items()))).encode()).hexdigest()
    return Source(sign[:8], found.notes, lambda: prepared(bundle, found))


def notes_of(folder: Path) -> tuple[str, ...]:
    """What a kept graph has to say to people."""
    return tuple(read_json(folder / FACTS)["notes"])


def problem(folder: Path) -> str:
    """Why what is kept in a folder cannot be used; empty where it is whole."""
    try:
        facts = read_json(folder / FACTS)
        files = facts["files"]
        for name, values in files.items():
            if not is_same(folder / name, values):
                return f"{name} is damaged or missing"
    except (UserError, KeyError, TypeError, AttributeError):
        return f"{FACTS} is damaged or missing"
    return "" if files else f"{FACTS} names no files"


def build_or_find(
    bundle: Bundle,
    name: str,
    notes: Sequence[str],
    write: Callable[[Path], None],
    open_folder: Callable[[Path], WrappedEngine],
) -> WrappedEngine:
    """The engine whose compiled graph is kept in a folder ``name`` of the model's, made at the first time.

    What is damaged, or is refused by the runtime, is said and made anew. Where nothing can be written the graph is made for this
    process alone.
    """
    places = candidates(bundle)
    for folder in (place / name for place in places):
        if not folder.is_dir():
            continue
        why = problem(folder)
        if not why:
            try:
                return open_folder(folder)
            except RuntimeError as error:  # what the runtime says of it
                why = str(error).strip()
        Console(sys.stderr).warn(f"{folder} cannot be used ({why:.200}); it is made anew")
    target = first_writable(places) / name
    keep = write_whole if target.exists() else make_once

    def sealed(partial: Path) -> None:
        partial.mkdir()
        write(partial)
        time.sleep(2 * GRAIN / 1e9)  # so that the seals' times leave no doubt
        files = {each.name: seal(each) for each in sorted(partial.iterdir())}
        (partial / FACTS).write_text(json.dumps({"notes": list(notes), "files": files}), encoding="utf-8")

    try:
        return open_folder(keep(target, sealed))
    except PlaceError as error:
        Console(sys.stderr).warn(f"the compiled graph is not kept: {error}")
    own = Path(tempfile.mkdtemp(prefix="vitkit-graph-"))
    try:
        sealed(own / name)
        return open_folder(own / name)
    finally:
        shutil.rmtree(own, ignore_errors=True)
