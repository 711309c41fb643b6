"""smallNORB: toys from 18 azimuths and 9 elevations; the first image of each stereo pair.

Of each part there are three matrices: ``dat`` (24300, 2, 96, 96), ``cat`` (24300,) and ``info`` (24300, 4) with instance, elevation
(0 to 8), azimuth (0, 2, ..., 34) and lighting.

Source: cs.nyu.edu/~ylclab/data/norb-v1.0-small; tensorflow_datasets, image_classification/smallnorb.py; task_adaptation,
data/smallnorb.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.arrays import ArrayImage, RawImage
from vitkit.datasets.files.facts import Facts, LabelOf, checked, one_of
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.norb import read_header, read_matrix
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import find_one
from vitkit.datasets.rows import Published

__all__ = ["ROWS", "smallnorb_azimuth", "smallnorb_category", "smallnorb_elevation"]

Array = np.ndarray[Any, Any]
TITLE = "smallNORB"
STEMS = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
LAYOUT = f"{STEMS['train']}-{{dat,cat,info}}.mat and {STEMS['test']}-{{dat,cat,info}}.mat, plain or .gz"
CATEGORIES = ("four-legged animals", "human figures", "airplanes", "trucks", "cars")
AZIMUTHS = tuple(f"{20 * n} degrees" for n in range(18))
ELEVATIONS = tuple(f"{30 + 5 * n} degrees" for n in range(9))


def smallnorb_category(facts: Facts) -> int:
    """The kind of toy: 5 classes."""
    return one_of(facts, "label_category")


def smallnorb_azimuth(facts: Facts) -> int:
    """The azimuth in steps of 20 degrees: 18 classes."""
    return one_of(facts, "label_azimuth")


def smallnorb_elevation(facts: Facts) -> int:
    """The elevation in steps of 5 degrees from 30: 9 classes."""
    return one_of(facts, "label_elevation")


def _read(folder: Path, label: LabelOf, classes: tuple[str, ...]) -> Source:
    return Source("smallnorb", classes, {split: _split(folder, split, label, len(classes)) for split in STEMS})


def _split(folder: Path, split: str, label: LabelOf, classes: int) -> LazySamples:
    dat, cat, info = (
        find_one(TITLE, folder, LAYOUT, f"{STEMS[split]}-{part}.mat", f"{STEMS[split]}-{part}.mat.gz")
        for part in ("dat", "cat", "info")
    )
    header, category, facts = read_header(dat), read_matrix(cat), read_matrix(info)
    count = header.shape[0]
    if header.dtype != np.uint8 or header.shape[1:] != (2, 96, 96):
        raise UserError(f"{dat} is {header.dtype} {header.shape}; expected uint8 (images, 2, 96, 96).")
    if category.shape != (count,) or facts.shape != (count, 4):
        raise UserError(
            f"{dat.name} has {count} images, {cat.name} is {category.shape} and {info.name} {facts.shape}; expected "
            f"({count},) and ({count}, 4). Fetch them again."
        )
    if (facts[:, 2] % 2).any():
        raise UserError(f"{info} has odd azimuths; expected 0, 2, ..., 34.")
    known = {"label_category": category, "label_elevation": facts[:, 1], "label_azimuth": facts[:, 2] // 2}
    pixels = read_matrix(dat, first_of_pairs=True) if dat.suffix == ".gz" else None
    place = _Place(dat, header.offset, pixels)
    order = in_tfds_order(range(count), range(count), split)
    return LazySamples(count, partial(_sample, split, place, known, label, classes), order)


class _Place:
    """Where the images are: in memory, of a packed file, or in the file."""

    def __init__(self, path: Path, offset: int, pixels: Array | None) -> None:
        self.path, self.offset, self.pixels = path, offset, pixels

    def image(self, index: int) -> ImageSource:
        if self.pixels is not None:
            return ArrayImage(self.pixels[index])
        return RawImage(self.path, self.offset + index * 2 * 96 * 96, (96, 96, 1), planes=False)


def _sample(split: str, place: _Place, known: dict[str, Array], label: LabelOf, classes: int, index: int) -> Sample:
    name = f"{split}/{index:05d}"
    facts = {fact: values[index][None] for fact, values in known.items()}
    return Sample(name, place.image(index), checked(f"{TITLE} {name}", facts, label, classes))


def _row(name: str, title: str, label: LabelOf, classes: tuple[str, ...]) -> Published:
    return Published(
        name, title, len(classes), {"train": 24_300, "test": 24_300}, "research use only",
        "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/", LAYOUT, partial(_read, label=label, classes=classes),
    )  # fmt: skip


ROWS = (
    _row("smallnorb", "smallNORB, category", smallnorb_category, CATEGORIES),
    _row("smallnorb_azimuth", "smallNORB, azimuth", smallnorb_azimuth, AZIMUTHS),
    _row("smallnorb_elevation", "smallNORB, elevation", smallnorb_elevation, ELEVATIONS),
)
