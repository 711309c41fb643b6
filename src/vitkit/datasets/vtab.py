"""VTAB-1k: 19 tasks of 1,000 training images, 800 to train on and 200 to choose hyper-parameters with, and their whole test sets.

The published 1,000 images of a task are the first 800 of its train split and the first 200 of its val split **in the order in which
`tensorflow_datasets` prepared them**. That order cannot be had from the publishers' files. So:

- A folder that tfds prepared (``NAME[/CONFIG]/VERSION`` with .tfrecord shards) gives the published images, exactly.
- From the publisher's files the same rules are applied to the publisher's order after a fixed shuffle, since publishers sort by
  class and the first 800 would be of one. The shuffle is numpy's ``RandomState(seed).permutation`` of each official split, the seed
  being the CRC-32 of the data set's name and the split's, such as ``svhn/train``. These 1,000 images are others than the published
  ones, and where the test set is a part of an official split (smallNORB, dSprites, EuroSAT, RESISC45) its images are others too;
  the numbers are comparable as those of two draws of the same task are. It is said wherever such a number is shown.

Source: task_adaptation, data/*.py (``train800``, ``val200``, ``train800val200``, ``test``); arXiv 1910.04867; VIT_SPEC 6.2.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vitkit.config import UserError, did_you_mean
from vitkit.data.samples import Sample, Source
from vitkit.datasets.book import find_dataset
from vitkit.datasets.clevr import clevr_count, clevr_distance
from vitkit.datasets.dsprites import dsprites_location, dsprites_orientation
from vitkit.datasets.facts import LabelOf
from vitkit.datasets.kitti import kitti_distance
from vitkit.datasets.lazy import LazySamples
from vitkit.datasets.rows import Published
from vitkit.datasets.smallnorb import smallnorb_azimuth, smallnorb_elevation
from vitkit.datasets.tfds import find_prepared, read_prepared, stored_label

__all__ = [
    "GROUPS",
    "NATURAL",
    "SPECIALIZED",
    "STRUCTURED",
    "TASKS",
    "TRAIN",
    "VAL",
    "OpenTask",
    "Task",
    "derive",
    "find_task",
    "open_task",
    "shuffle_seed",
    "shuffled",
    "task_folder",
]

NATURAL, SPECIALIZED, STRUCTURED = GROUPS = ("natural", "specialized", "structured")
TRAIN, VAL = 800, 200  # images


@dataclass(frozen=True)
class Task:
    """One of the 19: where its images and labels come from, and how its splits are cut."""

    name: str
    title: str  # as table 9 of the paper prints it
    group: str
    folder: str  # below the data root
    row: str  # of `datasets.book`
    tfds: str  # name, or name/config, of the prepared data set
    cut: str  # see `derive`
    label: LabelOf = stored_label  # of a prepared record
    binary: bool = False  # prepared images are of 0 and 1


def _task(
    name: str, title: str, group: str, tfds: str, cut: str, *, folder: str = "", label: LabelOf = stored_label
) -> Task:
    folder = folder or name
    return Task(name, title, group, folder, name, tfds, cut, label, binary=folder == "dsprites")


# In the order of table 9.
TASKS = (
    _task("caltech101", "Caltech101", NATURAL, "caltech101", "90"),
    _task("cifar100", "CIFAR-100", NATURAL, "cifar100", "90"),
    _task("dtd", "DTD", NATURAL, "dtd", "official"),
    _task("flowers102", "Flowers102", NATURAL, "oxford_flowers102", "official"),
    _task("pets", "Pets", NATURAL, "oxford_iiit_pet", "80"),
    _task("sun397", "Sun397", NATURAL, "sun397/tfds", "official"),
    _task("svhn", "SVHN", NATURAL, "svhn_cropped", "90"),
    _task("patch_camelyon", "Camelyon", SPECIALIZED, "patch_camelyon", "official"),
    _task("eurosat", "EuroSAT", SPECIALIZED, "eurosat/rgb", "60/20"),
    _task("resisc45", "Resisc45", SPECIALIZED, "resisc45", "60/20"),
    _task("retinopathy", "Retinopathy", SPECIALIZED, "diabetic_retinopathy_detection/btgraham-300", "official"),
    _task("clevr_count", "Clevr-Count", STRUCTURED, "clevr", "clevr", folder="clevr", label=clevr_count),
    _task("clevr_distance", "Clevr-Dist", STRUCTURED, "clevr", "clevr", folder="clevr", label=clevr_distance),
    _task("dmlab", "DMLab", STRUCTURED, "dmlab", "official"),
    _task("dsprites_location", "dSpr-Loc", STRUCTURED, "dsprites", "80/10", folder="dsprites", label=dsprites_location),
    _task("dsprites_orientation", "dSpr-Ori", STRUCTURED, "dsprites", "80/10", folder="dsprites", label=dsprites_orientation),
    _task("kitti_distance", "KITTI-Dist", STRUCTURED, "kitti", "official", folder="kitti", label=kitti_distance),
    _task("smallnorb_azimuth", "sNORB-Azim", STRUCTURED, "smallnorb", "smallnorb", folder="smallnorb", label=smallnorb_azimuth),
    _task("smallnorb_elevation", "sNORB-Elev", STRUCTURED, "smallnorb", "smallnorb", folder="smallnorb", label=smallnorb_elevation),
)  # fmt: skip


@dataclass(frozen=True)
class OpenTask:
    """A task's images."""

    task: Task
    train: Sequence[Sample]  # 800
    val: Sequence[Sample]  # 200
    test: Sequence[Sample]
    classes: tuple[str, ...]
    published: bool  # are these the published images, prepared by tfds?
    notes: tuple[str, ...]


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: none, with the nearest.
    """
    known = {task.name: task for task in TASKS}
    if name not in known:
        raise UserError(f"VTAB has no task {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]


def task_folder(task: Task, root: Path) -> Path | None:
    """Where below ``root`` the task's files are: the folder of its data set, of its own name or of tfds' name."""
    names = dict.fromkeys((task.folder, task.name, task.tfds.split("/")[0]))
    return next((root / name for name in names if (root / name).is_dir()), None)


def open_task(task: Task, folder: Path, *, partial_set: bool = False) -> OpenTask:
    """Read a task from what tfds prepared or from the publisher's files.

    ``partial_set`` lets a part of the data set pass, and fewer training images.

    Raises:
        UserError: as `Published.open`; too few images.
    """
    row = find_dataset(task.row)
    name, _, config = task.tfds.partition("/")
    prepared = find_prepared(folder, name, config)
    if prepared is not None:
        source = _prepared(task, row, prepared, name).open(prepared, partial=partial_set)
    else:
        source = shuffled(row.open(folder, partial=partial_set), task.folder)
    train, val, test = derive(source, task.cut)
    if not partial_set and (len(train) < TRAIN or len(val) < VAL):
        raise UserError(f"{task.title} in {folder} has {len(train)} and {len(val)} images for {TRAIN} and {VAL}.")
    if not (train and val and test):
        raise UserError(
            f"{task.title} in {folder}: a split is empty: train {len(train)}, val {len(val)}, test {len(test)}."
        )
    note = (
        "the published 1,000 images, in the order of tfds"
        if prepared
        else "not the published 1,000 images: from the publisher's files, after a fixed shuffle"
    )
    return OpenTask(task, train, val, test, source.classes, prepared is not None, (*source.notes, note))


def _prepared(task: Task, row: Published, folder: Path, name: str) -> Published:
    read = partial(read_prepared, name=name, classes=row.classes, label=task.label, binary=task.binary)
    return dataclasses.replace(row, read=read, layout=f"the shards of {folder}")


def shuffle_seed(folder: str, split: str) -> int:
    """The seed of the fixed shuffle of an official split."""
    return zlib.crc32(f"{folder}/{split}".encode())


def shuffled(source: Source, folder: str) -> Source:
    """Every official split in the fixed order that stands in for tfds'."""
    splits = {split: _permuted(samples, shuffle_seed(folder, split)) for split, samples in source.splits.items()}
    return dataclasses.replace(source, splits=splits)


