"""The models of a server by name: opened, described, and replaced when their files are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit import __version__
from vitkit.artefact import RECORD, find_artefact
from vitkit.bundle import is_bundle, read_bundle_config
from vitkit.config import UserError, read_json
from vitkit.data.pixels import normalise, to_planes
from vitkit.engines.book import AUTO
from vitkit.engines.kept.ready import Ready
from vitkit.engines.opened import open_for_answers
from vitkit.server.batching import Batcher
from vitkit.server.errors import Refused
from vitkit.zoo.box import PLACE, is_box

__all__ = ["Model", "Opening", "Registry", "name_models"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Seals = tuple[tuple[str, int, int, int], ...]


class Opening(NamedTuple):
    """How models are opened."""

    engine: str = AUTO
    precision: str = AUTO
    overrides: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Model:
    """One model that is served."""

    name: str
    path: str  # as the user named it
    version: str  # of its files, in hexadecimal
    ready: Ready
    batcher: Batcher
    facts: Mapping[str, Any]  # what `GET /v1/models` says of it
    seals: Seals  # its files when it was opened


def name_models(given: Sequence[str]) -> dict[str, str]:
    """Name -> path of each of ``given``, each a path or ``NAME=PATH``; a path's name is its last part.

    Raises:
        UserError: none, two of one name, or a name that cannot be part of an address.
    """
    found: dict[str, str] = {}
    for text in given:
        said, equals, path = str(text).partition("=")
        if not equals or not NAME.fullmatch(said):
            said, path = "", str(text)
        name = said or _own_name(Path(path))
        if not NAME.fullmatch(name):
            raise UserError(f"{text!r} gives no name for an address; say NAME=PATH, such as flowers={path}.")
        if name in found:
            raise UserError(f"two models are called {name!r}: {found[name]} and {path}. Say NAME=PATH for one of them.")
        found[name] = path
    if not found:
        raise UserError("name at least one model to serve.")
    return found


def _own_name(path: Path) -> str:
    path = Path(os.path.abspath(path)) if str(path) in (".", "..", "") or path.exists() else path
    path = find_artefact(path) or path
    if path.name == "model" and path.parent.name and path.is_dir():  # of a run: runs/flowers/model
        path = path.parent
    name = path.name
    for suffix in (".safetensors", ".npz", ".onnx", ".xml", ".pt2", ".pth", ".pt", ".bin"):
        name = name.removesuffix(suffix)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")


class Registry:
    """All models. Reading is safe from any thread: a name's model is replaced as a whole.

    Args:
        paths: name -> what the user named; the first is the default of the page.
        opening: how they are opened.
        batch: makes the queue of an opened model, by its name.
        say: told of what is loaded, and why something is not.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        opening: Opening,
        batch: Callable[[str, Ready], Batcher],
        say: Callable[[str, Mapping[str, Any]], None] = lambda _event, _facts: None,
    ) -> None:
        self.paths, self.opening = dict(paths), opening
        self._batch, self._say = batch, say
        self._models: dict[str, Model] = {}
        self._refused: dict[str, Seals] = {}  # files that could not be opened, so that they are not tried again
        self._settling: dict[str, Seals] = {}

    def open_all(self) -> None:
        """Open every model.

        Raises:
            UserError: one cannot be used.
        """
        for name in self.paths:
            self._models[name] = self._open(name)

    @property
    def models(self) -> list[Model]:
        """All that are open."""
        return list(self._models.values())

    @property
    def whole(self) -> bool:
        """Is every model open?"""
        return set(self._models) == set(self.paths)

    def find(self, name: str) -> Model | None:
        """The model of a name, or None."""
        return self._models.get(name)

    def get(self, name: str) -> Model:
        """The model of a name.

        Raises:
            Refused: 404.
        """
        found = self._models.get(name)
        if found is None:
            known = ", ".join(self._models)
            raise Refused(404, "no_such_model", f"no model is called {name[:100]!r}; there are: {known}.")
        return found

    def refresh(self, *, force: bool = False) -> list[str]:
        """Open anew each model whose files were replaced and have settled since the last call; ``force``: each whose files changed
        at all, and what failed before. Returns the names that were replaced.
        """
        replaced = []
        for name, model in list(self._models.items()):
            found = seals_of(model.path)
            if not found or found == model.seals or (found == self._refused.get(name) and not force):
                self._settling.pop(name, None)
            elif force or self._settling.get(name) == found:
                self._settling.pop(name, None)
                if self._replace(name, found):
                    replaced.append(name)
            else:
                self._settling[name] = found
        return replaced

    def _replace(self, name: str, seals: Seals) -> bool:
        try:
            model = self._open(name)
        except Exception as error:  # the old one is better than none, whatever is wrong with the new one
            self._refused[name] = seals
            self._say("model_refused", {"model": name, "reason": f"{error}", "serving": self._models[name].version})
            return False
        if model.seals != seals_of(model.path):  # written to meanwhile: what was read may be of two versions
            self._settling[name] = seals_of(model.path)
            return False
        self._refused.pop(name, None)
        self._models[name] = model
        return True

    def watch(self, stop: threading.Event, seconds: float = 1.0) -> None:
        """Call `refresh` now and then until ``stop``; for a thread of its own."""
        while not stop.wait(seconds):
            self.refresh()

    def _open(self, name: str) -> Model:
        path = self.paths[name]
        seals, version = seals_of(path), version_of(path)
        ready = open_for_answers(path, *self.opening)
        warm(ready)
        facts = {
            "name": name,
            "version": version,
            "default": name == next(iter(self.paths)),
            **describe(path, ready),
        }
        model = Model(name, path, version, ready, self._batch(name, ready), facts, seals)
        self._say("model_loaded", {"model": name, "version": version, "engine": facts["engine"]})
        return model


