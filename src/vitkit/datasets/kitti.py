"""KITTI's task of VTAB: how far the nearest car, van or truck is, in 4 classes, the last of which is that there is none.

KITTI's 7,481 labelled images come from drives; tfds puts whole drives, chosen by numpy's generator seeded with 123, into its
validation and test splits (10 % of the drives each). Which image is of which drive is told by mapping/train_rand.txt and
mapping/train_mapping.txt of the development kit: the i-th number of the first is the line, from 1, of image i in the second.

Source: tensorflow_datasets, object_detection/kitti.py; task_adaptation, data/kitti.py; the development kit's readme.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.containers import ImageSource, read_bytes
from vitkit.data.samples import Source
from vitkit.datasets.files.facts import Example, Facts, given, labelled
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import find_one, list_files
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS", "kitti_distance", "kitti_splits"]

TITLE = "KITTI"
LAYOUT = (
    "data_object_image_2.zip, data_object_label_2.zip and devkit_object.zip, or unpacked training/image_2, training/label_2 and "
    "devkit_object/mapping (or mapping)"
)
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")  # tfds' numbers
VEHICLES = 3  # the first types
EDGES = np.array([-100.0, 8.0, 20.0, 999.0], np.float32)  # metres
CLASSES = ("nearer than 8 m", "8 to 20 m", "farther than 20 m", "no vehicle")
FIELDS = 15  # of a line of a label file
SEED, PERCENT = 123, 10


def kitti_distance(facts: Facts) -> int:
    """The last of the edges that lies below the z coordinate (forward, metres, float32) of the nearest car, van or truck."""
    types = given(facts, "objects/type")
    z = given(facts, "objects/location").astype(np.float32).reshape(-1, 3)[:, 2]
    if len(z) != len(types):
        raise UserError(f"{len(types)} types and {len(z)} locations of objects are stored.")
    nearest = min([1000.0, *z[types < VEHICLES].tolist()])
    return int((np.float32(nearest) > EDGES).sum()) - 1


def kitti_splits(lines: list[int], mapping: list[str]) -> dict[str, list[int]]:
    """The images of each split, as tfds chooses them.

    Args:
        lines: for each image, the line of the mapping, from 1.
        mapping: lines such as ``2011_09_26 2011_09_26_drive_0005_sync 0000000109``.

    Raises:
        UserError: a line that the mapping does not have.
    """
    drives: dict[str, list[int]] = {}
    for image, line in enumerate(lines):
        parts = mapping[line - 1].split() if 0 < line <= len(mapping) else []
        if len(parts) != 3:
            raise UserError(f"{TITLE}: train_rand.txt names line {line} of train_mapping.txt, which is no drive.")
        drives.setdefault(parts[1], []).append(image)
    rng = np.random.RandomState(SEED)
    count = max(1, PERCENT * len(drives) // 100)
    if len(drives) < 2 * count + 1:
        raise UserError(f"{TITLE}: {len(drives)} drives cannot be split into three parts.")
    test = set(rng.choice(sorted(drives), count, replace=False).tolist())
    val = set(rng.choice(sorted(set(drives) - test), count, replace=False).tolist())
    part = {drive: "test" if drive in test else "val" if drive in val else "train" for drive in drives}
    return {
        split: sorted(image for drive, images in drives.items() if part[drive] == split for image in images)
        for split in ("train", "val", "test")
    }


def _read(folder: Path) -> Source:
    images = _numbered(folder, "image_2", ".png")
    labels = _numbered(folder, "label_2", ".txt")
    splits = {}
    for split, numbers in _official(folder, sorted(images)).items():
        found = []
        names = [f"{number:06d}.png" for number in numbers]
        for number in in_tfds_order(numbers, names, "validation" if split == "val" else split):
            if number not in labels:
                raise UserError(f"{TITLE} in {folder}: no label_2/{number:06d}.txt; expected {LAYOUT}.")
            found.append(Example(f"{split}/{number:06d}", images[number], _facts(number, labels[number])))
        splits[split] = labelled(found, kitti_distance, len(CLASSES))
    return Source("kitti", CLASSES, splits)


def _numbered(folder: Path, name: str, suffix: str) -> dict[int, ImageSource]:
    """The training files of a kind, by number, of the zip file or unpacked."""
    roots = (f"data_object_{name}.zip", f"data_object_{name}", f"training/{name}")
    root = find_one(TITLE, folder, LAYOUT, *roots)
    found = {}
    for member, place in list_files(root).items():
        *folders, file = member.split("/")
        if file.endswith(suffix) and file[: -len(suffix)].isdecimal() and "testing" not in folders:
            found[int(file[: -len(suffix)])] = place
    if not found:
        raise UserError(f"{TITLE}: {root} holds no training/{name}/NNNNNN{suffix}; expected {LAYOUT}.")
    return found


def _official(folder: Path, images: list[int]) -> dict[str, list[int]]:
    root = find_one(TITLE, folder, LAYOUT, "mapping", "devkit_object", "devkit", "devkit_object.zip")
    held = {name.rpartition("/")[2]: place for name, place in list_files(root).items()}
    texts = {}
    for name in ("train_rand.txt", "train_mapping.txt"):
        if name not in held:
            raise missing(TITLE, root if root.is_dir() else folder, f"mapping/{name}", LAYOUT)
        try:
            texts[name] = read_bytes(held[name]).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{TITLE}: cannot read {name} of {root}: {error}.") from None
    try:
        lines = [int(word) for word in texts["train_rand.txt"].strip().split(",")]
    except ValueError as error:
        raise UserError(f"{TITLE}: train_rand.txt of {root} should hold numbers between commas: {error}.") from None
    if images != list(range(len(lines))):
        raise UserError(
            f"{TITLE} in {folder}: {len(images)} images, the last of them {images[-1]:06d}; train_rand.txt is of {len(lines)} "
            "images from 000000 on. Fetch what is missing."
        )
    return kitti_splits(lines, texts["train_mapping.txt"].splitlines())


def _facts(number: int, place: ImageSource) -> Mapping[str, np.ndarray]:
    try:
        lines = [line.split() for line in read_bytes(place).decode("utf-8").splitlines() if line.strip()]
        kept = [line for line in lines if line[0] != "DontCare"]
        if wrong := next((line for line in lines if len(line) != FIELDS), None):
            raise ValueError(f"a line has {len(wrong)} fields, expected {FIELDS}")
        types = np.array([TYPES.index(line[0]) for line in kept], np.int64)
        return {
            "objects/type": types,
            "objects/location": np.array([line[11:14] for line in kept], np.float32).reshape(-1),
        }
    except (OSError, ValueError) as error:
        raise UserError(f"{TITLE}: label_2/{number:06d}.txt cannot be understood: {error}.") from None


ROWS = (
    Published(
        "kitti_distance", "KITTI, distance of the nearest vehicle", len(CLASSES), {"train": 6_347, "val": 423, "test": 711},
        "CC BY-NC-SA 3.0", "http://www.cvlibs.net/datasets/kitti/", LAYOUT, _read,
    ),
)  # fmt: skip
