"""What a run hands in to the board: its rows, and what they need to be believed and repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.config import UserError, read_json

__all__ = ["Submission", "read_submission"]

RESULTS, REPORT = "results.json", "report.json"
KIND, VERSION = "vitkit-results", 1
EXPECTED = "a run folder of finetune or pretrain, or what `vit evaluate --out` wrote"


@dataclass(frozen=True)
class Submission:
    """One run's results. Whatever a file does not hold is empty here, for `vitkit.board.validate` to name."""

    where: str  # the file
    rows: Sequence[Mapping[str, Any]]  # of `vitkit.report.Row`
    command: str
    code: str  # fingerprint of vitkit's source
    versions: Mapping[str, Any]
    data: Mapping[str, str]  # fingerprint of each split or data set; of all together under ""
    data_name: str
    model: str
    model_fingerprint: str
    protocol: str = ""
    settings: Mapping[str, Any] | None = None


def read_submission(run: Path) -> Submission:
    """Read a run folder's ``report.json``, or the ``results.json`` of `vit evaluate --out` (the folder or the file).

    Raises:
        UserError: there is neither, or a file of another kind.
    """
    path = run
    if run.is_dir():
        found = [run / name for name in (RESULTS, REPORT) if (run / name).is_file()]
        if not found:
            raise UserError(
                f"{run} holds neither {RESULTS} nor {REPORT}; expected {EXPECTED}. A run that has not finished has none yet."
            )
        path = found[0]
    elif not run.exists():
        raise UserError(f"{run} does not exist; expected {EXPECTED}.")
    facts = read_json(path)
    if not isinstance(facts, dict) or not isinstance(facts.get("rows"), list):
        raise UserError(f"{path} has no list of rows; expected {EXPECTED}.")
    if not all(isinstance(row, dict) for row in facts["rows"]):
        raise UserError(f"{path}: each of its rows must be an object with task, dataset, metric, value.")
    return _results(path, facts) if path.name != REPORT else _report(path, facts)


def _results(path: Path, facts: Mapping[str, Any]) -> Submission:
    if facts.get("kind") != KIND:
        raise UserError(f"{path} is of kind {facts.get('kind')!r}, not {KIND!r}; expected {EXPECTED}.")
    if facts.get("version") != VERSION:
        raise UserError(f"{path} is of version {facts.get('version')!r}; this vitkit reads version {VERSION}.")
    data, model = _object(facts, "data", path), _object(facts, "model", path)
    return Submission(
        where=str(path),
        rows=facts["rows"],
        command=_text(facts, "command"),
        code=_text(facts, "code"),
        versions=_object(facts, "versions", path),
        data={"": _text(data, "fingerprint"), **_sets(data, path)},
        data_name=_text(data, "name"),
        model=_without_folders(_text(model, "name")),
        model_fingerprint=_text(model, "fingerprint"),
        protocol=_text(facts, "protocol"),
        settings=_object(facts, "settings", path),
    )


def _sets(data: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The fingerprint of each of several data sets."""
    sets = data.get("sets") or []
    if not isinstance(sets, list) or not all(isinstance(each, dict) for each in sets):
        raise UserError(f"{path}: data.sets must be a list of objects, got {sets!r}.")
    return {_text(each, "name"): _text(each, "fingerprint") for each in sets}


def _report(path: Path, facts: Mapping[str, Any]) -> Submission:
    data = _object(facts, "data", path)
    signs = _object(data, "fingerprints", path)
    weights = path.parent / "model" / "model.safetensors"
    recipe = facts.get("recipe")
    return Submission(
        where=str(path),
        rows=facts["rows"],
        command=_text(facts, "command"),
        code=_text(facts, "code"),
        versions=_object(facts, "versions", path),
        data={split: _text(signs, split) for split in signs},
        data_name=_text(data, "name"),
        model=_text(_object(facts, "model", path), "source"),
        model_fingerprint=_digest(weights) if weights.is_file() else "",
        protocol="finetune" if "finetune" in facts else "pretrain",
        settings=recipe if isinstance(recipe, dict) else None,
    )


def _object(facts: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = facts.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key} must be an object, got {value!r}.")
    return value


def _text(facts: Mapping[str, Any], key: str) -> str:
    value = facts.get(key)
    return value.strip() if isinstance(value, str) else ""


def _without_folders(name: str) -> str:
    """A path of this machine says nothing to others: a file's or folder's own name, of a run's model the run's."""
    path = Path(name)
    if not name or not path.exists():
        return name
    return path.stem if path.is_file() else path.resolve().parent.name if path.name == "model" else path.resolve().name


def _digest(path: Path) -> str:
    signed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            signed.update(block)
    return signed.hexdigest()
