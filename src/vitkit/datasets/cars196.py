"""Stanford Cars: 196 makes and models.

Layout: `cars_train/00001.jpg`, `cars_test/00001.jpg`; `devkit/cars_train_annos.mat` and `cars_test_annos_withlabels.mat` hold
`annotations`, records with the fields `class` (from 1) and `fname`; `devkit/cars_meta.mat` holds `class_names`. Source:
torchvision.datasets.stanford_cars; tensorflow_datasets cars196 2.1.0, whose keys are the files' names without ending.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.samples import Source
from vitkit.datasets.files.mat import read_mat
from vitkit.datasets.files.shipped import Shipped, open_shipped, ordered_samples
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "Stanford Cars"
TEST_LABELS = "cars_test_annos_withlabels.mat"
LAYOUT = f"cars_train.tgz, cars_test.tgz and car_devkit.tgz, or cars_train/, cars_test/ and devkit/; and {TEST_LABELS}"


def _read(folder: Path) -> Source:
    kit = open_shipped(folder, "devkit", "car_devkit.tgz")
    if kit is None:
        raise missing(TITLE, folder, "car_devkit.tgz and no devkit/", LAYOUT)
    beside = folder / TEST_LABELS
    test = beside if beside.is_file() else kit.files.get(TEST_LABELS)
    if test is None:
        raise missing(TITLE, folder, TEST_LABELS, LAYOUT)
    classes = tuple(str(name) for name in np.atleast_1d(_variable(kit, "cars_meta.mat", "class_names")).tolist())
    annotations = {
        "train": _variable(kit, "cars_train_annos.mat", "annotations"),
        "test": read_mat(test, "annotations", called=TEST_LABELS)["annotations"],
    }
    splits = {}
    for split, records in annotations.items():
        images = open_shipped(folder, f"cars_{split}", f"cars_{split}.tgz")
        if images is None:
            raise missing(TITLE, folder, f"cars_{split}.tgz and no cars_{split}/", LAYOUT)
        splits[split] = ordered_samples(images.files, _listed(records, split, len(classes)), split, f"cars_{split}/")
    return Source("cars196", classes, splits)


def _variable(kit: Shipped, file: str, name: str) -> np.ndarray:
    if file not in kit.files:
        raise UserError(f"{TITLE}: {kit.place} has no {file}; expected {LAYOUT}.")
    source: ImageSource = kit.files[file]
    found: np.ndarray = read_mat(source, name, called=f"{kit.place}/{file}")[name]
    return found


def _listed(records: np.ndarray, split: str, classes: int) -> list[tuple[str, int, str]]:
    listed = []
    for record in np.atleast_1d(records):
        try:
            name, number = str(record.fname), int(getattr(record, "class"))
        except (AttributeError, TypeError, ValueError):
            raise UserError(
                f"{TITLE}: the annotations of the {split} images have no fields fname and class"
                + (f"; {TEST_LABELS} is meant, which has the labels." if split == "test" else ".")
            ) from None
        if not 1 <= number <= classes:
            raise UserError(f"{TITLE}: {name} of the {split} images has the class {number}; expected 1 to {classes}.")
        listed.append((name, number - 1, name.partition(".")[0]))
    return listed


ROWS = (
    Published(
        name="cars196",
        title=TITLE,
        classes=196,
        counts={"train": 8144, "test": 8041},
        licence="none stated; for research",
        source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        layout=LAYOUT,
        read=_read,
        signs=("cars_train", "cars_train.tgz", "car_devkit.tgz", TEST_LABELS),
    ),
)
