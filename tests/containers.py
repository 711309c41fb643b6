"""Writers of publishers' containers, independent of the readers: TFRecord with its own checksum, NORB matrices, small pictures."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def slow_crc32c(data: bytes) -> int:
    """Bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    value = slow_crc32c(data)
    return struct.pack("<I", (((value >> 15) | (value << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)


def varint(value: int) -> bytes:
    value %= 2**64
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features: object) -> bytes:
    """A serialised tf.train.Example; ``__`` in a name stands for a slash. Lists of floats are floats, of ints int64."""
    entries = b""
    for name, value in features.items():
        values = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(v, bytes) for v in values) and values:
            kind = field(1, b"".join(field(1, v) for v in values))
        elif any(isinstance(v, float) for v in values):
            kind = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            kind = field(3, field(1, b"".join(varint(v) for v in values)))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, kind))
    return field(1, entries)


def record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def write_records(path: Path, contents: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(record, contents)))
    return path


def norb_matrix(values: np.ndarray) -> bytes:
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[str(values.dtype)]
    sizes = [*values.shape, *[1] * (3 - values.ndim)]
    return struct.pack(f"<{2 + len(sizes)}i", magic, values.ndim, *sizes) + values.tobytes()


def picture(colour: int | tuple[int, int, int], size: tuple[int, int] = (12, 10), kind: str = "png") -> bytes:
    """A plain picture, (width, height); grey where ``colour`` is one number."""
    buffer = io.BytesIO()
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def write_picture(path: Path, colour: int | tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(colour, size, "jpeg" if path.suffix in (".jpg", ".jpeg") else "png"))
    return path
