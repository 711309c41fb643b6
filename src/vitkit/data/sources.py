"""Finds images, classes and splits in what the user names. Reads names only; opens no image.

Understands a folder of class folders, `train/` with `val|valid|validation/` and `test/`, and the word ``digits``.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vitkit.config import UserError, did_you_mean
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import IMAGE_SUFFIXES

__all__ = ["Sample", "Source", "find_images", "match_classes", "read_source"]

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
DIGITS_TEST_EVERY = 5  # the fixed test part of `digits` is 20 % of each class


class Sample(NamedTuple):
    """One labelled image."""

    name: str  # shown to the user and stored in the run: the path below the data folder
    source: ImageSource  # where `open_image` reads it
    label: int  # index into `Source.classes`; -1 in multi-label data
    labels: tuple[int, ...] = ()  # in multi-label data: the sorted indices of all its classes, possibly none


@dataclass(frozen=True)
class Source:
    """What was understood: classes in sorted order, and samples per split (``train``, ``val``, ``test``, or ``all``)."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    notes: tuple[str, ...] = field(default=())  # what was left out, counted
    multilabel: bool = False  # an image may have any number of classes, in `Sample.labels`

    def describe(self) -> str:
        """One line: how many images of how many classes in which splits."""
        parts = ", ".join(f"{split} {len(samples):,}" for split, samples in self.splits.items())
        total = sum(len(samples) for samples in self.splits.values())
        return f"{total:,} images of {len(self.classes)} classes ({parts})"


def read_source(data: str | os.PathLike[str]) -> Source:
    """Find the images, classes and splits of ``data``, a folder or the word ``digits``.

    Raises:
        UserError: no such path, no images, or a split with a class that training does not have.
    """
    root = Path(data)
    if not root.exists():
        if str(data) == "digits":
            return _digits()
        near = root.parent.iterdir() if root.parent.is_dir() else ()
        raise UserError(f"no such data: {data}.{did_you_mean(root.name, [p.name for p in near])}")
    if not root.is_dir():
        raise UserError(f"{data} is a file; expected a folder of class folders, or train/ with val/ and test/ inside.")
    left_out: Counter[str] = Counter()
    folders = _visible_folders(root, left_out)
    named = {folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES}
    only_splits = bool(named) and len(named) == len(folders)
    if "train" in named.values() or (only_splits and not any(_is_image(p) for f in named for p in f.iterdir())):
        return _read_splits(root, named, [f for f in folders if f not in named], left_out)
    misplaced = [f"folder {f.name!r} is taken for a class: there is no train/ beside it" for f in named]
    left_out.clear()  # the root is looked at again, as the folder of the classes
    samples, classes = _read_classes(root, root, left_out)
    return Source(root.resolve().name, classes, {"all": samples}, (*_notes(left_out), *misplaced))


def _read_splits(root: Path, named: Mapping[Path, str], others: Sequence[Path], left_out: Counter[str]) -> Source:
    roles = Counter(named.values())
    for role, count in roles.items():
        if count > 1:
            several = ", ".join(f.name for f, r in named.items() if r == role)
            raise UserError(f"{root} has several folders for the {role} split: {several}. Keep one.")
    found: dict[str, dict[str, list[tuple[str, Path]]]] = {}
    for folder, role in named.items():
        found[role] = _class_folders(folder, root, left_out)
    # Without train/ (data to score only) the classes are those of the splits that are there.
    classes = tuple(
        sorted(found["train"] if "train" in found else {name for split in found.values() for name in split})
    )
    splits: dict[str, list[Sample]] = {}
    for role in ("train", "val", "test"):
        if role not in found:
            continue
        for name in sorted(set(found[role]) - set(classes)):
            raise UserError(
                f"the {role} split has a class {name!r} that train does not have (train: {_listed(classes)})."
                f"{did_you_mean(name, classes)} Rename the folder, or add training images of it."
            )
        if not found[role]:
            raise UserError(f"the {role} split of {root} holds no class folders with images.")
        for name in classes:
            if name not in found[role]:
                left_out[f"class {name!r} has no image in the {role} split"] = 0
        splits[role] = [
            Sample(shown, path, classes.index(name))
            for name in sorted(found[role])
            for shown, path in found[role][name]
        ]
    left_out["images in no class folder"] += sum(1 for p in root.iterdir() if _is_image(p))
    for folder in others:
        left_out[f"folder {folder.name!r} beside train/ is not a split and was not read"] = 0
    return Source(root.resolve().name, classes, splits, _notes(left_out))


