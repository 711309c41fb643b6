"""IDX files, in which MNIST is published: a header of kind and sizes, then bare numbers.

Source: the page of MNIST (yann.lecun.com/exdb/mnist, "the IDX file format"): two zero bytes, the kind of number, how many
dimensions, each of them as four bytes, the first byte the highest.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from vitkit.config import UserError

__all__ = ["read_idx"]

GZIP = b"\x1f\x8b"
KINDS = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MOST_DIMENSIONS = 4
MOST_BYTES = 4 * 2**30


def read_idx(path: Path) -> np.ndarray:
    """The array of a file, plain or gzip.

    Raises:
        UserError: no such file, of another kind, cut off, or longer than its header says.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(2)
            raw.seek(0)
            if start == GZIP:
                with gzip.GzipFile(fileobj=raw) as file:
                    return _read(path, file)
            return _read(path, raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged: {error}. Fetch it again.") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None


def _read(path: Path, file: io.BufferedIOBase) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in KINDS or not 1 <= head[3] <= MOST_DIMENSIONS:
        raise UserError(
            f"{path} is no IDX file: it begins with {head.hex(' ') or 'nothing'}; expected 00 00, the kind of number (08 for "
            "bytes) and how many dimensions."
        )
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise UserError(f"{path} is cut off inside its header. Fetch it again.")
    shape = struct.unpack(f">{head[3]}I", sizes)
    kind = np.dtype(KINDS[head[2]])
    wanted = math.prod(shape) * kind.itemsize
    if wanted > MOST_BYTES:
        raise UserError(f"{path} says it has {wanted:,} bytes of numbers; at most {MOST_BYTES:,} are read.")
    content = file.read(wanted + 1)
    if len(content) != wanted:
        more = "more" if len(content) > wanted else f"{len(content):,}"
        raise UserError(f"{path} has {more} bytes of numbers, its header says {wanted:,}. Fetch it again.")
    return np.frombuffer(content, kind).reshape(shape)
