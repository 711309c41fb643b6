"""CLEVR's two tasks of VTAB: how many objects an image shows, and how far the nearest one is.

An object's ``pixel_coords`` are (x, y, distance from the camera). The publisher's own test split has no scenes and is not read.

Source: cs.stanford.edu/people/jcjohns/clevr; tensorflow_datasets, image/clevr.py; task_adaptation, data/clevr.py.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.config import UserError
from vitkit.data.samples import Source
from vitkit.datasets.files.facts import Example, Facts, LabelOf, given, labelled
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import Shipped, open_shipped
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS", "clevr_count", "clevr_distance"]

TITLE = "CLEVR"
LAYOUT = "CLEVR_v1.0.zip or the folder CLEVR_v1.0, with images/{train,val} and scenes/CLEVR_{train,val}_scenes.json"
FEWEST = 3  # objects of an image
EDGES = np.array([0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0], np.float32)
COUNTS = tuple(f"{n} objects" for n in range(FEWEST, 11))
DISTANCES = tuple(f"{a:g} to {b:g}" for a, b in zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), strict=True))


def clevr_count(facts: Facts) -> int:
    """The number of objects less 3: 8 classes."""
    return len(given(facts, "objects/size")) - FEWEST


def clevr_distance(facts: Facts) -> int:
    """The last of the edges that lies below the distance of the nearest object, as float32: 6 classes."""
    distances = given(facts, "objects/pixel_coords").astype(np.float32).reshape(-1, 3)[:, 2]
    if not len(distances):
        raise UserError("an image without objects has no nearest one.")
    return int((distances.min() > EDGES).sum()) - 1


def _read(folder: Path, label: LabelOf, classes: tuple[str, ...]) -> Source:
    shipped = open_shipped(folder, "CLEVR_v1.0", "CLEVR_v1.0.zip", sign="scenes/CLEVR_train_scenes.json")
    if shipped is None:
        raise missing(TITLE, folder, "CLEVR_v1.0.zip and no CLEVR_v1.0/", LAYOUT)
    splits = {split: labelled(_examples(shipped, split), label, len(classes)) for split in ("train", "val")}
    return Source("clevr", classes, splits)


def _examples(shipped: Shipped, split: str) -> list[Example]:
    scenes = f"scenes/CLEVR_{split}_scenes.json"
    content = shipped.read(scenes)
    try:
        stored = json.loads(content)["scenes"]
        found = [(scene["image_filename"], _facts(scene["objects"])) for scene in stored]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{TITLE} in {shipped.place}: {scenes} cannot be understood ({error!r}). Fetch it again."
        ) from None
    examples = []
    names = [name for name, _ in found]
    for name, facts in in_tfds_order(found, names, "validation" if split == "val" else split):
        place = shipped.files.get(f"images/{split}/{name}")
        if place is None:
            raise UserError(
                f"{TITLE} in {shipped.place}: no images/{split}/{name}, which {scenes} describes; expected {LAYOUT}."
            )
        examples.append(Example(f"{split}/{name}", place, facts))
    return examples


def _facts(objects: list[dict[str, Any]]) -> Facts:
    coordinates = np.array([o["pixel_coords"] for o in objects], np.float32).reshape(-1)
    if coordinates.size != 3 * len(objects):
        raise ValueError("pixel_coords are not three numbers of each object")
    return {
        "objects/size": np.array([o["size"] == "large" for o in objects], np.int64),
        "objects/pixel_coords": coordinates,
    }


COUNT = {"train": 70_000, "val": 15_000}
HOME, LICENCE = "https://cs.stanford.edu/people/jcjohns/clevr/", "CC BY 4.0"
ROWS = (
    Published(
        "clevr_count", "CLEVR, number of objects", len(COUNTS), COUNT, LICENCE, HOME, LAYOUT,
        partial(_read, label=clevr_count, classes=COUNTS),
    ),
    Published(
        "clevr_distance", "CLEVR, distance of the nearest object", len(DISTANCES), COUNT, LICENCE, HOME, LAYOUT,
        partial(_read, label=clevr_distance, classes=DISTANCES),
    ),
)  # fmt: skip
