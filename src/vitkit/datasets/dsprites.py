"""dSprites' two tasks of VTAB: where the shape lies from left to right, and how it is turned, 16 classes each.

The publisher's file is an .npz or an .hdf5 of 737,280 images of 64 x 64 with the values 0 and 1, and the classes of colour, shape,
scale, orientation (40), x (32) and y (32). Images are black and white here: the values times 255.

Source: github.com/google-deepmind/dsprites-dataset; tensorflow_datasets, image/dsprites.py; task_adaptation, data/dsprites.py.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.arrays import as_npy
from vitkit.datasets.files.facts import Facts, LabelOf, checked, one_of
from vitkit.datasets.files.hdf5 import HDF5Image, check_images, read_array
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import find_one
from vitkit.datasets.rows import Published

__all__ = ["ROWS", "BitImage", "dsprites_location", "dsprites_orientation"]

Array = np.ndarray[Any, Any]
TITLE = "dSprites"
STEM = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
LAYOUT = f"{STEM}.npz (or {STEM}.hdf5)"
ORIENTATION, X = 3, 4  # columns of the classes
CLASSES = tuple(map(str, range(16)))
BLOCK = 4_096  # images unpacked at a time
DAMAGED = (  # what zipfile and numpy raise where a file is damaged
    OSError, EOFError, KeyError, ValueError, RuntimeError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError,
)  # fmt: skip


class BitImage(NamedTuple):
    """A black and white image of 64 x 64, a bit for each pixel."""

    bits: Array  # (512,) uint8

    def read(self) -> bytes:
        """The image as `.npy` bytes."""
        return as_npy(np.unpackbits(self.bits).reshape(64, 64) * np.uint8(255))


def dsprites_location(facts: Facts) -> int:
    """The 32 places from left to right, two to a class."""
    return one_of(facts, "label_x_position") * 16 // 32


def dsprites_orientation(facts: Facts) -> int:
    """The 40 orientations, two or three to a class: floor(v * 16 / 40)."""
    return one_of(facts, "label_orientation") * 16 // 40


def _read(folder: Path, label: LabelOf) -> Source:
    path = find_one(TITLE, folder, LAYOUT, f"{STEM}.npz", f"{STEM}.hdf5")
    image, classes = _hdf5(path) if path.suffix == ".hdf5" else _npz(path)
    if classes.ndim != 2 or classes.shape[1] != 6:
        raise UserError(f"{path}: the classes are {classes.shape}; expected (images, 6).")
    order = in_tfds_order(range(len(classes)), range(len(classes)), "train")
    samples = LazySamples(len(classes), partial(_sample, image, classes, label), order)
    return Source("dsprites", CLASSES, {"train": samples})


def _sample(image: Callable[[int], ImageSource], classes: Array, label: LabelOf, index: int) -> Sample:
    facts = {"label_orientation": classes[index, ORIENTATION][None], "label_x_position": classes[index, X][None]}
    return Sample(f"{index:06d}", image(index), checked(f"{TITLE} {index:06d}", facts, label, len(CLASSES)))


def _hdf5(path: Path) -> tuple[Callable[[int], ImageSource], Array]:
    count, classes = check_images(path, "imgs", (64, 64)), read_array(path, "latents/classes")
    _check_counts(path, count, classes)
    return lambda index: HDF5Image(str(path), "imgs", index, 255), classes


def _npz(path: Path) -> tuple[Callable[[int], ImageSource], Array]:
    """The images as bits: the file unpacks to 3 GB."""
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("latents_classes.npy") as file:
                classes = np.lib.format.read_array(file, allow_pickle=False)
            with archive.open("imgs.npy") as file:
                bits = _packed(path, file)
    except DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {error}. Fetch it again.") from None
    _check_counts(path, len(bits), classes)
    return lambda index: BitImage(bits[index]), classes


def _packed(path: Path, file: Any) -> Array:
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if header is None:
        raise UserError(f"{path}: imgs is a .npy of version {version}; expected 1.0 or 2.0.")
    shape, fortran, dtype = header(file)
    if len(shape) != 3 or shape[1:] != (64, 64) or dtype != np.uint8 or fortran:
        raise UserError(f"{path}: imgs is {dtype} {shape}; expected uint8 (images, 64, 64).")
    bits = np.empty((shape[0], 512), np.uint8)
    for start in range(0, shape[0], BLOCK):
        count = min(BLOCK, shape[0] - start)
        raw = file.read(count * 4_096)
        if len(raw) < count * 4_096:
            raise UserError(f"{path}: imgs ends too early. Fetch it again.")
        bits[start : start + count] = np.packbits(np.frombuffer(raw, np.uint8).reshape(count, 4_096), axis=1)
    return bits


def _check_counts(path: Path, images: int, classes: Array) -> None:
    if images != len(classes):
        raise UserError(f"{path} has {images} images and classes of {len(classes)}. Fetch it again.")


COUNT = {"train": 737_280}
HOME, LICENCE = "https://github.com/google-deepmind/dsprites-dataset", "Apache-2.0"
ROWS = (
    Published(
        "dsprites_location", "dSprites, place from left to right", 16, COUNT, LICENCE, HOME, LAYOUT,
        partial(_read, label=dsprites_location),
    ),
    Published(
        "dsprites_orientation", "dSprites, orientation", 16, COUNT, LICENCE, HOME, LAYOUT,
        partial(_read, label=dsprites_orientation),
    ),
)  # fmt: skip
