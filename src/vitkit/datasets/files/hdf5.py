"""HDF5 files, read cell by cell: an image is fetched when it is needed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.datasets.files.arrays import as_npy

__all__ = ["HDF5Image", "check_images", "read_array"]

Array = np.ndarray[Any, Any]
# What h5py raises where a file is damaged.
DAMAGED = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)


class HDF5Image(NamedTuple):
    """An image of an HDF5 data set (n, H, W[, 3]) of uint8; ``scale`` multiplies its values (255 where they are 0 and 1)."""

    path: str
    name: str
    number: int
    scale: int = 1

    def read(self) -> bytes:
        """The image as `.npy` bytes.

        Raises:
            OSError: the file is gone or damaged, or has no such image.
        """
        try:
            pixels = _opened(self.path, os.getpid())[self.name][self.number]
        except DAMAGED as error:
            raise OSError(
                errno.EIO, f"image {self.number} of {self.name!r} cannot be read: {error}", self.path
            ) from None
        return as_npy(np.asarray(pixels) * np.uint8(self.scale))


@lru_cache(maxsize=8)
def _opened(path: str, _process: int) -> Any:  # an open file must not be shared with a forked process
    import h5py

    return h5py.File(path, "r")


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise UserError(f"reading {path.name} needs h5py: pip install 'vitkit[published]'.") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read as an HDF5 file: {error}. Fetch it again.") from None


def check_images(path: Path, name: str, shape: tuple[int, ...]) -> int:
    """How many images of ``shape``, uint8, the data set ``name`` of a file holds.

    Raises:
        UserError: h5py is not installed, not such a file, or other contents.
    """
    with _open(path) as file:
        held = _dataset(file, path, name)
        if held.dtype != np.uint8 or held.shape[1:] != shape:
            raise UserError(
                f"{path}: {name!r} is {held.dtype} {held.shape}; expected uint8 (images, {', '.join(map(str, shape))})."
            )
        return int(held.shape[0])


def read_array(path: Path, name: str) -> Array:
    """The whole data set ``name`` of a file: labels.

    Raises:
        UserError: as `check_images`.
    """
    with _open(path) as file:
        return np.asarray(_dataset(file, path, name)[()])


def _dataset(file: Any, path: Path, name: str) -> Any:
    import h5py

    held = file.get(name)
    if not isinstance(held, h5py.Dataset):
        raise UserError(f"{path} has no data set {name!r}; it holds {', '.join(file) or 'nothing'}.")
    return held
