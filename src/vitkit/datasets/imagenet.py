"""ImageNet (ILSVRC 2012): the organisers' tar files and development kit, or class folders made of them.

Layout: `ILSVRC2012_img_val.tar` holds 50,000 files `ILSVRC2012_val_00000001.JPEG` ... without folders; line i of
`data/ILSVRC2012_validation_ground_truth.txt` in the development kit is the ILSVRC2012_ID of image i; `data/meta.mat` says which
WordNet id has which ILSVRC2012_ID (another order than that of the classes). `ILSVRC2012_img_train.tar` holds a tar file for each
WordNet id. Source: torchvision.datasets.imagenet (`parse_devkit_archive`, `parse_train_archive`, `parse_val_archive`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.archives import TarMember, list_tar
from vitkit.data.classnames import class_wnids
from vitkit.data.containers import ImageSource
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.mat import read_mat
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import list_files, open_shipped
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS", "read_imagenet", "training", "validation"]

TITLE = "ImageNet"
LAYOUT = (
    "ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12.tar.gz, or val/ with a folder for each WordNet id; for training "
    "ILSVRC2012_img_train.tar, or train/ with a folder or tar file for each WordNet id"
)
KIT = "ILSVRC2012_devkit_t12"
IMAGES = 50_000
_WNID = re.compile(r"n\d{8}")
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def read_imagenet(folder: Path) -> Source:
    """The splits train and val, as far as their files are there. Classes are WordNet ids.

    Raises:
        UserError: neither is there; another layout.
    """
    has_train = any((folder / name).exists() for name in ("ILSVRC2012_img_train.tar", "train"))
    has_val = any((folder / name).exists() for name in ("ILSVRC2012_img_val.tar", "val"))
    if not has_train and not has_val:
        raise missing(TITLE, folder, "ILSVRC2012_img_val.tar and no val/", LAYOUT)
    splits = {"train": training(folder)} if has_train else {}
    if has_val:
        splits["val"] = validation(folder)
    return Source("imagenet", class_wnids(), splits)


def validation(folder: Path) -> list[Sample]:
    """The validation images in their official order, ILSVRC2012_val_00000001 first; labels index `class_wnids`.

    Raises:
        UserError: they or their labels are not there; files of other names; unknown classes.
    """
    files: Mapping[str, ImageSource]
    if (folder / "val").is_dir():
        place, files = folder / "val", list_files(folder / "val")
    elif (folder / "ILSVRC2012_img_val.tar").is_file():
        place = folder / "ILSVRC2012_img_val.tar"
        files = list_tar(place)
    else:
        raise missing(TITLE, folder, "ILSVRC2012_img_val.tar and no val/", LAYOUT)
    numbered = {}
    for name in files:
        match = _VAL.fullmatch(name.rpartition("/")[2])
        if match is None or not 1 <= int(match[1]) <= IMAGES:
            raise UserError(
                f"{TITLE}: {place} holds {name}; expected the organisers' names, ILSVRC2012_val_00000001.JPEG to "
                f"ILSVRC2012_val_{IMAGES:08}.JPEG: labels and orders go by them."
            )
        if int(match[1]) in numbered:
            raise UserError(f"{TITLE}: {place} holds ILSVRC2012_val_{match[1]}.JPEG twice. Keep one.")
        numbered[int(match[1])] = name
    if not numbered:
        raise UserError(f"{TITLE}: {place} holds no images; expected {LAYOUT}.")
    by_folder = {number: name.rpartition("/")[0].rpartition("/")[2] for number, name in numbered.items()}
    wnids = by_folder if all(map(_WNID.fullmatch, by_folder.values())) else _ground_truth(folder)
    index = {wnid: label for label, wnid in enumerate(class_wnids())}
    samples = []
    for number, name in sorted(numbered.items()):
        if (wnid := wnids.get(number, "none")) not in index:
            raise UserError(f"{TITLE}: {place} has {name} of the class {wnid}, which is none of the 1,000 WordNet ids.")
        samples.append(Sample(f"val/ILSVRC2012_val_{number:08}.JPEG", files[name], index[wnid]))
    return samples


def training(folder: Path) -> list[Sample]:
    """The training images, in the order of TensorFlow Datasets.

    Raises:
        UserError: they are not there; unknown classes.
    """
    index = {wnid: label for label, wnid in enumerate(class_wnids())}
    by_class: dict[str, Mapping[str, ImageSource]] = {}
    if (folder / "train").is_dir():
        place = folder / "train"
        for path in sorted(place.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                by_class[path.name] = list_files(path)
            elif path.suffix == ".tar":
                by_class[path.stem] = list_tar(path)
    elif (folder / "ILSVRC2012_img_train.tar").is_file():
        place = folder / "ILSVRC2012_img_train.tar"
        for name, member in list_tar(place).items():
            by_class[name.rpartition("/")[2].removesuffix(".tar")] = _inner(place, name, member)
    else:
        raise missing(TITLE, folder, "ILSVRC2012_img_train.tar and no train/", LAYOUT)
    if unknown := [wnid for wnid in by_class if wnid not in index]:
        raise UserError(f"{TITLE}: {place} has the class {unknown[0]!r}, which is none of the 1,000 WordNet ids.")
    samples, keys = [], []
    for wnid in sorted(by_class):
        for name, source in by_class[wnid].items():
            keys.append(name.rpartition("/")[2])
            samples.append(Sample(f"train/{wnid}/{keys[-1]}", source, index[wnid]))
    if not samples:
        raise UserError(f"{TITLE}: {place} holds no images; expected {LAYOUT}.")
    return in_tfds_order(samples, keys, "train")


def _inner(place: Path, name: str, member: TarMember) -> dict[str, TarMember]:
    if not name.endswith(".tar"):
        raise UserError(f"{TITLE}: {place} holds {name}; expected a tar file for each WordNet id.")
    return list_tar(place, member)


def _ground_truth(folder: Path) -> dict[int, str]:
    """WordNet id of each validation image by its number, from the development kit."""
    kit = open_shipped(folder, KIT, f"{KIT}.tar.gz", f"{KIT}.tar")
    if kit is None:
        raise missing(TITLE, folder, f"{KIT}.tar.gz, which says the classes of the validation images", LAYOUT)
    truth = kit.lines("data/ILSVRC2012_validation_ground_truth.txt")
    if "data/meta.mat" not in kit.files:
        raise UserError(f"{kit.place} has no data/meta.mat. Fetch it again.")
    synsets = read_mat(kit.files["data/meta.mat"], "synsets", called=f"{kit.place}/data/meta.mat")["synsets"]
    try:
        wnid_of = {int(synset.ILSVRC2012_ID): str(synset.WNID) for synset in np.atleast_1d(synsets)}
        found = {number: wnid_of[int(line)] for number, line in enumerate(truth, 1)}
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{kit.place} is not understood ({type(error).__name__}: {error}); expected data/meta.mat with ILSVRC2012_ID and WNID "
            "of each synset, and one of these numbers in each line of data/ILSVRC2012_validation_ground_truth.txt."
        ) from None
    return found


ROWS = (
    Published(
        name="imagenet",
        title=TITLE,
        classes=1000,
        counts={"train": 1_281_167, "val": IMAGES},
        licence="research and education only (image-net.org terms)",
        source="https://image-net.org/challenges/LSVRC/2012/",
        layout=LAYOUT,
        read=read_imagenet,
        apart=("train", "val"),
        signs=("ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar", f"{KIT}.tar.gz"),
    ),
)
