"""ObjectNet: objects at odd places and turns. 113 of its 313 classes have classes of ImageNet that mean the same.

Layout of release 1.0 (objectnet.dev): ``images/FOLDER/*.png`` and ``mappings/``. Which of ImageNet's classes an object may be is
read from the mappings of the user's copy, as the loader of mlfoundations/model-soups (datasets/objectnet.py) does: an ObjectNet
label to names joined by ``; `` (objectnet_to_imagenet_1k.json), a name to its line (imagenet_to_label_2012_v2), a line to the index
of an output (pytorch_to_imagenet_2012_id.json). Every image has a red border 2 pixels wide, which is cut off first
(abarbu/objectnet-template-pytorch, README). Numbers: mlfoundations/datacomp, tasklist.yml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit.config import UserError, read_json
from vitkit.data.folders import find_images
from vitkit.data.pixels import ImageError, open_image
from vitkit.data.samples import Sample, Source, listed
from vitkit.datasets.files.arrays import as_npy
from vitkit.datasets.rows import Published, missing

__all__ = ["BORDER", "ROWS", "Bordered", "read_objectnet", "shared_classes"]

BORDER = 2  # pixels on each side
LAYOUT = (
    "images/ with a folder per object and mappings/ with objectnet_to_imagenet_1k.json, folder_to_objectnet_label.json, "
    "pytorch_to_imagenet_2012_id.json and imagenet_to_label_2012_v2, as release 1.0 is unpacked"
)


class Bordered(NamedTuple):
    """An image file whose border is cut off before anything else is done to it."""

    path: str

    def read(self) -> bytes:
        """The image within the border, as `.npy` bytes.

        Raises:
            ImageError: not an image, or nothing within the border.
        """
        image = open_image(self.path)
        width, height = image.size
        if min(width, height) <= 2 * BORDER:
            raise ImageError(f"an image of {width} x {height} pixels has nothing within its border of {BORDER}")
        return as_npy(np.asarray(image.crop((BORDER, BORDER, width - BORDER, height - BORDER))))


def _root(folder: Path) -> Path:
    return folder / "objectnet-1.0" if (folder / "objectnet-1.0").is_dir() else folder


def shared_classes(folder: Path) -> dict[str, tuple[int, ...]]:
    """ObjectNet's label of each shared class, sorted, and the indices of ImageNet's classes that mean it.

    Raises:
        UserError: no mappings, or ones of another form.
    """
    mappings = _root(folder) / "mappings"
    lines_path = mappings / "imagenet_to_label_2012_v2"
    for path in (mappings / "objectnet_to_imagenet_1k.json", mappings / "pytorch_to_imagenet_2012_id.json", lines_path):
        if not path.is_file():
            raise missing("ObjectNet", _root(folder), f"mappings/{path.name}", LAYOUT)
    numbers = _strings(mappings / "pytorch_to_imagenet_2012_id.json", int)
    if sorted(numbers) != sorted(map(str, range(1000))) or sorted(numbers.values()) != list(range(1000)):
        raise UserError(
            f"{mappings / 'pytorch_to_imagenet_2012_id.json'}: expected the indices 0 to 999 of outputs, each with another line "
            "from 0 to 999."
        )
    outputs = {line: int(index) for index, line in numbers.items()}
    try:
        lines = lines_path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{lines_path} cannot be read: {error}.") from None
    lines_of: dict[str, list[int]] = {}
    for number, line in enumerate(lines[:1000]):
        lines_of.setdefault(line.strip(), []).append(number)
    found = {}
    for label, names in sorted(_strings(mappings / "objectnet_to_imagenet_1k.json", str).items()):
        wanted = [name.strip() for name in names.split(";")]
        if strange := [name for name in wanted if len(lines_of.get(name, ())) != 1]:
            raise UserError(
                f"{mappings}: {label!r} is said to be {listed(strange)}, which is not on exactly one line of {lines_path.name}."
            )
        found[label] = tuple(sorted({outputs[lines_of[name][0]] for name in wanted}))
    return found


def _strings(path: Path, kind: type) -> dict[str, Any]:
    stored = read_json(path)
    if not isinstance(stored, dict) or not all(type(value) is kind for value in stored.values()):
        raise UserError(f"{path}: expected an object whose values are all {'numbers' if kind is int else 'texts'}.")
    return stored


def read_objectnet(folder: Path) -> Source:
    """The images of the shared classes, without their borders; the label is that of ObjectNet, see `shared_classes`.

    Raises:
        UserError: another layout.
    """
    root, classes = _root(folder), tuple(shared_classes(folder))
    path = root / "mappings" / "folder_to_objectnet_label.json"
    if not path.is_file():
        raise missing("ObjectNet", root, f"mappings/{path.name}", LAYOUT)
    if not (root / "images").is_dir():
        raise missing("ObjectNet", root, "images/", LAYOUT)
    folders = {label: name for name, label in _strings(path, str).items()}
    if strange := [label for label in classes if label not in folders]:
        raise UserError(f"{path} names no folder for {listed(strange)}, which objectnet_to_imagenet_1k.json has.")
    samples = []
    for number, label in enumerate(classes):
        place = root / "images" / folders[label]
        if place.is_dir():  # an absent one shows in the count
            for image in find_images(place):
                samples.append(Sample(image.relative_to(root).as_posix(), Bordered(str(image)), number))
    note = f"{len(classes)} classes shared with ImageNet, as the copy's own mappings say"
    return Source("ObjectNet", classes, {"test": samples}, (note,))


ROWS = (
    Published(
        "objectnet", "ObjectNet", 113, {"test": 18_574}, "objectnet.dev: for tests only, images never to be trained on",
        "https://objectnet.dev; Barbu et al., NeurIPS 2019", LAYOUT, read_objectnet,
    ),
)  # fmt: skip
