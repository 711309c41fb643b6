"""`vit explain`: what a model looks at, as heat maps over the original images, with evidence that they matter.

The steps, in order: check what is asked for; open, classify, map and draw image by image; check the maps; write the page.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vitkit.analysis.attention import chosen
from vitkit.analysis.explanation import Explanation, explain_view
from vitkit.analysis.explanation_files import draw_files, files_of
from vitkit.analysis.maps import Asked, Numbers, ask
from vitkit.analysis.overlay import View, legend, open_view
from vitkit.bundle import Bundle
from vitkit.config import UserError, check_writable, did_you_mean
from vitkit.console import Console
from vitkit.data.containers import ImageSource
from vitkit.data.filenames import file_stems
from vitkit.data.pixels import MAX_PIXELS, ImageError
from vitkit.engines.book import engine_of
from vitkit.engines.eager import EagerEngine
from vitkit.evals.evidence import Evidence
from vitkit.evals.map_check import MapCheck
from vitkit.jobs.load import load
from vitkit.json_list import JsonList
from vitkit.predicting.finding import expand_paths
from vitkit.report import code_fingerprint, versions, write_explain

__all__ = ["ExplainResult", "explain"]

T = TypeVar("T")
R = TypeVar("R")
Array = np.ndarray
Source = ImageSource | Image.Image | Array
RESULT = "explain.json"
SHOWN = 100  # images with pictures on the page; all have files


@dataclass(frozen=True)
class ExplainResult:
    """Where the maps were written, or the maps themselves where they were not."""

    folder: Path | None
    page: Path | None
    written: int
    skipped: list[tuple[str, str]]
    evidence: Evidence | None  # None: `evidence_note` says why
    evidence_note: str
    explanations: list[Explanation]  # empty where files were written


def explain(
    model: str | Path | Bundle,
    images: str | Path | Source | Sequence[str | Path | Source],
    *,
    out: str | Path | None = None,
    method: str = "gradient",
    target: str | int | None = None,
    layers: Numbers = None,
    heads: Numbers = None,
    residual: str = "half",
    pool: str | None = None,
    raw: bool = False,
    check: int | None = None,
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    overrides: Mapping[str, Any] | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> ExplainResult:
    """Draw what the model looks at in ``images``.

    Args:
        model: a bundle, a bundle folder or a checkpoint file.
        images: paths as for `vitkit.predict`, or Pillow images, or arrays (H, W, C).
        out: the folder to write to; without it nothing is written and the explanations are returned.
        method: gradient (of a class), rollout, or attention of layers and heads.
        target: the class to explain, by name or index; by default the predicted one, of a multi-label model each one found.
        layers: of attention: numbers from 0, or from the end (-1), or "all"; by default the last, or attention pooling.
        heads: of attention: numbers or "all"; by default their mean.
        residual: of rollout: "half" (0.5 A + 0.5 I) or "none" (A alone).
        pool: of rollout and attention: read the tokens as if the model pooled so (cls, mean).
        raw: also write the maps as ``.npz``.
        check: images on which deletion, insertion and randomised weights tell whether the maps matter; 0: none. By default 10,
            or none of a large model on a CPU.
        strict: fail on the first file that cannot be used, instead of listing it.
        workers: threads that decode and draw.
        max_pixels: larger images are listed without being decoded.
        overrides: of the loaded model, see `vitkit.load`.
        command: the command line, for the page.

    Raises:
        UserError: no such path, model, class, layer or head; a method that the model has nothing for; or no usable image.
    """
    console, began = console or Console(), time.perf_counter()
    for name, value, least in (("--workers", workers, 1), ("--check", check, 0)):
        if value is not None and value < least:
            raise UserError(f"{name} must be at least {least}, got {value}.")
    ignored: Counter[str] = Counter()
    sources = _sources(images, ignored)
    folder = None if out is None else _free(Path(out), [source for _, source in sources])
    for what, count in ignored.items():
        console.warn(f"left out of the folders: {count} {what}")
    bundle = model if isinstance(model, Bundle) else load(model, **dict(overrides or {}))
    bundle.require_modules()
    for note in bundle.notes:
        console.warn(note)
    asked = ask(bundle.model, method, layers, heads, residual, pool)
    work = _Work(bundle, asked, _target(bundle, method, target), max_pixels, strict, console)
    found = work.explanations(sources, workers)
    checking = MapCheck(bundle, work.model, asked, check, console)
    if folder is None:
        explanations = [checking.kept(one) for one in found]
        checked, note = checking.run()
        return ExplainResult(None, None, len(explanations), work.skipped, checked, note, explanations)

    earlier, items = _earlier(folder), list[dict[str, Any]]()
    facts = _facts(bundle, asked, "" if isinstance(model, Bundle) else str(model))
    with JsonList(folder / RESULT, facts, "images") as listing, ThreadPoolExecutor(workers) as drawers:
        kept = _marked(listing, map(checking.kept, found))
        for drawn in _ahead(drawers, partial(draw_files, folder, raw), kept, 2 * workers):
            listing.add(drawn.facts)
            earlier -= files_of(drawn.facts)
            if listing.count <= SHOWN:
                items.append(drawn.item)
        checked, note = checking.run()
        tail = {
            "written": listing.count,
            "skipped": [{"path": path, "reason": reason} for path, reason in work.skipped],
            "evidence": checked and checked.to_dict(),
            "evidence_note": note,
            "command": command or f"vitkit.explain({str(model)!r}, ...)",
            "code": code_fingerprint(),
            "versions": versions(),
            "seconds": time.perf_counter() - began,
        }
        page = write_explain(folder, {**facts, **tail, "ramp": legend()}, items)
        listing.finish(tail)
    for name in earlier:  # of images that are not asked for any more
        (folder / name).unlink(missing_ok=True)
    console.say(f"images    {listing.count:,} explained, {len(work.skipped):,} skipped")
    console.say(f"check     {checked.verdict if checked else note}")
    console.say(f"page      {page}")
    return ExplainResult(folder, page, listing.count, work.skipped, checked, note, [])


def _sources(images: Any, ignored: Counter[str]) -> list[tuple[str, Source]]:
    """Name and place of each image: paths as `vit predict` takes them, or images in memory."""
    given = list(images) if isinstance(images, list | tuple) else [images]
    in_memory = [isinstance(item, Image.Image | np.ndarray) for item in given]
    if given and all(in_memory):
        return [(f"image-{number}", item) for number, item in enumerate(given, 1)]
    for item, loaded in zip(given, in_memory, strict=True):
        if loaded or not isinstance(item, str | Path):
            raise UserError(
                f"explain takes paths, or PIL images and arrays (height, width, channels), not {type(item).__name__} "
                "among other things."
            )
    return [*expand_paths(given, ignored)]


def _free(folder: Path, sources: Sequence[Source]) -> Path:
    """The folder to write to: a new or empty one, or one of an earlier explanation that holds none of the images.

    Raises:
        UserError: another one.
    """
    check_writable(folder)
    if not folder.exists():
        return folder
    marks = (folder / RESULT, folder / f"{RESULT}.partial")
    if not folder.is_dir() or (any(folder.iterdir()) and not any(mark.exists() for mark in marks)):
        raise UserError(f"{folder} already exists and holds something else. Choose another -o.")
    here = folder.resolve()
    for source in sources:
        if isinstance(source, str | Path) and Path(source).resolve().parent == here:
            raise UserError(f"{source} is in the folder to write to, where it could be replaced. Choose another -o.")
    return folder


def _earlier(folder: Path) -> set[str]:
    """The files of an earlier explanation in the folder, by its own list."""
    try:
        listed = json.loads((folder / RESULT).read_bytes())["images"]
        return {name for facts in listed for name in files_of(facts) if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is not ours
        return set()


def _marked(listing: JsonList, explanations: Iterable[Explanation]) -> Iterator[Explanation]:
    """The explanations; before the first picture is written the folder is marked, so that a stopped run can be repeated there."""
    for one in explanations:
        listing.begin()
        yield one


def _target(bundle: Bundle, method: str, target: str | int | None) -> int | None:
    """Index of the class to explain.

    Raises:
        UserError: the model has no such class, or the method asks for none.
    """
    if target is None:
        return None
    if method != "gradient":
        raise UserError(f"--class is for --method gradient; {method} asks for no class.")
    classes, said = bundle.classes or (), str(target)
    if isinstance(target, str) and said in classes:  # a number that is no text counts classes, whatever they are called
        return classes.index(said)
    if said.removeprefix("-").isdecimal():
        return chosen([int(said)], bundle.config.num_classes, "class")[0]
    known = f"It has {len(classes):,}, such as {classes[0]!r}" if classes else "Its classes have no names: say a number"
    raise UserError(f"the model has no class {said!r}.{did_you_mean(said, classes)} {known}.")


class _Work:
    """Opens images ahead of the model and asks it about each; what cannot be used is listed in ``skipped``."""

    def __init__(
        self, bundle: Bundle, asked: Asked, target: int | None, max_pixels: int, strict: bool, console: Console
    ) -> None:
        self.skipped: list[tuple[str, str]] = []
        self._bundle, self._asked, self._target = bundle, asked, target
        self._record, self._max_pixels = bundle.require_preprocess(), max_pixels
        self._strict, self._console = strict, console
        self.model = EagerEngine(bundle.model).model  # that maps are recorded in, where it computes
        self._engine = engine_of(bundle)  # that predicts, as for every command

    def explanations(self, sources: Sequence[tuple[str, Source]], workers: int) -> Iterator[Explanation]:
        """One of each usable image, in input order.

        Raises:
            UserError: with ``strict``, on the first image that cannot be used; always, where none can.
        """
        names = [name for name, _ in sources]
        stems = file_stems(names)
        self._say_renamed(names, stems)
        with ThreadPoolExecutor(workers) as readers:
            views = _ahead(readers, self._open, (source for _, source in sources), 2 * workers)
            tracked = self._console.track(views, len(sources), "explaining")
            for name, stem, view in zip(names, stems, tracked, strict=True):
                if isinstance(view, ImageError):
                    self._skip(name, view)
                    continue
                try:
                    yield explain_view(
                        self._bundle, self.model, self._engine, self._asked, self._target, name, stem, view
                    )
                except ImageError as error:
                    self._skip(name, error)
        if len(self.skipped) == len(sources):
            name, reason = self.skipped[0]
            raise UserError(f"none of the {len(sources)} images can be used, the first: {name}: {reason}.")

    def _open(self, source: Source) -> View | ImageError:
        try:
            return open_view(source, self._record, self._bundle.config, max_pixels=self._max_pixels)
        except ImageError as error:
            return error

    def _skip(self, name: str, error: ImageError) -> None:
        if self._strict:
            raise UserError(f"{name}: {error} (--strict)")
        self.skipped.append((name, str(error)))
        self._console.warn(f"skipped {name}: {error}")

    def _say_renamed(self, names: Sequence[str], stems: Sequence[str]) -> None:
        pairs = zip(names, stems, strict=True)
        renamed = [(name, stem) for name, stem in pairs if not Path(name).name.startswith(stem)]
        if renamed:
            more = f", and {len(renamed) - 1:,} more; {RESULT} tells all" if len(renamed) > 1 else ""
            self._console.say(
                f"names     {renamed[0][0]} is written as {renamed[0][1]}.png: its own name is taken or unsafe{more}"
            )


def _facts(bundle: Bundle, asked: Asked, name: str) -> dict[str, Any]:
    """What is known before the first image; ``name`` is the model's as the user gave it, or empty."""
    return {
        "format": "vitkit-explain",
        "format_version": 1,
        "title": "What the model looks at",
        "model": {
            "name": name,
            "source": bundle.source,
            "grid": list(bundle.config.grid),
            "classes": bundle.config.num_classes,
        },
        "method": asked.method,
        "description": asked.describe(),
        "layers": list(asked.layers),
        "heads": asked.heads and list(asked.heads),
        "residual": asked.residual if asked.method == "rollout" else None,
    }


def _ahead(pool: Executor, work: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """``work`` of each item in order, of at most so many ahead of what is taken."""
    queue: deque[Future[R]] = deque()
    try:
        for item in items:
            queue.append(pool.submit(work, item))
            if len(queue) >= most:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        for future in queue:
            future.cancel()
