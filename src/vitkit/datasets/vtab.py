"""VTAB-1k: 19 tasks of 1,000 training images, 800 to train on and 200 to choose hyper-parameters with, and their whole test sets.

The published 1,000 images of a task are the first 800 of its train split and the first 200 of its val split in the order in which
`tensorflow_datasets` keeps them, which `files.order` computes: the readers of the publishers' files give every split in it, and
the shards of a folder that tfds prepared (``NAME[/CONFIG]/VERSION``) are in it. Where something of the published task cannot be
had from the publisher's files, `Task.caveat` says what, and it is said with every such number; a prepared folder has none.

Source: task_adaptation, data/*.py (``train800``, ``val200``, ``train800val200``, ``test``); arXiv 1910.04867; VIT_SPEC 6.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vitkit.config import UserError, did_you_mean
from vitkit.data.samples import Sample, Source
from vitkit.datasets.book import find_dataset
from vitkit.datasets.clevr import clevr_count, clevr_distance
from vitkit.datasets.dsprites import dsprites_location, dsprites_orientation
from vitkit.datasets.files.facts import LabelOf
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.tfds import find_prepared, read_prepared, stored_label
from vitkit.datasets.kitti import kitti_distance
from vitkit.datasets.rows import Published
from vitkit.datasets.smallnorb import smallnorb_azimuth, smallnorb_elevation

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
    "task_folder",
]

NATURAL, SPECIALIZED, STRUCTURED = GROUPS = ("natural", "specialized", "structured")
TRAIN, VAL = 800, 200  # images
CAVEATS = {
    "caltech101": "its split was drawn from files in an order that was not published",
    "sun397": "images are in full size, the published ones shrunk to 120,000 pixels",
    "retinopathy": "images were prepared by the user",
}


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
    caveat: str = ""  # what differs from the published task where the publisher's files are read


def _task(
    name: str, title: str, group: str, tfds: str, cut: str, *, folder: str = "", label: LabelOf = stored_label
) -> Task:
    folder = folder or name
    return Task(name, title, group, folder, name, tfds, cut, label, folder == "dsprites", CAVEATS.get(name, ""))


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
    caveat: str  # what differs from the published task; empty where nothing does
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
        source = row.open(folder, partial=partial_set)
    train, val, test = derive(source, task.cut)
    if not partial_set and (len(train) < TRAIN or len(val) < VAL):
        raise UserError(f"{task.title} in {folder} has {len(train)} and {len(val)} images for {TRAIN} and {VAL}.")
    if not (train and val and test):
        raise UserError(
            f"{task.title} in {folder}: a split is empty: train {len(train)}, val {len(val)}, test {len(test)}."
        )
    caveat = "" if prepared else task.caveat
    note = f"not exactly the published task: {caveat}" if caveat else "the published 1,000 images, in the order of tfds"
    if any(note.startswith("a part of ") for note in source.notes):
        note = f"{len(train):,} + {len(val):,} images of that part to learn from"
    return OpenTask(task, train, val, test, source.classes, caveat, (*source.notes, note))


def _prepared(task: Task, row: Published, folder: Path, name: str) -> Published:
    read = partial(read_prepared, name=name, classes=row.classes, label=task.label, binary=task.binary)
    return dataclasses.replace(row, read=read, layout=f"the shards of {folder}")


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
