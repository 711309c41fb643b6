"""VizWiz-Classification: 8,900 images taken by people who are blind, of 200 classes of ImageNet, several of them in an image.

The release (vizwiz.org/tasks-and-datasets/image-classification; rezaakb/vizwiz-classification-dataset, eval.py) is
``annotations.json`` with ``categories`` (``id``: index of ImageNet's class, ``wordnet_id``) and ``images`` (names of files), and
``images/``. The labels are kept by the publisher's server, which takes a file of predictions. A copy with labels has instead, in
the form that the publisher's evaluation first read (an earlier eval.py), ``annotations.json`` with ``labels`` and ``flaws`` of each
file's name, and ``IN_to_VizWiz.json`` whose keys are the 200 indices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitkit.config import UserError, read_json
from vitkit.data.classnames import class_wnids
from vitkit.data.samples import Sample, Source
from vitkit.datasets.rows import Published, missing

__all__ = ["FLAWS", "ROWS", "read_vizwiz"]

# The six kinds of corruption and their absence, by the publisher's codes; images may have several.
FLAWS = {
    "OBS": "obscured", "DRK": "dark", "BLR": "blurred", "BRT": "bright", "ROT": "rotated", "FRM": "framing", "NON": "clean",
}  # fmt: skip
LAYOUT = "annotations.json with categories and images, or with labels and flaws of each image beside IN_to_VizWiz.json, and images/"
WITHOUT_LABELS = "the copy has no labels: the publisher's server keeps them"


def read_vizwiz(folder: Path) -> Source:
    """The split ``all``, and where the copy tells of flaws ``clean`` and one for each flaw, of images that are in ``all`` too.

    Labels are every class that an image has; none where the copy has no labels.

    Raises:
        UserError: another layout, or a class that is not ImageNet's.
    """
    path = folder / "annotations.json"
    for wanted in (path, folder / "images"):
        if not wanted.exists():
            raise missing("VizWiz-Classification", folder, wanted.name, LAYOUT)
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise UserError(f"{path} holds a {type(stored).__name__}; expected {LAYOUT}.")
    if isinstance(stored.get("categories"), list) and isinstance(stored.get("images"), list):
        return _released(path, stored)
    return _labelled(path, stored)


def _released(path: Path, stored: dict[str, Any]) -> Source:
    indices = []
    for entry in stored["categories"]:
        index = entry.get("id") if isinstance(entry, dict) else None
        if (
            type(index) is not int
            or not 0 <= index < 1000
            or entry.get("wordnet_id") not in (None, class_wnids()[index])
        ):
            raise UserError(
                f"{path}: category {entry!r:.80}; expected an id from 0 to 999 with ImageNet's wordnet_id of it."
            )
        indices.append(index)
    if not all(isinstance(name, str) for name in stored["images"]):
        raise UserError(f"{path}: images must be names of files.")
    samples = [_sample(path, name, ()) for name in stored["images"]]
    classes = tuple(class_wnids()[index] for index in indices)
    return Source("VizWiz-Classification", classes, {"all": samples}, (WITHOUT_LABELS,), multilabel=True)


def _labelled(path: Path, stored: dict[str, Any]) -> Source:
    classes_path = path.with_name("IN_to_VizWiz.json")
    if not classes_path.is_file():
        raise missing("VizWiz-Classification", path.parent, classes_path.name, LAYOUT)
    keys = read_json(classes_path)
    if not isinstance(keys, dict) or not all(key.isdecimal() and int(key) < 1000 for key in keys):
        raise UserError(f"{classes_path}: expected an object whose keys are indices of ImageNet's classes.")
    place = {int(key): number for number, key in enumerate(keys)}
    splits: dict[str, list[Sample]] = {"all": [], "clean": [], **{name: [] for name in FLAWS.values()}}
    for name, entry in stored.items():
        labels, flaws = (entry.get("labels"), entry.get("flaws")) if isinstance(entry, dict) else (None, None)
        if not isinstance(labels, list) or not all(str(label).isdecimal() and int(label) in place for label in labels):
            raise UserError(
                f"{path}, {name}: labels are {labels!r:.60}; expected a list of the indices in {classes_path.name}."
            )
        if flaws is not None and (not isinstance(flaws, dict) or flaws.keys() - {*FLAWS, "OTH"}):
            raise UserError(f"{path}, {name}: flaws are {flaws!r:.80}; expected some of {', '.join((*FLAWS, 'OTH'))}.")
        sample = _sample(path, name, tuple(sorted({place[int(label)] for label in labels})))
        splits["all"].append(sample)
        for code, present in (flaws or {}).items():
            if present and code in FLAWS:
                splits[FLAWS[code]].append(sample)
    classes = tuple(class_wnids()[index] for index in place)
    note = f"classes, labels and flaws as the copy's own {path.name} and {classes_path.name} say"
    kept = {name: samples for name, samples in splits.items() if samples or name == "all"}
    return Source("VizWiz-Classification", classes, kept, (note,), multilabel=True)


def _sample(path: Path, name: str, labels: tuple[int, ...]) -> Sample:
    if Path(name).name != name:
        raise UserError(f"{path}: {name!r:.80} is not the name of a file in images/.")
    return Sample(name, path.parent / "images" / name, -1, labels)


ROWS = (
    Published(
        "vizwiz_classification", "VizWiz-Classification", 200, {"all": 8_900}, "CC BY 4.0",
        "https://vizwiz.org/tasks-and-datasets/image-classification/; Bafghi and Gurari, CVPR 2023", LAYOUT, read_vizwiz,
    ),
)  # fmt: skip
