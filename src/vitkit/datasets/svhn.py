"""SVHN, cropped digits of 32 x 32: MATLAB files with ``X`` (32, 32, 3, images) and ``y``, where 10 stands for the digit 0.

Source: ufldl.stanford.edu/housenumbers; torchvision, datasets/svhn.py; tensorflow_datasets, image_classification/svhn.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.arrays import ArrayImage
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.mat import read_mat
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import find_one
from vitkit.datasets.rows import Published

__all__ = ["ROWS"]

LAYOUT = "train_32x32.mat and test_32x32.mat (extra_32x32.mat is not read)"


def _read(folder: Path) -> Source:
    splits = {split: _split(find_one("SVHN", folder, LAYOUT, f"{split}_32x32.mat")) for split in ("train", "test")}
    return Source("svhn", tuple(map(str, range(10))), splits)


def _split(path: Path) -> LazySamples:
    found = read_mat(path, "X", "y")
    X, y = np.asarray(found["X"]), np.atleast_1d(np.asarray(found["y"]))
    X = X[..., None] if X.ndim == 3 else X  # one image alone is squeezed
    if X.dtype != np.uint8 or X.ndim != 4 or X.shape[:3] != (32, 32, 3) or y.shape != X.shape[3:]:
        raise UserError(
            f"{path}: X is {X.dtype} {X.shape} and y {y.shape}; expected uint8 (32, 32, 3, images) and a label for each image."
        )
    if (wrong := (y < 1) | (y > 10)).any():
        raise UserError(f"{path}: image {int(wrong.argmax())} has the label {y[wrong][0]}; expected 1 to 10, 10 for 0.")
    pixels, labels = np.ascontiguousarray(X.transpose(3, 0, 1, 2)), (y % 10).astype(np.int64)
    stem = path.stem.split("_")[0]
    order = in_tfds_order(range(len(y)), range(len(y)), stem)
    return LazySamples(len(y), lambda i: Sample(f"{stem}/{i:06d}", ArrayImage(pixels[i]), int(labels[i])), order)


ROWS = (
    Published(
        "svhn", "SVHN", 10, {"train": 73_257, "test": 26_032}, "non-commercial use only",
        "http://ufldl.stanford.edu/housenumbers/", LAYOUT, _read,
    ),
)  # fmt: skip
