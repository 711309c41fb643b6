"""PatchCamelyon: HDF5 files with ``x`` (images, 96, 96, 3) and ``y`` (images, 1, 1, 1).

The publisher packs each file with gzip; HDF5 is read at any place, which needs them unpacked: ``gunzip *.gz``.

Source: github.com/basveeling/pcam; torchvision, datasets/pcam.py; tensorflow_datasets, image_classification/patch_camelyon.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.hdf5 import HDF5Image, check_images, read_array
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "PatchCamelyon"
LAYOUT = "camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5, unpacked from the .h5.gz files"


def _read(folder: Path) -> Source:
    splits = {name: _split(folder, file) for name, file in (("train", "train"), ("val", "valid"), ("test", "test"))}
    return Source("patch_camelyon", ("normal", "tumor"), splits)


def _split(folder: Path, split: str) -> LazySamples:
    images, labels = (_file(folder, f"camelyonpatch_level_2_split_{split}_{part}.h5") for part in "xy")
    count = check_images(images, "x", (96, 96, 3))
    y = read_array(labels, "y").reshape(-1)
    if len(y) != count:
        raise UserError(f"{labels} has {len(y)} labels and {images.name} {count} images. Fetch them again.")
    if not np.isin(y, (0, 1)).all():
        raise UserError(f"{labels} holds labels other than 0 and 1. Fetch it again.")
    keys = [f"{split}_{number}" for number in range(count)]
    order = in_tfds_order(range(count), keys, "validation" if split == "valid" else split)
    return LazySamples(count, partial(_sample, str(images), split, y.astype(np.int64)), order)


def _sample(path: str, split: str, y: np.ndarray, index: int) -> Sample:
    return Sample(f"{split}/{index:06d}", HDF5Image(path, "x", index), int(y[index]))


def _file(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    if (folder / f"{name}.gz").is_file():
        raise UserError(f"{TITLE}: {folder / name}.gz is packed; unpack it first: gunzip {folder / name}.gz")
    raise missing(TITLE, folder, name, LAYOUT)


ROWS = (
    Published(
        "patch_camelyon", TITLE, 2, {"train": 262_144, "val": 32_768, "test": 32_768}, "CC0 1.0",
        "https://github.com/basveeling/pcam", LAYOUT, _read,
    ),
)  # fmt: skip
