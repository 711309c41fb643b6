"""Diabetic retinopathy (Kaggle, EyePACS) as VTAB takes it: prepared as ``btgraham-300``, with five grades.

Kaggle asks for an account, so the user fetches train/, test/, trainLabels.csv and, from its forum, retinopathy_solution.csv
(columns image, level, Usage). The validation split are the images of the public leaderboard, the test split those of the private
one. VTAB's images are not the raw photos: the eye is scaled to a radius of 300 pixels, its local average is subtracted, and 90 % of
the radius is kept, so that no side is longer than 540 pixels. `tensorflow_datasets` makes them (config btgraham-300), or the user
with OpenCV.

Source: tensorflow_datasets, image_classification/diabetic_retinopathy_detection.py; kaggle.com/c/diabetic-retinopathy-detection.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image

from vitkit.config import UserError
from vitkit.data.containers import ImageSource, read_bytes
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import find_one, list_files
from vitkit.datasets.rows import Published

__all__ = ["ROWS"]

TITLE = "Diabetic Retinopathy"
LAYOUT = (
    "train/NAME.jpeg and test/NAME.jpeg prepared as btgraham-300, trainLabels.csv (image,level) and retinopathy_solution.csv "
    "(image,level,Usage)"
)
LARGEST = 540  # pixels: 2 x 0.9 x 300
GRADES = ("no DR", "mild", "moderate", "severe", "proliferative DR")


def _read(folder: Path) -> Source:
    labels = _table(find_one(TITLE, folder, LAYOUT, "trainLabels.csv"), usage=False)
    graded = _table(find_one(TITLE, folder, LAYOUT, "retinopathy_solution.csv"), usage=True)
    train, test = (_images(folder, name) for name in ("train", "test"))
    rows = {
        "train": [(name, level, train) for name, level, _ in labels],
        "val": [(name, level, test) for name, level, usage in graded if usage == "Public"],
        "test": [(name, level, test) for name, level, usage in graded if usage == "Private"],
    }
    splits: dict[str, list[Sample]] = {}
    for split, found in rows.items():
        splits[split] = []
        for name, level, images in found:
            if name not in images:
                raise UserError(f"{TITLE} in {folder}: no image {name}.jpeg of the {split} split; expected {LAYOUT}.")
            splits[split].append(Sample(f"{split}/{name}", images[name], level))
        splits[split] = in_tfds_order(
            splits[split], [name for name, _, _ in found], "validation" if split == "val" else split
        )
        if splits[split]:
            _check_prepared(splits[split][0])
    return Source("retinopathy", GRADES, splits, ("images are taken to be prepared as btgraham-300",))


def _images(folder: Path, name: str) -> dict[str, ImageSource]:
    members = list_files(find_one(TITLE, folder, LAYOUT, name))
    return {Path(file).stem: place for file, place in members.items() if file.lower().endswith((".jpeg", ".jpg"))}


def _table(path: Path, *, usage: bool) -> list[tuple[str, int, str]]:
    wanted = ["image", "level", *(["Usage"] if usage else [])]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if absent := [name for name in wanted if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path} has no column {absent[0]!r}; expected {', '.join(wanted)}.")
            rows = [(row["image"], row["level"], row["Usage"] if usage else "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}.") from None
    for number, (name, level, used) in enumerate(rows, 2):
        if level not in ("0", "1", "2", "3", "4"):
            raise UserError(f"{path}, line {number}: {name} has the level {level!r}; expected 0 to 4.")
        if usage and used not in ("Public", "Private"):
            raise UserError(f"{path}, line {number}: {name} has the usage {used!r}; expected Public or Private.")
    return [(name, int(level), used) for name, level, used in rows]


def _check_prepared(sample: Sample) -> None:
    try:
        with Image.open(io.BytesIO(read_bytes(sample.source))) as picture:
            size = picture.size
    except (OSError, ValueError) as error:
        raise UserError(f"{TITLE}: {sample.name} cannot be read: {error}.") from None
    if max(size) > LARGEST:
        raise UserError(
            f"{TITLE}: {sample.name} is of {size[0]} x {size[1]} pixels, so it is Kaggle's own photo. VTAB's images are prepared "
            f"as btgraham-300 and at most {LARGEST} pixels long: let tensorflow_datasets prepare "
            "diabetic_retinopathy_detection/btgraham-300 and name that folder, or prepare train/ and test/ alike."
        )


ROWS = (
    Published(
        "retinopathy", TITLE, 5, {"train": 35_126, "val": 10_906, "test": 42_670}, "Kaggle competition rules",
        "https://www.kaggle.com/c/diabetic-retinopathy-detection/data", LAYOUT, _read,
    ),
)  # fmt: skip
