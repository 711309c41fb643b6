"""An exported artefact: a graph that another runtime computes, in a folder with all it takes to answer as the model did.

    model.onnx (and model.onnx.data) | model.xml, model.bin | model.pt2
                         the graph: cropped pixels in; logits, features and calibrated probabilities out
    vitkit.json          what the graph is and takes, how images become its crops, classes, calibration, and the proof of it
    unknown.safetensors  what tells images unlike the training images (where the model has it)
    training.json        of the run that made the model (where there was one)
    README.md            how to compute it without vitkit

Reading it imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit import __version__
from vitkit.answers import Answers
from vitkit.bundle import check_facts, read_facts
from vitkit.config import UserError, read_json
from vitkit.data.pixels import Preprocess
from vitkit.unknown import read_unknown_arrays

__all__ = [
    "FORMAT_VERSION",
    "GRAPHS",
    "PRECISIONS",
    "RECORD",
    "TARGETS",
    "Artefact",
    "artefact_record",
    "find_artefact",
    "read_artefact",
    "refusal",
]

FORMAT, FORMAT_VERSION = "vitkit-artefact", 1
RECORD = "vitkit.json"
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}  # by target
TARGETS = tuple(GRAPHS)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
BUNDLE_FORMAT = 2  # of the facts that the record shares with a bundle's JSON


@dataclass(frozen=True)
class Artefact:
    """What `vitkit.json` says, its files being what it says of them."""

    folder: Path
    target: str  # one of `TARGETS`
    precision: str  # one of `PRECISIONS`
    fingerprint: str  # of the model that it was made from
    identity: str  # SHA-256 of the graph's files: another one gives other digits
    parameters: int
    model: Mapping[str, Any]  # fields of `ViTConfig`
    answers: Answers
    preprocess: Preprocess
    source: str
    licence: str
    training: Mapping[str, Any]
    proof: Mapping[str, Any]  # what it was compared with, and the result
    notes: tuple[str, ...]  # what stays in higher precision, what it was exported in spite of

    @property
    def graph(self) -> Path:
        """The file that the runtime reads."""
        return self.folder / GRAPHS[self.target]


def find_artefact(path: Path) -> Path | None:
    """The folder of the artefact that ``path``, a folder or its graph, is; None where it is none."""
    try:
        folder = path if path.is_dir() else path.parent
        if (folder == path.parent and path.name not in GRAPHS.values()) or not (folder / RECORD).is_file():
            return None
        values = read_json(folder / RECORD)
    except (UserError, OSError):  # a name too long for a file, or what is no JSON
        return None
    return folder if isinstance(values, dict) and values.get("format") == FORMAT else None


def artefact_record(
    facts: Mapping[str, Any],
    *,
    target: str,
    precision: str,
    fingerprint: str,
    parameters: int,
    files: Mapping[str, str],
    interface: Mapping[str, Any],
    proof: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The content of `vitkit.json`.

    Args:
        facts: `Bundle.facts`.
        files: SHA-256 of each file of the graph.
        interface: inputs and outputs of the graph, for those who compute it without vitkit.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "vitkit_version": __version__,
        "target": target,
        "precision": precision,
        "fingerprint": fingerprint,
        "parameters": parameters,
        "files": dict(files),
        "interface": interface,
        **facts,
        "proof": proof,
        "notes": list(notes),
    }


def read_artefact(folder: Path) -> Artefact:
    """Read an artefact's folder, and compare its files with what was written.

    Raises:
        UserError: of a newer format, incomplete, damaged or changed.
    """
    path = folder / RECORD
    values = read_json(path)
    version = values.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}; this vitkit {__version__} reads up to {FORMAT_VERSION}.")
    missing = [name for name in ("target", "precision", "fingerprint", "parameters", "files") if name not in values]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; export the model again.")
    target = values["target"]
    if target not in TARGETS or values["precision"] not in PRECISIONS or not isinstance(values["files"], dict):
        raise UserError(f"{path} names no target, precision and files that vitkit knows; export the model again.")
    check_facts(path, values, BUNDLE_FORMAT)
    if values["preprocess"] is None:
        raise UserError(f"{path} does not say how images become the graph's crops; export the model again.")
    for name, digest in {GRAPHS[target]: None, **values["files"]}.items():
        _check_file(folder / name, digest)
    model = values["model"]
    try:
        num_classes, size, width = (
            int(model["num_classes"]),
            tuple(model["image_size"]),
            int(values["interface"]["width"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} does not say what the graph gives; export the model again.") from None
    facts = read_facts(folder, values, num_classes, size)
    unknown = read_unknown_arrays(folder, values.get("unknown"), width)
    answers = Answers(num_classes, facts["classes"], facts["temperature"], facts["task"], facts["thresholds"], unknown)
    return Artefact(
        folder,
        target,
        values["precision"],
        str(values["fingerprint"]),
        hashlib.sha256(json.dumps(values["files"], sort_keys=True).encode()).hexdigest(),
        int(values["parameters"]),
        model,
        answers,
        facts["preprocess_record"],
        facts["source"],
        facts["licence"],
        facts["training"],
        values.get("proof", {}),
        tuple(map(str, values.get("notes", ()))),
    )


def refusal(folder: Path) -> UserError:
    """What to say where the model's modules are needed."""
    return UserError(
        f"{folder} is an exported artefact: a graph for another runtime, without the model's modules. vit predict, evaluate, "
        "benchmark and serve take it; for all else name the model that it was exported from."
    )


def _check_file(path: Path, digest: str | None) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if digest else None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. Export the model again.") from None
    if digest and found != digest:
        raise UserError(
            f"{path} is not the file that was exported: it is damaged or was changed. Export the model again."
        )
