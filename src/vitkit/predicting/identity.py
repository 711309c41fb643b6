"""What a prediction is made of, so that it is not gone on with as another: the model, the images, the settings, the engine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit import __version__
from vitkit.answers import Answers
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines.engine import EngineFacts
from vitkit.engines.kept.ready import Ready
from vitkit.predicting.listing import Listing
from vitkit.predicting.parts import IMAGES

__all__ = ["engine_words", "facts_before", "facts_opened", "model_sign"]

SHOWN = 16  # digits of a fingerprint
ENGINE = "the engine that computes"


def facts_before(
    model: str | Path | Bundle, listing: Listing, overrides: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What is known before a model is loaded."""
    return {
        "the model": model_sign(model),
        IMAGES: f"{listing.count} {listing.digest}",
        "--override": json.dumps(dict(overrides or {}), sort_keys=True, default=str),
        **settings,
        "vitkit": __version__,
    }


def facts_opened(opened: Ready) -> dict[str, Any]:
    """What is known of an opened model."""
    return {
        ENGINE: _engine(opened.engine.facts),
        "the preprocessing": json.dumps(dataclasses.asdict(opened.preprocess), sort_keys=True),
        "the classes and their calibration": _digest_answers(opened.answers),
    }


def engine_words(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Name and precision of the engine of an earlier run."""
    name, precision, *_ = str(facts[ENGINE]).split(" ")
    return name, precision


def _engine(facts: EngineFacts) -> str:
    return f"{facts.name} {facts.precision} ({facts.library})"


def _digest_answers(answers: Answers) -> str:
    known: dict[str, Any] = {field.name: getattr(answers, field.name) for field in dataclasses.fields(Answers)}
    known["unknown"] = answers.unknown and answers.unknown.to_dict()
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:SHOWN]


def model_sign(model: str | Path | Bundle) -> str:
    """A fingerprint of what a user names: of the content of its files, or of a model in memory; a published one's name.

    Raises:
        UserError: a file that cannot be read.
    """
    if isinstance(model, Bundle):
        from vitkit.engines.kept.places import fingerprint

        return fingerprint(model)[:SHOWN]
    path = Path(model)
    try:
        if not path.exists():
            return str(model)
        signed = hashlib.sha256()
        for file in _files(path):
            with file.open("rb") as content:
                signed.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
        return signed.hexdigest()[:SHOWN]
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror}.") from None


def _files(path: Path) -> list[Path]:
    """The files of a folder; a file with the JSON beside it, or of an index of shards all beside it."""
    if path.is_dir():
        found = list(path.iterdir())
    elif path.suffix == ".json":
        found = list(path.parent.iterdir())
    else:
        found = [path, *path.parent.glob("*.json")]
    usable = {each for each in found if each.is_file() and not each.name.startswith(".") and each.suffix != ".partial"}
    return sorted(usable)
