"""Safetensors files: the header is checked here, before anything is allocated, and the values are read, never mapped.

A mapped file that is truncated later kills the process. Source of the layout: the README of
github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from vitkit.config import UserError
from vitkit.weights.opened import (
    WeightsFile,
    check_count,
    described,
    meta_tensor,
    raw_bytes,
    read_exactly,
    shown,
    stamp_of,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["open_safetensors", "read_tensors"]

MOST_HEADER = 100_000_000  # bytes, as in the library
MOST_BYTES = 2**50
# Those of fewer than 8 bits (F4, F6) are left out.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class _Entry(NamedTuple):
    tensor: Tensor  # meta
    begin: int  # of its bytes in the file
    end: int


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        UserError: missing, truncated, foreign, or not of the checksum.
    """
    if sha256:
        stamp_of(path)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}.") from None
        if digest != sha256:
            raise UserError(
                f"{path} is not the file its config.json describes (checksum differs): truncated or replaced."
            )
    return open_safetensors(path).read()


def open_safetensors(path: Path) -> WeightsFile:
    """Open a safetensors file.

    Raises:
        UserError: missing, truncated, or with a header that cannot be true.
    """
    stamp = stamp_of(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER, stamp.size - 8):
                _refuse(path, f"its header would be {length} bytes long in a file of {stamp.size}")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    try:
        raw = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        _refuse(path, "its header is not JSON that says each thing once")
    metadata = raw.pop("__metadata__", None) if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(metadata, dict | None):
        _refuse(path, "its header is not a table of tensors")
    check_count(len(raw), path)
    entries = {name: _entry(value, 8 + length, f"tensor {shown(name)}", path) for name, value in raw.items()}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: item[1][1:]):
        if entry.begin != end:
            _refuse(path, f"tensor {shown(name)} begins at byte {entry.begin} where {end} is due: a gap or an overlap")
        end = entry.end
    if end != stamp.size:
        _refuse(path, f"its header describes {end} bytes, the file has {stamp.size}")
    return WeightsFile(
        path=path,
        container="safetensors",
        header={name: entry.tensor for name, entry in entries.items()},
        metadata=metadata or {},
        wrappers=(),
        files=(path,),
        stamps=(stamp,),
        load=lambda names: _load(path, entries, names),
    )


def _refuse(path: Path, why: str) -> NoReturn:
    raise UserError(f"{path} is not a whole safetensors file: {why}. Fetch or make it again.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _entry(value: Any, start: int, what: str, path: Path) -> _Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{what} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise UserError(f"{path}: {what} is of dtype {shown(kind)}, which is not read. Known: {', '.join(DTYPES)}.")
    whole = isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)
    if not whole or not isinstance(shape, list) or not 0 <= offsets[0] <= offsets[1] <= MOST_BYTES:
        _refuse(path, f"{what} has no sound shape and offsets")
    tensor = meta_tensor(shape, _dtype(kind), f"{path} is not a whole safetensors file: {what}")
    if math.prod(shape) * tensor.element_size() != offsets[1] - offsets[0]:
        _refuse(
            path, f"{what} of shape {tuple(shape)} and dtype {kind} does not fill its {offsets[1] - offsets[0]} bytes"
        )
    return _Entry(tensor, start + offsets[0], start + offsets[1])


def _dtype(kind: str) -> torch.dtype:
    import torch

    return getattr(torch, DTYPES[kind])


def _load(path: Path, entries: dict[str, _Entry], names: Collection[str]) -> dict[str, Tensor]:
    tensors = {}
    try:
        with path.open("rb", buffering=0) as file:
            for name in sorted(names, key=lambda name: entries[name].begin):
                entry = entries[name]
                raw = raw_bytes(entry.end - entry.begin, f"{path}: {shown(name)}")
                file.seek(entry.begin)
                read_exactly(file, raw, str(path))
                tensors[name] = described(raw, entry.tensor.dtype, entry.tensor.shape)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    return tensors
