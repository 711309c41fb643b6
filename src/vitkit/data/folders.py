"""Class folders: images, classes and splits from names alone; opens no image."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitkit.config import UserError, did_you_mean
from vitkit.data.pixels import IMAGE_SUFFIXES
from vitkit.data.samples import SPLIT_NAMES, Sample, Source, listed

__all__ = ["find_images", "has_class_folders", "read_folders"]


def read_folders(root: Path, also: Sequence[str] = ()) -> Source:
    """Read class folders, or train/ with val/ and test/ made of class folders; ``also`` are notes to add.

    Raises:
        UserError: no images, or a split with a class that training does not have.
    """
    left_out: Counter[str] = Counter()
    folders = _visible_folders(root, left_out)
    named = {folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES}
    only_splits = bool(named) and len(named) == len(folders)
    if "train" in named.values() or (only_splits and not any(_is_image(p) for f in named for p in f.iterdir())):
        source = _read_splits(root, named, [f for f in folders if f not in named], left_out)
        return dataclasses.replace(source, notes=(*source.notes, *also))
    misplaced = [f"folder {f.name!r} is taken for a class: there is no train/ beside it" for f in named]
    left_out.clear()  # the root is looked at again, as the folder of the classes
    samples, classes = _read_classes(root, root, left_out)
    return Source(root.resolve().name, classes, {"all": samples}, (*_notes(left_out), *misplaced, *also))


def has_class_folders(root: Path) -> bool:
    """Whether a folder that also holds a table is nevertheless made of class folders.

    One folder of images beside a table is where the table's images are; so are train/ and test/ that hold images and no
    class folders.
    """
    ignored: Counter[str] = Counter()
    folders = _visible_folders(root, ignored)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if any(SPLIT_NAMES[folder.name.lower()] == "train" for folder in splits):
        return any(_holds_an_image(f) for split in splits for f in _visible_folders(split, ignored))
    classes = [folder for folder in folders if folder not in splits and _holds_an_image(folder)]
    return len(classes) > 1


def _holds_an_image(folder: Path) -> bool:
    return any(
        Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        for _, _, files in os.walk(folder)
        for name in files
    )


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
                f"the {role} split has a class {name!r} that train does not have (train: {listed(classes)})."
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
