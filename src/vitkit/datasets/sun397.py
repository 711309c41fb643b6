"""SUN397: the publisher's images, split as tfds does (which VTAB takes) or as the publisher's first partition does.

tfds' split is three lists of its own, sun397_tfds_{tr,va,te}.txt in the folder tensorflow_datasets/image_classification of that
package, with lines such as ``/a/abbey/sun_x.jpg``; put them beside the images. It leaves one broken image out, and its own copies
of the images are shrunk to at most 120,000 pixels, while here they are read as the publisher has them. The publisher's partitions
are Training_01.txt and Testing_01.txt of Partitions.zip, 50 images of each class in both.

Source: vision.princeton.edu/projects/2010/SUN; tensorflow_datasets, image_classification/sun.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from vitkit.config import UserError
from vitkit.data.containers import ImageSource, read_bytes
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import list_files, open_shipped
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "SUN397"
IMAGES = "the folder SUN397 (or SUN397.tar, SUN397.tar.gz)"
TFDS = {"train": "sun397_tfds_tr.txt", "val": "sun397_tfds_va.txt", "test": "sun397_tfds_te.txt"}
FIRST = {"train": "Training_01.txt", "test": "Testing_01.txt"}
TFDS_LAYOUT = f"{IMAGES} and {', '.join(TFDS.values())} of the package tensorflow_datasets"
FIRST_LAYOUT = f"{IMAGES} and Partitions.zip (or Training_01.txt and Testing_01.txt of it)"


def _read(folder: Path, files: Mapping[str, str], layout: str) -> Source:
    lists = {split: _list(folder, name, layout) for split, name in files.items()}
    classes = tuple(sorted({line.rpartition("/")[0] for lines in lists.values() for line in lines}))
    index = {name: number for number, name in enumerate(classes)}
    shipped = open_shipped(folder, "SUN397", "SUN397.tar", "SUN397.tar.gz")
    if shipped is None:
        raise missing(TITLE, folder, "SUN397.tar.gz and no SUN397/", layout)
    images = {f"/{name}": place for name, place in shipped.files.items()}
    splits: dict[str, list[Sample]] = {}
    for split, lines in lists.items():
        if absent := next((line for line in lines if line not in images), None):
            raise UserError(
                f"{TITLE}: {files[split]} names {absent}, which {shipped.place} does not hold. Fetch it again."
            )
        samples = [Sample(line[1:], images[line], index[line.rpartition("/")[0]]) for line in lines]
        splits[split] = in_tfds_order(samples, lines, "validation" if split == "val" else split)
    return Source("sun397", classes, splits)


def _list(folder: Path, name: str, layout: str) -> list[str]:
    """The lines of a list."""
    place: ImageSource | None = next((p for p in (folder / name, folder / "Partitions" / name) if p.is_file()), None)
    if place is None and (folder / "Partitions.zip").is_file():
        held = list_files(folder / "Partitions.zip")
        place = next((held[key] for key in held if key.rpartition("/")[2] == name), None)
    if place is None:
        raise missing(TITLE, folder, name, layout)
    try:
        lines = read_bytes(place).decode("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{TITLE}: cannot read {name} in {folder}: {error}.") from None
    if wrong := next((line for line in lines if not line.startswith("/") or line.count("/") < 3), None):
        raise UserError(f"{TITLE}: {name} in {folder} has the line {wrong!r}; expected such as /a/abbey/sun_x.jpg.")
    if len(set(lines)) < len(lines):
        raise UserError(f"{TITLE}: {name} in {folder} names an image twice. Fetch it again.")
    return lines


HOME, LICENCE = "https://vision.princeton.edu/projects/2010/SUN/", "not stated by the publisher"
ROWS = (
    Published(
        "sun397", TITLE, 397, {"train": 76_128, "val": 10_875, "test": 21_750}, LICENCE, HOME, TFDS_LAYOUT,
        partial(_read, files=TFDS, layout=TFDS_LAYOUT),
    ),
    Published(
        "sun397_01", "SUN397, the publisher's partition 1", 397, {"train": 19_850, "test": 19_850}, LICENCE, HOME,
        FIRST_LAYOUT, partial(_read, files=FIRST, layout=FIRST_LAYOUT),
    ),
)  # fmt: skip
