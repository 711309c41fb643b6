"""CIFAR-10 and CIFAR-100, the binary version.

Layout: records of one byte for the class (CIFAR-100: two, the coarse one first) and 3,072 for an image of 32 x 32, all red, all
green, all blue, each row by row. Source: https://www.cs.toronto.edu/~kriz/cifar.html and tensorflow_datasets
image_classification/cifar.py (`_load_data`); keys of its order: the number of the image in its split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.data.archives import TarMember
from vitkit.data.containers import ImageSource
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.arrays import RawImage
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import Shipped, open_shipped
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

SIDE = 32
PIXELS = 3 * SIDE * SIDE
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class _Version(NamedTuple):
    name: str
    title: str
    folder: str
    archive: str
    labels: int  # bytes before the pixels; the last is the class
    splits: dict[str, tuple[str, ...]]
    names: str
    pickled: tuple[str, ...]  # names of the version that is refused
    pickled_inside: str  # a file of it

    @property
    def layout(self) -> str:
        return f"the binary version: {self.archive}, or its folder {self.folder}/"


CIFAR10 = _Version(
    "cifar10",
    "CIFAR-10",
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    1,
    {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    "batches.meta.txt",
    ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "batches.meta",
)
CIFAR100 = _Version(
    "cifar100",
    "CIFAR-100",
    "cifar-100-binary",
    "cifar-100-binary.tar.gz",
    2,
    {"train": ("train.bin",), "test": ("test.bin",)},
    "fine_label_names.txt",
    ("cifar-100-python", "cifar-100-python.tar.gz"),
    "meta",
)


def _read(version: _Version, folder: Path) -> Source:
    first = version.splits["train"][0]
    shipped = open_shipped(folder, version.folder, version.archive, sign=first)
    if shipped is None:
        found = [name for name in (*version.pickled, version.pickled_inside) if (folder / name).exists()]
        if found:
            raise UserError(
                f"{version.title}: {folder / found[0]} is of the Python version, pickled objects that can run any program when "
                f"they are read; they are not read. Fetch {version.layout}, from {PAGE}."
            )
        raise missing(version.title, folder, f"{version.folder}/ and no {version.archive}", version.layout)
    classes = tuple(shipped.lines(version.names))
    splits = {}
    for split, files in version.splits.items():
        samples: list[Sample] = []
        for name in files:
            if name in shipped.files:
                samples += _records(version, shipped, name, split, len(samples), len(classes))
        splits[split] = in_tfds_order(samples, range(len(samples)), split)
    return Source(version.name, classes, splits)


def _records(version: _Version, shipped: Shipped, name: str, split: str, start: int, classes: int) -> list[Sample]:
    """The images of one file, called by split and number."""
    path, offset, size = _place(shipped.files[name])
    step = version.labels + PIXELS
    if size % step or not size:
        raise UserError(
            f"{version.title}: {name} of {shipped.place} has {size:,} bytes, no multiple of the {step:,} of a record "
            f"({version.labels} of labels, {PIXELS:,} of an image); expected {version.layout}. Fetch it again."
        )
    records = np.memmap(path, np.uint8, "r", offset, (size // step, step))
    labels = records[:, version.labels - 1].tolist()
    if max(labels) >= classes:
        raise UserError(
            f"{version.title}: record {int(np.argmax(labels))} of {name} of {shipped.place} has the class {max(labels)}; "
            f"{version.names} names {classes}."
        )
    shape = (SIDE, SIDE, 3)
    return [
        Sample(f"{split}/{start + i:05}", RawImage(path, offset + i * step + version.labels, shape, True), label)
        for i, label in enumerate(labels)
    ]


def _place(source: ImageSource) -> tuple[Path, int, int]:
    """File, place in it, and size."""
    if isinstance(source, TarMember):
        return Path(source.path), source.offset, source.size
    path = Path(str(source))
    return path, 0, path.stat().st_size


def _row(version: _Version, classes: int) -> Published:
    return Published(
        name=version.name,
        title=version.title,
        classes=classes,
        counts={"train": 50_000, "test": 10_000},
        licence="none stated",
        source=PAGE,
        layout=version.layout,
        read=partial(_read, version),
        signs=(version.folder, version.archive, version.names, *version.pickled),
    )


ROWS = (_row(CIFAR10, 10), _row(CIFAR100, 100))
