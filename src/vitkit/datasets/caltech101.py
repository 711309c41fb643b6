"""Caltech-101: 101 categories and a background class, in the split of TensorFlow Datasets.

Layout: `101_ObjectCategories/accordion/image_0001.jpg`, in `101_ObjectCategories.tar.gz` of `caltech-101.zip`. The publisher has
no split. That of tensorflow_datasets caltech101 3.0 (image_classification/caltech.py): numpy's generator seeded with 1234 draws,
folder by folder, 30 of all files of the folder for training; the rest is for testing; only .jpg files count. Keys of its order:
folder/file. It takes folders and files as its file system lists them, which was not published: sorted ones are taken here.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import open_shipped
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "Caltech-101"
INNER = "101_ObjectCategories"
LAYOUT = f"{INNER}.tar.gz or {INNER}/ (unpack caltech-101.zip, which holds it)"
SEED, DRAWN = 1234, 30
STRAYS = {"BACKGROUND_Google": "tmp"}  # a file of the publisher's that is no image but takes part in the draw


def _read(folder: Path) -> Source:
    shipped = next(
        (
            found
            for place in (folder, folder / "caltech-101")
            if (found := open_shipped(place, INNER, f"{INNER}.tar.gz"))
        ),
        None,
    )
    if shipped is None:
        raise missing(TITLE, folder, f"{INNER}.tar.gz and no {INNER}/", LAYOUT)
    by_class: dict[str, set[str]] = defaultdict(set)
    for name in shipped.files:
        if name.count("/") != 1:
            raise UserError(f"{TITLE}: {shipped.place} holds {name}; expected such as accordion/image_0001.jpg.")
        by_class[name.partition("/")[0]].add(name.partition("/")[2])
    classes = sorted(by_class, key=str.lower)  # the order of the classes there
    drawn: dict[str, list[Sample]] = {"train": [], "test": []}
    generator = np.random.RandomState(SEED)
    for category in sorted(by_class):
        files = sorted(by_class[category] | {STRAYS[category]} if category in STRAYS else by_class[category])
        if len(files) < DRAWN:
            raise UserError(
                f"{TITLE}: {category} of {shipped.place} has {len(files)} files, fewer than the {DRAWN} that training takes."
            )
        train = set(generator.choice(files, DRAWN, replace=False).tolist())
        for file in files:
            if file.endswith(".jpg"):
                name = f"{category}/{file}"
                sample = Sample(name, shipped.files[name], classes.index(category))
                drawn["train" if file in train else "test"].append(sample)
    splits = {
        split: in_tfds_order(samples, [sample.name for sample in samples], split) for split, samples in drawn.items()
    }
    return Source("caltech101", tuple(classes), splits)


ROWS = (
    Published(
        name="caltech101",
        title=TITLE,
        classes=102,
        counts={"train": 3060, "test": 6084},
        licence="CC BY 4.0",
        source="https://data.caltech.edu/records/mzrjq-6wc02",
        layout=LAYOUT,
        read=_read,
        signs=(INNER, f"{INNER}.tar.gz", "caltech-101", "caltech-101.zip"),
        note="the publisher has no split; 30 images of each class for training are drawn as TensorFlow Datasets does, from sorted "
        "names: in which order it had them is not published, so that its split may be another",
    ),
)
