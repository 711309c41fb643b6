"""The binary matrices of the NORB data sets, plain or gzip (their `.mat` has nothing to do with MATLAB).

Little-endian int32: a magic number that tells the type, the number of dimensions, then the dimensions, at least three (unused
ones are 1); the values follow, the last dimension running fastest.

Source: "NORB File Format", cs.nyu.edu/~ylclab/data/norb-v1.0-small; tensorflow_datasets, image_classification/smallnorb.py.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vitkit.config import UserError

__all__ = ["Header", "read_header", "read_matrix"]

Array = np.ndarray[Any, Any]
TYPES = {0x1E3D4C55: "uint8", 0x1E3D4C54: "<i4"}  # the two that smallNORB uses
MOST_DIMENSIONS = 8


class Header(NamedTuple):
    """What a file says of itself."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # of the first value


def read_header(path: Path) -> Header:
    """Type and shape of a matrix.

    Raises:
        UserError: not such a file, or, where it is not packed, another length than it says.
    """
    try:
        with _open(path) as file:
            header = _header(path, file)
        size = header.offset + int(np.prod(header.shape)) * header.dtype.itemsize
        if not _is_packed(path) and (length := path.stat().st_size) != size:
            raise UserError(f"{path} is of {length:,} bytes and says that it has {size:,}. Fetch it again.")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}. Fetch it again.") from None
    return header


def read_matrix(path: Path, *, first_of_pairs: bool = False) -> Array:
    """The values, all of them, or of a matrix (n, 2, ...) the first of each pair, so that half as much is held.

    Raises:
        UserError: as `read_header`, or the file ends too early.
    """
    header = read_header(path)
    shape = (header.shape[0], *header.shape[2:]) if first_of_pairs else header.shape
    try:
        values = np.empty(shape, header.dtype)
    except (MemoryError, ValueError):
        raise UserError(
            f"{path} says that it has the shape {header.shape}, too much to hold. Fetch it again."
        ) from None
    row = int(np.prod(header.shape[1:])) * header.dtype.itemsize
    try:
        with _open(path) as file:
            file.seek(header.offset)
            for index in range(header.shape[0]):
                raw = file.read(row)
                if len(raw) < row:
                    raise UserError(f"{path} ends inside entry {index} of {header.shape[0]}. Fetch it again.")
                entry = np.frombuffer(raw, header.dtype).reshape(header.shape[1:])
                values[index] = entry[0] if first_of_pairs else entry
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}. Fetch it again.") from None
    return values


def _is_packed(path: Path) -> bool:
    return path.suffix == ".gz"


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if _is_packed(path) else path.open("rb")  # type: ignore[return-value]


def _header(path: Path, file: BinaryIO) -> Header:
    start = file.read(8)
    magic, dimensions = np.frombuffer(start, "<i4").tolist() if len(start) == 8 else (0, 0)
    if magic not in TYPES or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise UserError(
            f"{path} is no NORB matrix: it begins with 0x{magic & 0xFFFFFFFF:08X}, expected "
            f"{' or '.join(f'0x{known:08X}' for known in TYPES)}."
        )
    stored = max(3, dimensions)
    sizes = np.frombuffer(file.read(4 * stored).ljust(4 * stored, b"\0"), "<i4")[:dimensions]
    if (sizes < 1).any():
        raise UserError(f"{path} says that it has the shape {tuple(sizes.tolist())}. Fetch it again.")
    return Header(np.dtype(TYPES[magic]), tuple(sizes.tolist()), 8 + 4 * stored)
