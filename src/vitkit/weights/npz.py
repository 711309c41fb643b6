"""NumPy archives (`.npz`): the header of each array is parsed here, without NumPy and without its pickles.

Source of the layout: NumPy's reference, numpy.lib.format.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.weights.archive import Archive, read_all
from vitkit.weights.opened import Stamp, WeightsFile, check_count, described, meta_tensor, raw_bytes, shown

__all__ = ["open_npz"]

MAGIC = b"\x93NUMPY"
MOST_HEADER = 1000  # bytes; those of plain arrays have about 128
DTYPES = {
    "f8": torch.float64, "f4": torch.float32, "f2": torch.float16,
    "i8": torch.int64, "i4": torch.int32, "i2": torch.int16, "i1": torch.int8,
    "u8": torch.uint64, "u4": torch.uint32, "u2": torch.uint16, "u1": torch.uint8,
    "b1": torch.bool, "c8": torch.complex64, "c16": torch.complex128,
    "V2": torch.bfloat16,  # NumPy has no bfloat16: JAX's arrays are saved as two bytes without a type (VIT_SPEC 2.1)
}  # fmt: skip


class _Entry(NamedTuple):
    member: str
    start: int  # of the values in the member
    tensor: Tensor  # meta
    fortran: bool  # the first index varies fastest
    swapped: bool  # big-endian


def open_npz(path: Path, archive: Archive, stamp: Stamp) -> WeightsFile:
    """Open a NumPy archive.

    Raises:
        UserError: damaged, members that are not plain arrays of numbers, or sizes that do not fit.
    """
    check_count(len(archive.members), path)
    entries = {}
    with archive.opened() as zipped:
        for member, info in archive.members.items():
            with archive.stream(zipped, member) as stream:
                entry = _entry(stream, member, f"{path} is not a whole .npz file of arrays: {shown(member)}")
            need = entry.start + entry.tensor.numel() * entry.tensor.element_size()
            if need != info.file_size:
                raise UserError(
                    f"{path}: {shown(member)} needs {need} bytes for its shape {tuple(entry.tensor.shape)} and has "
                    f"{info.file_size}: damaged. Fetch it again."
                )
            entries[member.removesuffix(".npy")] = entry
    return WeightsFile(
        path=path,
        container="npz",
        header={name: entry.tensor for name, entry in entries.items()},
        metadata={},
        wrappers=(),
        files=(path,),
        stamps=(stamp,),
        load=lambda names: _load(path, archive, entries, names),
    )


def _entry(stream: IO[bytes], member: str, where: str) -> _Entry:
    if not member.endswith(".npy"):
        raise UserError(f"{where} is not an array.")
    head = stream.read(8)
    width = {1: 2, 2: 4, 3: 4}.get(head[6] if len(head) == 8 else 0)
    if not head.startswith(MAGIC) or width is None:
        raise UserError(f"{where} does not begin as an array.")
    length = int.from_bytes(stream.read(width), "little")
    if length > MOST_HEADER:
        raise UserError(f"{where} has a header of {length} bytes, too long for a plain array of numbers.")
    described_as = _parse(stream.read(length), where)
    shape, fortran = described_as["shape"], described_as["fortran_order"]
    if not isinstance(shape, tuple) or not isinstance(fortran, bool):
        raise UserError(f"{where} has a header that says no shape.")
    dtype, swapped = _dtype(described_as["descr"], where)
    return _Entry(member, 8 + width + length, meta_tensor(shape, dtype, where), fortran, swapped)


def _parse(header: bytes, where: str) -> dict[str, Any]:
    text = header.decode("latin-1")
    try:
        if "\\" in text:  # an escape would only be a warning
            raise ValueError
        value = ast.literal_eval(text.strip())
        if not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
            raise ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UserError(f"{where} has a header that does not describe an array.") from None
    return value


def _dtype(descr: Any, where: str) -> tuple[torch.dtype, bool]:
    if isinstance(descr, str) and descr[:1] in "<>|=" and descr[1:] in DTYPES:
        return DTYPES[descr[1:]], descr[0] == ">"
    if isinstance(descr, str) and descr.lstrip("<>|=") == "O":
        raise UserError(
            f"{where} holds Python objects (dtype object). Reading them would run code from the file; nothing was run. "
            "Get the weights as plain arrays."
        )
    kind = "a structure of several fields" if isinstance(descr, list) else f"dtype {shown(descr)}"
    raise UserError(f"{where} is of {kind}, which no weights are; known: {', '.join(DTYPES)}.")


def _load(path: Path, archive: Archive, entries: dict[str, _Entry], names: Collection[str]) -> dict[str, Tensor]:
    tensors = {}
    with archive.opened() as zipped:
        for name, entry in entries.items():
            if name not in names:
                continue
            what, shape = f"{path}: {shown(name)}", entry.tensor.shape
            raw = raw_bytes(math.prod(shape) * entry.tensor.element_size(), what)
            with archive.stream(zipped, entry.member) as stream:
                stream.read(entry.start)
                read_all(stream, raw, what)
            if entry.swapped:
                part = entry.tensor.element_size() // (2 if entry.tensor.is_complex() else 1)
                raw = raw.reshape(-1, part).flip(1).reshape(-1)
            if entry.fortran:
                reverse = described(raw, entry.tensor.dtype, shape[::-1])
                tensors[name] = reverse.permute(tuple(reversed(range(len(shape))))).contiguous()
            else:
                tensors[name] = described(raw, entry.tensor.dtype, shape)
    return tensors
