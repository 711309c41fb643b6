"""Small pictures and PNG files for tests, made byte by byte where Pillow would not write them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)  # (H, W, C), no symmetry
# EXIF orientation -> how an upright picture lies in the file (TIFF 6.0, tag 274)
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a, -1),
}


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, raw: bytes, extra: bytes = b"") -> bytes:
    """A PNG from its raw scanlines (each begins with its filter byte)."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep(*values: int) -> bytes:
    return b"".join(struct.pack(">H", value) for value in values)
