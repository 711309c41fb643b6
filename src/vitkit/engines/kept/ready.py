"""What predicting needs beside a compiled graph, kept as JSON, so that a known model answers without being loaded.

A record belongs to what a user named: a model with its overrides, an engine and a precision. It holds seals of the files that
this was read from, so that a changed model is loaded again. Imports no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

from vitkit import __version__
from vitkit.answers import Answers
from vitkit.bundle import Bundle, is_bundle
from vitkit.config import UserError, from_dict, read_json
from vitkit.data.cache import cache_folder
from vitkit.data.pixels import Preprocess
from vitkit.engines.book import AUTO, engine_of, missing
from vitkit.engines.engine import Engine
from vitkit.engines.kept.places import FOLDER, PlaceError, candidates, write_whole
from vitkit.engines.kept.seals import is_same, seal
from vitkit.engines.processor import processor_sign, processor_threads
from vitkit.engines.wrapped import WrappedEngine, problem
from vitkit.unknown import read_unknown_arrays

__all__ = ["Ready", "keep_ready", "open_ready", "ready"]

FORMAT = 1
JSON = "*.json"
BENCHMARK = "benchmark-"  # how the files begin that `auto` follows whatever the amount of work


class Ready(NamedTuple):
    """All that predicting takes."""

    answers: Answers
    preprocess: Preprocess
    notes: tuple[str, ...]  # what loading assumed or found
    engine: Engine


def ready(bundle: Bundle) -> Ready:
    """Of a loaded bundle.

    Raises:
        UserError: it gives no classes, or nothing says how images are prepared.
    """
    bundle.require_classes()
    return Ready(bundle.answers, bundle.require_preprocess(), bundle.notes, engine_of(bundle))


def open_ready(model: str | Path, engine: str, precision: str, overrides: Mapping[str, Any]) -> Ready | None:
    """What `keep_ready` kept of the same words, if all it was made of is unchanged; None where it has to be loaded."""
    asked = _asked(engine, precision, overrides)
    if asked is None:
        return None
    for path in _records(Path(model), asked):
        with contextlib.suppress(UserError, KeyError, TypeError, ValueError, OSError, RuntimeError):
            if path.is_file() and (found := _read(Path(model), read_json(path))):
                return found
    return None


def keep_ready(
    model: str | Path, bundle: Bundle, engine: str, precision: str, overrides: Mapping[str, Any]
) -> Path | None:
    """Keep what `open_ready` opens, where a wrapped runtime computes a model of local files; a place that cannot be
    written costs time only.
    """
    asked, path = _asked(engine, precision, overrides), Path(model)
    if asked is None or not isinstance(bundle.run, WrappedEngine) or not path.exists():
        return None
    found, facts = ready(bundle), bundle.run.facts
    key = _key(bundle)
    choices = {name: seal(each) for name, each in _choices(path, key).items()}
    if engine == AUTO and not any(Path(name).name.startswith(BENCHMARK) for name in choices):
        return None  # chosen by the amount of work, which may be another the next time
    answers = {field.name: getattr(found.answers, field.name) for field in dataclasses.fields(Answers)}
    record = {
        "format": FORMAT,
        "vitkit_version": __version__,
        "files": {name: seal(each) for name, each in _files(path).items()},
        "choices": choices,
        "key": key,
        "here": _here(facts.name),
        "folder": bundle.run.folder.name,
        "engine": facts.name,
        "precision": facts.precision,
        "answers": {**answers, "unknown": found.answers.unknown and found.answers.unknown.to_dict()},
        "width": bundle.config.feature_dim,
        "preprocess": dataclasses.asdict(found.preprocess),
        "notes": list(found.notes),
    }
    text = json.dumps(record, indent=1)
    for place in _records(path, asked):
        with contextlib.suppress(PlaceError):
            return write_whole(place, lambda partial: partial.write_text(text, encoding="utf-8"))
    return None


def _read(model: Path, record: Mapping[str, Any]) -> Ready | None:
    if record["format"] != FORMAT or record["vitkit_version"] != __version__:
        return None
    key = str(record["key"])
    if not _unchanged(_files(model), record["files"]) or not _unchanged(_choices(model, key), record["choices"]):
        return None
    name = str(record["engine"])
    if missing(name) or record["here"] != _here(name):
        return None
    for place in _places(model, key):
        folder = place / str(record["folder"])
        if folder.is_dir() and not problem(folder):
            made: WrappedEngine = import_module(f"vitkit.engines.{name}").open_folder(folder, record["precision"])
            values = dict(record["answers"])
            if values["unknown"] is not None:
                values["unknown"] = read_unknown_arrays(model, values["unknown"], record["width"])
            answers = from_dict(Answers, values, "answers")
            return Ready(
                answers, from_dict(Preprocess, record["preprocess"], "preprocess"), tuple(record["notes"]), made
            )
    return None


def _here(engine: str) -> list[str]:
    """What a compiled graph and a choice hold for beside the model."""
    return [processor_sign(), str(processor_threads()), metadata.version(engine)]


def _asked(engine: str, precision: str, overrides: Mapping[str, Any]) -> str | None:
    """The words of the user as text; None where they are no plain values."""
    try:
        return json.dumps([engine, precision, dict(overrides)], sort_keys=True)
    except (TypeError, ValueError):
        return None


def _records(model: Path, asked: str) -> tuple[Path, ...]:
    """Where a record may be: beside a bundle, which may be moved, or in the cache by the model's place."""
    here = hashlib.sha256(asked.encode()).hexdigest()[:16]
    there = hashlib.sha256(f"{os.path.abspath(model)}\0{asked}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    kept = cache_folder() / FOLDER / "ready" / f"{there}.json"
    if model.is_dir() and is_bundle(model):
        return model / FOLDER / f"ready-{here}.json", kept
    return (kept,)


def _places(model: Path, key: str) -> tuple[Path, ...]:
    """As `candidates`, without the model's tensors."""
    kept = cache_folder() / FOLDER / key
    return (model / FOLDER / key, kept) if model.is_dir() and is_bundle(model) else (kept,)


def _key(bundle: Bundle) -> str:
    return candidates(bundle)[0].name


def _files(model: Path) -> dict[str, Path]:
    """The files that a model is read from, by name: all of a folder; a file with the JSON beside it, and its shards."""
    if model.is_dir():
        found = [each for each in model.iterdir() if each.is_file()]
    elif model.suffix == ".json":  # an index of shards
        found = [each for each in model.parent.iterdir() if each.is_file()]
    else:
        found = [model, *(each for each in model.parent.glob(JSON) if each.is_file())]
    return {each.name: each for each in found if not each.name.startswith(".") and each.suffix != ".partial"}


def _choices(model: Path, key: str) -> dict[str, Path]:
    """The files that an engine is chosen and set by, of a benchmark or a calibration."""
    return {
        f"{number}/{each.name}": each
        for number, place in enumerate(_places(model, key))
        if place.is_dir()
        for each in place.glob(JSON)
        if each.is_file()
    }


def _unchanged(files: Mapping[str, Path], seals: Mapping[str, Any]) -> bool:
    return set(files) == set(seals) and all(is_same(path, seals[name]) for name, path in files.items())
