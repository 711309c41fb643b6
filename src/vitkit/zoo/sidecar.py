"""`vitkit.json`: what a foreign weights file cannot say of its model, written beside it and read before anything else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit import __version__
from vitkit.answers import MULTI, SINGLE
from vitkit.config import UserError, from_dict, read_json
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig

__all__ = ["SIDECAR", "Sidecar", "read_sidecar"]

SIDECAR = "vitkit.json"
FORMAT = "vitkit-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Sidecar:
    """The content of `vitkit.json`."""

    weights: str  # file name in the same folder
    layout: str  # NAME of a module of vitkit.converters
    model: ViTConfig
    preprocess: Preprocess | None
    classes: tuple[str, ...] | None
    source: str
    licence: str
    calibration: dict[str, Any]  # fields of Bundle: task, temperature, thresholds

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "vitkit_version": __version__,
            **dataclasses.asdict(self),
        }


def read_sidecar(folder: Path) -> Sidecar | None:
    """Read ``folder/vitkit.json``; None where there is none.

    Raises:
        UserError: of a newer format, or incomplete.
    """
    path = folder / SIDECAR
    if not path.is_file():
        return None
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{path} is not of format {FORMAT!r}. Remove it, or write the folder again with vit convert.")
    version = values.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}; this vitkit {__version__} reads up to {FORMAT_VERSION}.")
    values.setdefault("calibration", {})  # of a file that somebody wrote by hand
    fields = {f.name for f in dataclasses.fields(Sidecar)}
    missing = sorted(fields - set(values))
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; write the folder again with vit convert.")
    _check(path, values)
    return Sidecar(
        weights=values["weights"],
        layout=values["layout"],
        model=from_dict(ViTConfig, values["model"], f"{path}: model"),
        preprocess=values["preprocess"] and from_dict(Preprocess, values["preprocess"], f"{path}: preprocess"),
        classes=tuple(values["classes"]) if values["classes"] else None,
        source=values["source"],
        licence=values["licence"],
        calibration=_calibration(path, values["calibration"]),
    )


def _calibration(path: Path, values: Any) -> dict[str, Any]:
    known = {"task": str, "temperature": float, "thresholds": list}
    if not isinstance(values, dict) or not set(values) <= set(known):
        raise UserError(f"{path}: calibration must hold {', '.join(known)}, got {values!r:.80}.")
    temperature, thresholds = values.get("temperature", 1.0), values.get("thresholds")
    if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
        raise UserError(f"{path}: temperature must be a number above 0, got {temperature!r}.")
    if thresholds is not None and not (
        isinstance(thresholds, list) and all(type(t) in (int, float) and 0 <= t <= 1 for t in thresholds)
    ):
        raise UserError(f"{path}: thresholds must be numbers between 0 and 1, got {thresholds!r:.80}.")
    if values.get("task", SINGLE) not in [SINGLE, MULTI]:
        raise UserError(f"{path}: task must be {SINGLE} or {MULTI}, got {values['task']!r:.80}.")
    return {**values, **({} if thresholds is None else {"thresholds": tuple(map(float, thresholds))})}


def _check(path: Path, values: Mapping[str, Any]) -> None:
    for name in ("weights", "layout", "source", "licence"):
        if not isinstance(values[name], str):
            raise UserError(f"{path}: {name} must be text, got {values[name]!r:.80}.")
    if Path(values["weights"]).name != values["weights"]:
        raise UserError(f"{path}: weights must be the name of a file beside it, got {values['weights']!r}.")
    for name in ("model", "preprocess"):
        if not isinstance(values[name], dict) and (name == "model" or values[name] is not None):
            raise UserError(f"{path}: {name} must hold named values, got {values[name]!r:.80}.")
    classes = values["classes"]
    if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
        raise UserError(f"{path}: classes must be a list of names or null, got {classes!r:.80}.")
