"""Images that a publisher stores as bare numbers, one cell of a larger array each."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["ArrayImage", "RawImage", "as_npy"]


def as_npy(pixels: np.ndarray) -> bytes:
    """uint8 (H, W) or (H, W, 3) as the bytes of a `.npy` file, which every image reader here opens without loss."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
    return buffer.getvalue()


@dataclass(frozen=True)
class ArrayImage:
    """An image of an array in memory: uint8 (H, W) or (H, W, 3). All images of a file share the file's array."""

    pixels: np.ndarray

    def read(self) -> bytes:
        """The image as `.npy` bytes."""
        return as_npy(self.pixels)


@dataclass(frozen=True)
class RawImage:
    """An image stored as bare bytes at a place in a file: ``planes`` says whether as (C, H, W), as CIFAR does, or (H, W, C)."""

    path: Path
    offset: int
    shape: tuple[int, int, int]  # H, W, C
    planes: bool

    def read(self) -> bytes:
        """The image as `.npy` bytes.

        Raises:
            OSError: the file is gone or shorter than it was.
        """
        H, W, C = self.shape
        with self.path.open("rb") as file:
            file.seek(self.offset)
            raw = file.read(H * W * C)
        if len(raw) < H * W * C:
            raise OSError(f"{self.path} ends inside an image")
        flat = np.frombuffer(raw, np.uint8)
        pixels = flat.reshape(C, H, W).transpose(1, 2, 0) if self.planes else flat.reshape(H, W, C)
        return as_npy(pixels[:, :, 0] if C == 1 else pixels)
