"""Describable Textures Dataset: 47 textures, the first of its ten partitions.

Layout: `dtd/images/banded/banded_0002.jpg`; `dtd/labels/train1.txt`, `val1.txt` and `test1.txt`, a line banded/banded_0002.jpg for
each image. Source: torchvision.datasets.dtd; tensorflow_datasets dtd 3.0.1, whose keys are these lines.
"""

from __future__ import annotations

from pathlib import Path

from vitkit.config import UserError
from vitkit.data.samples import Source
from vitkit.datasets.files.shipped import open_shipped, ordered_samples
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "Describable Textures (DTD)"
LAYOUT = "dtd-r1.0.1.tar.gz or dtd/ with images/ and labels/"
LISTS = {"train": ("train1.txt", "train"), "val": ("val1.txt", "validation"), "test": ("test1.txt", "test")}


def _read(folder: Path) -> Source:
    shipped = open_shipped(folder, "dtd", "dtd-r1.0.1.tar.gz", sign="labels/train1.txt")
    if shipped is None:
        raise missing(TITLE, folder, "dtd-r1.0.1.tar.gz and no dtd/", LAYOUT)
    lines = {split: shipped.lines(f"labels/{file}") for split, (file, _) in LISTS.items()}
    for split, names in lines.items():
        if wrong := [name for name in names if name.count("/") != 1]:
            raise UserError(
                f"{TITLE}: labels/{LISTS[split][0]} of {shipped.place} has the line {wrong[0]!r}; expected such as "
                "'banded/banded_0002.jpg'."
            )
    classes = sorted({name.partition("/")[0] for names in lines.values() for name in names})
    splits = {}
    for split, (_, tfds) in LISTS.items():
        listed = [(f"images/{name}", classes.index(name.partition("/")[0]), name) for name in lines[split]]
        splits[split] = ordered_samples(shipped.files, listed, tfds)
    return Source("dtd", tuple(classes), splits)


ROWS = (
    Published(
        name="dtd",
        title=TITLE,
        classes=47,
        counts={"train": 1880, "val": 1880, "test": 1880},
        licence="none stated; for research",
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        layout=LAYOUT,
        read=_read,
        signs=("dtd-r1.0.1.tar.gz", "dtd", "labels/train1.txt"),
        note="partition 1 of the publisher's ten, as TensorFlow Datasets and the paper's evaluations take it",
    ),
)