def warm(ready: Ready) -> None:
    """Let the engine do what it does once: compile, and compare images that are computed together with each alone."""
    engine, record = ready.engine, ready.preprocess
    size = (max(engine.group, engine.together), *record.image_size, record.channels)
    crops = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    images = to_planes(normalise(crops, record))
    list(engine.pool.map(engine.outputs_of_group, [images] * engine.threads))


def describe(path: str, ready: Ready) -> dict[str, Any]:
    """What clients are told of a model."""
    answers, facts = ready.answers, ready.engine.facts
    artefact, weights = find_artefact(Path(path)), dict[str, Any]()
    if artefact:
        weights = read_json(artefact / RECORD).get("weights", {})
    elif is_box(path) or is_bundle(Path(path)):
        weights = read_bundle_config(PLACE if is_box(path) else Path(path)).get("weights", {})
    return {
        "task": answers.task,
        "classes": [answers.class_name(index) for index in range(answers.num_classes)],
        "image_size": list(ready.preprocess.image_size),
        "engine": facts.describe(),
        "precision": facts.precision,
        "calibrated": answers.temperature != 1.0,
        "tells_unknown": answers.unknown is not None,
        "explains": artefact is None,  # its modules are gone
        "licence": str(weights.get("licence", "unknown")),
        "source": str(weights.get("source", "")),
        "notes": [*ready.notes, *facts.notes],
    }


def _files(path: Path) -> list[Path]:
    path = find_artefact(path) or path
    if path.is_dir():
        found = [each for each in path.iterdir() if each.is_file()]
    elif path.is_file():
        found = [path, *(each for each in path.parent.glob("*.json") if each.is_file())]
    else:
        return []
    return sorted(each for each in found if not each.name.startswith(".") and each.suffix != ".partial")


def seals_of(path: str) -> Seals:
    """Name, size, time and number of each file that a model is read from; empty of what is no path."""
    found = []
    with contextlib.suppress(OSError):
        for each in _files(Path(path)):
            facts = each.stat()
            found.append((each.name, facts.st_size, facts.st_mtime_ns, facts.st_ino))
    return tuple(found)


def version_of(path: str) -> str:
    """A short sign of a model's files by their content; of a name, of the name and the package."""
    digest = hashlib.sha256()
    files = _files(Path(path))
    if not files:
        digest.update(f"{path} {__version__}".encode())
    for each in files:
        with each.open("rb") as file:
            digest.update(f"{each.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:12]