def _permuted(samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
    order = np.random.RandomState(seed).permutation(len(samples))
    return LazySamples(len(samples), lambda index: samples[int(order[index])])


def derive(source: Source, cut: str) -> tuple[list[Sample], list[Sample], Sequence[Sample]]:
    """(train800, val200, test) of the official splits, which are in their final order.

    ``official``: train, val and test as they are. ``90``, ``80``: val begins at that part, rounded down, of train. ``60/20``,
    ``80/10``: train, val and test are parts of train. ``clevr``: as 90, and the official val is the test set. ``smallnorb``: val
    is the first half of the official test set, test the second.

    Raises:
        UserError: an official split is missing.
    """
    needed = {"official": ("train", "val", "test"), "clevr": ("train", "val"), "60/20": ("train",), "80/10": ("train",)}
    for split in needed.get(cut, ("train", "test")):
        if split not in source.splits:
            raise UserError(f"{source.name} has no {split} split; it has {', '.join(source.splits)}.")
    train, val, test = (source.splits.get(split, ()) for split in ("train", "val", "test"))
    n = len(train)
    if cut == "official":
        first, last = (train, TRAIN), val[:VAL]
    elif cut == "smallnorb":
        half = len(test) // 2
        first, last, test = (train, TRAIN), test[: min(VAL, half)], _part(test, half, len(test))
    else:
        parts = {"clevr": (90,), "60/20": (60, 20), "80/10": (80, 10)}.get(cut) or (int(cut),)
        begin = parts[0] * n // 100
        end = begin + parts[1] * n // 100 if len(parts) > 1 else n
        first, last = (train, min(TRAIN, begin)), train[begin : min(begin + VAL, end)]
        test = _part(train, end, n) if len(parts) > 1 else val if cut == "clevr" else test
    return list(first[0][: first[1]]), list(last), test


def _part(samples: Sequence[Sample], start: int, stop: int) -> Sequence[Sample]:
    return LazySamples(stop - start, lambda index: samples[start + index])
