"""Oxford-IIIT Pet: 37 breeds of cats and dogs.

Layout: `images/Abyssinian_1.jpg`; `annotations/trainval.txt` and `test.txt`, a line per image of its name without ending, class
(from 1), species and number of the breed. Source: torchvision.datasets.oxford_iiit_pet; tensorflow_datasets oxford_iiit_pet 4.0.0,
whose splits are train (trainval) and test and whose keys are the files' names.
"""

from __future__ import annotations

from pathlib import Path

from vitkit.config import UserError
from vitkit.data.samples import Source
from vitkit.datasets.files.shipped import open_shipped, ordered_samples
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "Oxford-IIIT Pets"
LAYOUT = "images.tar.gz and annotations.tar.gz, or the folders images/ and annotations/"
LISTS = {"train": "trainval.txt", "test": "test.txt"}
BREEDS = 37


def _read(folder: Path) -> Source:
    images = open_shipped(folder, "images", "images.tar.gz")
    annotations = open_shipped(folder, "annotations", "annotations.tar.gz")
    if images is None or annotations is None:
        raise missing(TITLE, folder, "images" if images is None else "annotations", LAYOUT)
    names: dict[int, str] = {}
    listed: dict[str, list[tuple[str, int, str]]] = {split: [] for split in LISTS}
    for split, file in LISTS.items():
        for line in annotations.lines(file):
            name, number = _entry(line, f"{file} of {annotations.place}")
            breed = name.rpartition("_")[0]
            if names.setdefault(number, breed) != breed:
                raise UserError(
                    f"{TITLE}: {file} of {annotations.place} calls class {number} {names[number]} and, at {name}, {breed}."
                )
            listed[split].append((f"{name}.jpg", number - 1, f"{name}.jpg"))
    if sorted(names) != list(range(1, BREEDS + 1)):
        raise UserError(f"{TITLE}: the lists of {annotations.place} have {len(names)} classes; expected 1 to {BREEDS}.")
    splits = {split: ordered_samples(images.files, entries, split) for split, entries in listed.items()}
    return Source("pets", tuple(names[number] for number in sorted(names)), splits)


def _entry(line: str, where: str) -> tuple[str, int]:
    parts = line.split()
    if len(parts) != 4 or not parts[1].isdecimal() or "_" not in parts[0]:
        raise UserError(f"{TITLE}: {where} has the line {line!r}; expected such as 'Abyssinian_100 1 1 1'.")
    return parts[0], int(parts[1])


ROWS = (
    Published(
        name="pets",
        title=TITLE,
        classes=BREEDS,
        counts={"train": 3680, "test": 3669},
        licence="CC BY-SA 4.0",
        source="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        layout=LAYOUT,
        read=_read,
        signs=("annotations/trainval.txt", "annotations.tar.gz"),
    ),
)