def _read_classes(folder: Path, root: Path, left_out: Counter[str]) -> tuple[list[Sample], tuple[str, ...]]:
    found = _class_folders(folder, root, left_out)
    if not found:
        loose = sum(1 for p in folder.iterdir() if _is_image(p))
        hint = f" It has {loose} images that are in no class folder." if loose else ""
        raise UserError(
            f"{folder} holds no class folders with images.{hint} Expected one folder per class, each with its images, "
            "or train/ with val/ and test/ made of such folders."
        )
    classes = tuple(sorted(found))
    return [Sample(shown, path, i) for i, name in enumerate(classes) for shown, path in found[name]], classes


def _class_folders(folder: Path, root: Path, left_out: Counter[str]) -> dict[str, list[tuple[str, Path]]]:
    """Class name -> (shown name, path) of its images, for each folder that holds any."""
    found = {}
    for class_folder in _visible_folders(folder, left_out):
        images = [(path.relative_to(root).as_posix(), path) for path in find_images(class_folder, left_out)]
        if images:
            found[class_folder.name] = images
        else:
            left_out[f"folder {class_folder.relative_to(root).as_posix()!r} holds no images and is not a class"] = 0
    loose = sum(1 for p in folder.iterdir() if _is_image(p))
    if loose and found:
        left_out["images in no class folder"] += loose
    return found


def find_images(folder: Path, left_out: Counter[str] | None = None) -> list[Path]:
    """All images below ``folder`` in sorted order; hidden files and folders and other files are counted, not taken."""
    left_out = Counter() if left_out is None else left_out

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}.")

    images = []
    seen = {os.path.realpath(folder)}
    for path, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        inside = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(path, name))
            if name.startswith("."):
                left_out["hidden folders"] += 1
            elif real in seen or os.path.realpath(folder).startswith(real + os.sep):
                left_out["links to folders that are read already"] += 1
            else:
                seen.add(real)
                inside.append(name)
        folders[:] = inside
        for name in sorted(files):
            if name.startswith("."):
                left_out["hidden files"] += 1
            elif _is_image(Path(path, name)):
                images.append(Path(path, name))
            else:
                left_out["files that are not images"] += 1
    return sorted(images)


def match_classes(source: Source, classes: Sequence[str]) -> Source:
    """Renumber the labels of ``source`` by class **name** to a model's classes.

    Raises:
        UserError: the data has a class that the model does not know.
    """
    unknown = [name for name in source.classes if name not in classes]
    if unknown:
        raise UserError(
            f"the data has classes that the model does not know: {_listed(unknown)}. The model knows: {_listed(classes)}."
            f"{did_you_mean(unknown[0], classes)}"
        )
    index = [list(classes).index(name) for name in source.classes]
    splits = {
        split: [
            sample._replace(labels=tuple(sorted(index[label] for label in sample.labels)))
            if source.multilabel
            else sample._replace(label=index[sample.label])
            for sample in samples
        ]
        for split, samples in source.splits.items()
    }
    absent = [name for name in classes if name not in source.classes]
    notes = (*source.notes, f"no images of {len(absent)} of the model's classes: {_listed(absent)}") if absent else ()
    return Source(source.name, tuple(classes), splits, notes or source.notes, source.multilabel)


def _visible_folders(folder: Path, left_out: Counter[str]) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}.") from None
    hidden = [p for p in entries if p.name.startswith(".")]
    left_out["hidden files"] += sum(p.is_file() for p in hidden)
    left_out["hidden folders"] += sum(p.is_dir() for p in hidden)
    left_out["files that are not images"] += sum(
        p.is_file() and not _is_image(p) and not p.name.startswith(".") for p in entries
    )
    return [p for p in entries if p.is_dir() and not p.name.startswith(".")]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _notes(left_out: Counter[str]) -> tuple[str, ...]:
    counted = [f"{count} {what}" for what, count in left_out.items() if count]
    told = [what for what, count in left_out.items() if not count and what.startswith(("class ", "folder "))]
    return ((f"left out: {', '.join(counted)}",) if counted else ()) + tuple(told)


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _digits() -> Source:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, as PNG; a fixed fifth of each class is the test part."""
    import numpy as np
    from PIL import Image

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("`digits` needs scikit-learn: pip install 'vitkit[digits]'.") from None
    digits = load_digits()
    seen: Counter[int] = Counter()
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(np.round(pixels * 255 / 16).astype(np.uint8)).save(buffer, "PNG")
        split = "test" if seen[label] % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1 else "train"
        seen[label] += 1
        splits[split].append(Sample(f"{split}/{label}/{number:04d}.png", buffer.getvalue(), label))
    for samples in splits.values():
        samples.sort(key=lambda sample: sample.name)
    return Source("digits", tuple(str(name) for name in digits.target_names), splits)
