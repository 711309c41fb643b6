"""A small picture of each image, kept on disk, and the few numbers that describe it, kept in memory.

A thumbnail is the whole upright image squashed to 32 x 32: luma, and chroma at half that size, 1,536 bytes. Its description
is the low frequencies of the cosine transform in gray levels, 576 bytes. Of 100,000 images all descriptions take 55 MiB.
"""

from __future__ import annotations

import base64
import contextlib
import io
import tempfile
import weakref
from collections.abc import Sequence
from typing import IO

import numpy as np
from PIL import Image

from vitkit.data.containers import ImageSource
from vitkit.data.pixels import MAX_PIXELS, ImageError, open_image

__all__ = [
    "CHROMA",
    "LUMA",
    "SIDE",
    "THUMBNAIL_BYTES",
    "Thumbnails",
    "cosines",
    "data_address",
    "describe",
    "picture",
    "picture_address",
    "thumbnail",
    "to_rgb",
]

SIDE = 32  # of the luma; chroma is half of it
THUMBNAIL_BYTES = SIDE * SIDE + 2 * (SIDE // 2) ** 2
LUMA = 16  # cosine frequencies of luma that are kept, each way
CHROMA = 4  # and of each chroma


def thumbnail(image: Image.Image) -> bytes:
    """The thumbnail of an upright RGB image: luma 32 x 32, then Cb and Cr 16 x 16, uint8."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0).convert("YCbCr")
    planes = np.asarray(small, np.float32)
    chroma = planes[..., 1:].reshape(SIDE // 2, 2, SIDE // 2, 2, 2).mean((1, 3))
    parts = (planes[..., 0], chroma[..., 0], chroma[..., 1])
    return b"".join(np.round(part).astype(np.uint8).tobytes() for part in parts)


def picture(image: Image.Image, side: int = 96) -> bytes:
    """A JPEG of an upright RGB image for a page, its long side at most ``side``; small images are enlarged in whole steps."""
    if (times := side // max(image.size)) > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    elif max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def picture_address(source: ImageSource, max_pixels: int = MAX_PIXELS) -> str:
    """The picture of an image as a data: address; empty where the file cannot be shown."""
    try:
        return data_address(picture(open_image(source, max_pixels)))
    except (ImageError, OSError):
        return ""


def data_address(jpeg: bytes) -> str:
    """What a page can hold instead of a file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def to_rgb(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails (n, 1536) uint8 to RGB (n, 32, 32, 3) uint8."""
    luma, cb, cr = _planes(thumbnails)
    cb, cr = (np.repeat(np.repeat(plane - 128, 2, 1), 2, 2) for plane in (cb, cr))
    rgb = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], -1)  # JFIF 1.02
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def describe(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails (n, 1536) uint8 to descriptions (n, 288) float16: luma (16, 16), Cb (4, 4), Cr (4, 4), in gray levels.

    The cosines are orthonormal over the image, so that the distance of two descriptions is the root mean square difference
    of the blurred images.
    """
    luma, cb, cr = _planes(thumbnails)
    fine, coarse = cosines(LUMA, SIDE) / SIDE, cosines(CHROMA, SIDE // 2) / (SIDE // 2)
    parts = [fine @ luma @ fine.T, coarse @ cb @ coarse.T, coarse @ cr @ coarse.T]
    return np.concatenate([part.reshape(len(thumbnails), part.shape[1] * part.shape[2]) for part in parts], 1).astype(
        np.float16
    )


def cosines(count: int, points: int, start: float = 0.0, stop: float = 1.0) -> np.ndarray:
    """The first cosines (count, points), orthonormal on [0, 1], at the middles of ``points`` cells of [start, stop]."""
    at = start + (np.arange(points, dtype=np.float32) + 0.5) / points * (stop - start)
    waves = np.sqrt(2.0) * np.cos(np.pi * np.arange(count, dtype=np.float32)[:, None] * at)
    waves[0] = 1
    return waves.astype(np.float32)


def _planes(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    half, n = SIDE // 2, len(thumbnails)
    luma, cb, cr = np.split(thumbnails.astype(np.float32), [SIDE * SIDE, SIDE * SIDE + half * half], axis=1)
    return luma.reshape(n, SIDE, SIDE), cb.reshape(n, half, half), cr.reshape(n, half, half)


IN_MEMORY = 2**24  # bytes of thumbnails that need no file


class Thumbnails:
    """Thumbnails, written in order, read in any; many of them lie in a temporary file that goes with the object."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - lives as long as the object
        weakref.finalize(self, _let_go, self._file)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @classmethod
    def joined(cls, parts: Sequence[Thumbnails]) -> Thumbnails:
        """All thumbnails of several files, one after the other; a single one is itself."""
        if len(parts) == 1:
            return parts[0]
        whole = cls()
        for part in parts:
            for start in range(0, len(part), 1024):
                for row in part.read(start, start + 1024):
                    whole.append(row.tobytes())
        return whole

    def append(self, content: bytes) -> None:
        """Add one thumbnail."""
        assert len(content) == THUMBNAIL_BYTES
        self._file.seek(self._count * THUMBNAIL_BYTES)
        self._file.write(content)
        self._count += 1

    def read(self, start: int, stop: int) -> np.ndarray:
        """Thumbnails start .. stop-1 as (n, 1536) uint8."""
        self._file.seek(start * THUMBNAIL_BYTES)
        data = self._file.read((min(stop, self._count) - start) * THUMBNAIL_BYTES)
        return np.frombuffer(data, np.uint8).reshape(-1, THUMBNAIL_BYTES)


def _let_go(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what could not be written was told when it was written or read
        file.close()
