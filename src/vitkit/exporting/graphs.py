"""Write a model's graph for a target, with what it takes to be an artefact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit.answers import MULTI
from vitkit.artefact import GRAPHS, PRECISIONS, RECORD, TARGETS, artefact_record
from vitkit.bundle import Bundle, write_facts
from vitkit.config import UserError, did_you_mean, write_file, write_json
from vitkit.engines.calibration import Calibration, prepared
from vitkit.engines.exported import RUNTIMES, missing_for
from vitkit.engines.kept.places import fingerprint
from vitkit.exporters.graph import Ends
from vitkit.unknown import FILE as UNKNOWN

__all__ = ["check_target", "notes_of", "write_graph_files", "write_record"]

NO_INT8 = "--to torch computes in fp32, fp16 or bf16; for int8 choose --to onnx or openvino."
NOTES = {
    (
        "onnx",
        "fp16",
    ): "dense layers multiply in fp16 where the processor can, in float32 where not; all else is float32",
    (
        "onnx",
        "bf16",
    ): "dense layers keep weights in bf16 and compute in float32: ONNX Runtime multiplies no bf16 on processors",
    ("openvino", "fp16"): "weights of dense layers are kept in fp16; processors compute them in float32",
    ("openvino", "bf16"): "products, and what passes between operations, are in bf16 by INFERENCE_PRECISION_HINT",
    ("torch", "fp16"): "dense layers multiply in fp16, all else is float32",
    ("torch", "bf16"): "dense layers multiply in bf16, all else is float32",
}


def check_target(target: str, precision: str) -> None:
    """Refuse what cannot be exported here, before any work.

    Raises:
        UserError: no such target or precision, or a package that is missing.
    """
    for option, value, known in (("--to", target, TARGETS), ("--precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"{option} {value!r}; known: {', '.join(known)}.{did_you_mean(value, known)}")
    if (target, precision) == ("torch", "int8"):
        raise UserError(NO_INT8)
    if reason := missing_for(target):
        raise UserError(f"an export to {target} is proved by {RUNTIMES[target]}, which cannot be used here: {reason}")


def notes_of(target: str, precision: str, calibration: Calibration | None) -> tuple[str, ...]:
    """What is in which precision, for people."""
    if calibration is not None:
        return calibration.notes
    note = NOTES.get((target, precision))
    return (note,) if note else ()


def write_graph_files(
    bundle: Bundle, folder: Path, target: str, precision: str, calibration: Calibration | None = None
) -> dict[str, str]:
    """Write the graph into a folder.

    Returns:
        SHA-256 of each file.

    Raises:
        UserError: as the writers of `vitkit.exporters`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record, path = bundle.require_preprocess(), folder / GRAPHS[target]
    ends = Ends(record.mean, record.std, bundle.temperature, bundle.task == MULTI)
    model, ranges = (bundle.model, None) if calibration is None else prepared(bundle, calibration)
    stored = "fp32" if precision == "int8" else precision
    try:
        if target == "onnx":
            from vitkit.exporters.onnx import write_onnx

            write_onnx(model, path, ranges=ranges, stored=stored, ends=ends)
        elif target == "openvino":
            from vitkit.exporters.openvino import write_openvino

            write_openvino(model, path, ranges=ranges, stored=stored, ends=ends)
        else:
            from vitkit.exporters.program import write_program

            write_program(model, path, stored=stored, ends=ends)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from None
    return {each.name: _sha256(each) for each in sorted(folder.iterdir())}


def write_record(
    bundle: Bundle,
    folder: Path,
    target: str,
    precision: str,
    files: Mapping[str, str],
    proof: Mapping[str, Any],
    notes: tuple[str, ...],
    text: str,
) -> None:
    """Write what stands beside the graph: `vitkit.json` last."""
    write_facts(bundle, folder)
    if bundle.unknown:
        files = {**files, UNKNOWN: _sha256(folder / UNKNOWN)}
    write_file(folder / "README.md", text.encode())
    c = bundle.config
    kind = "uint8" if c.in_channels == 3 else "float32"
    rows = ["B"] if c.pool != "none" else ["B", "tokens"]
    outputs = {"logits": [*rows, c.num_classes or c.feature_dim], "features": [*rows, c.feature_dim]}
    if c.num_classes:
        outputs["probabilities"] = [*rows, c.num_classes]
    interface = {
        "input": {"name": "images", "type": kind, "shape": ["B", *c.image_size, c.in_channels], "layout": "BHWC"},
        "outputs": {name: {"type": "float32", "shape": shape} for name, shape in outputs.items()},
        "width": c.feature_dim,
    }
    sign = fingerprint(bundle)
    record = artefact_record(
        bundle.facts(sign),
        target=target,
        precision=precision,
        fingerprint=sign,
        parameters=sum(each.numel() for each in bundle.model.parameters()),
        files=files,
        interface=interface,
        proof=proof,
        notes=notes,
    )
    write_json(folder / RECORD, record)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
