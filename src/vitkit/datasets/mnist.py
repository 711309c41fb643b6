"""MNIST: handwritten digits in IDX files.

Layout: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`, each plain or .gz, perhaps in raw/ as torchvision keeps
them. Source: torchvision.datasets.mnist; tensorflow_datasets mnist 3.0.1, whose keys are the numbers of the images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.arrays import ArrayImage
from vitkit.datasets.files.idx import read_idx
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "MNIST"
FILES = {"train": "train", "test": "t10k"}
LAYOUT = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz"
)
CLASSES = tuple("0123456789")


def _read(folder: Path) -> Source:
    splits = {}
    for split, start in FILES.items():
        images = _array(folder, f"{start}-images-idx3-ubyte", 3)
        labels = _array(folder, f"{start}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise UserError(f"{TITLE} in {folder}: {start} has {len(images):,} images and {len(labels):,} labels.")
        if labels.size and int(labels.max()) >= len(CLASSES):
            raise UserError(f"{TITLE} in {folder}: {start}-labels has the class {labels.max()}; expected 0 to 9.")
        samples = [Sample(f"{split}/{i:05}", ArrayImage(images[i]), label) for i, label in enumerate(labels.tolist())]
        splits[split] = in_tfds_order(samples, range(len(samples)), split)
    return Source("mnist", CLASSES, splits)


def _array(folder: Path, name: str, dimensions: int) -> np.ndarray:
    for place in (folder, folder / "raw"):
        for ending in ("", ".gz"):
            if (path := place / f"{name}{ending}").is_file():
                array = read_idx(path)
                if array.ndim != dimensions or array.dtype != np.uint8:
                    raise UserError(
                        f"{TITLE}: {path} has {array.ndim} dimensions of {array.dtype}; expected {dimensions} of uint8."
                    )
                return array
    raise missing(TITLE, folder, name, LAYOUT)


ROWS = (
    Published(
        name="mnist",
        title=TITLE,
        classes=10,
        counts={"train": 60_000, "test": 10_000},
        licence="none stated; often given as CC BY-SA 3.0",
        source="http://yann.lecun.com/exdb/mnist/",
        layout=LAYOUT,
        read=_read,
        signs=tuple(
            f"{place}{name}-idx3-ubyte{end}"
            for name in ("train-images", "t10k-images")
            for place in ("", "raw/")
            for end in ("", ".gz")
        ),
    ),
)
