"""Test sets beside ImageNet's own, of its classes: ImageNet-V2, -A, -R, Sketch, and ReaL's labels of the validation images.

Layouts and counts: modestyachts/ImageNetV2 (README) and modestyachts/ImageNetV2_pytorch (names of archives and folders);
hendrycks/natural-adv-examples and hendrycks/imagenet-r (eval.py: a folder per WordNet id); HaohanWang/ImageNet-Sketch;
google-research/reassessed-imagenet (README: real.json). Numbers of images: mlfoundations/datacomp, tasklist.yml.
"""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path

from vitkit.config import UserError, read_json
from vitkit.data.archives import read_tar
from vitkit.data.classnames import class_wnids
from vitkit.data.folders import read_folders
from vitkit.data.samples import Sample, Source, listed
from vitkit.data.tables import assemble
from vitkit.datasets.imagenet import validation
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS", "read_numbered", "read_real", "read_wnids"]

VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")
IMAGES = 50_000  # of ImageNet's validation split, which real.json has a list of labels for each of
LICENCE_FLICKR = "code MIT; images from Flickr, under their authors' terms"


def _single_split(folder: Path, title: str, layout: str, inside: str, archives: tuple[str, ...]) -> Source:
    """Class folders in ``folder/inside``, in ``folder`` itself, or in an archive there, as the split ``test``."""
    place = folder / inside if (folder / inside).is_dir() else folder
    archive = next((folder / name for name in archives if (folder / name).is_file()), None)
    if place == folder and archive:
        source = assemble(title, [("test", read_tar(archive, folder))], ())
    else:
        try:
            source = read_folders(place)
        except UserError:
            raise missing(title, place, "class folders with images", layout) from None
        if set(source.splits) != {"all"}:
            raise missing(title, place, "class folders alone", layout)
        source = dataclasses.replace(source, splits={"test": source.splits["all"]})
    return dataclasses.replace(source, name=title)


def read_wnids(folder: Path, title: str, layout: str, inside: str, archives: tuple[str, ...]) -> Source:
    """Folders named by WordNet id, all of them ImageNet's.

    Raises:
        UserError: another layout, or a folder that is no class of ImageNet.
    """
    source = _single_split(folder, title, layout, inside, archives)
    if strange := [name for name in source.classes if name not in class_wnids()]:
        raise UserError(
            f"{title} in {folder}: {listed(strange)} is no WordNet id of ImageNet's 1,000 classes; expected {layout}."
        )
    return source


def read_numbered(folder: Path, title: str, layout: str, inside: str, archives: tuple[str, ...]) -> Source:
    """Folders named by the index of ImageNet's class, 0 to 999: sorted as text they would be out of order.

    Raises:
        UserError: another layout, or a folder that is no index.
    """
    source = _single_split(folder, title, layout, inside, archives)
    if strange := [
        name for name in source.classes if not (name.isdecimal() and name == str(int(name)) and int(name) < 1000)
    ]:
        raise UserError(f"{title} in {folder}: {listed(strange)} is no index from 0 to 999; expected {layout}.")
    samples = [sample._replace(label=int(source.classes[sample.label])) for sample in source.splits["test"]]
    return dataclasses.replace(source, classes=class_wnids(), splits={"test": samples})


def read_real(folder: Path) -> Source:
    """ImageNet's validation images with every class that fits, of ``real.json``; none of them where the raters found none.

    Raises:
        UserError: no real.json, one of another form, or validation images that it does not tell of.
    """
    path = folder / "real.json"
    if not path.is_file():
        raise missing("ImageNet-ReaL", folder, "real.json", REAL_LAYOUT)
    labels = _real_labels(path)
    wanted = []
    for place, sample in enumerate(validation(folder)):
        number = VALIDATION.search(sample.name)
        index = int(number[1]) - 1 if number else place
        if not 0 <= index < len(labels):
            raise UserError(f"{path} has {len(labels):,} lists of labels, none for {sample.name}. Fetch it again.")
        wanted.append(Sample(sample.name, sample.source, -1, labels[index]))
    return Source("ImageNet-ReaL", class_wnids(), {"val": wanted}, multilabel=True)


def _real_labels(path: Path) -> list[tuple[int, ...]]:
    stored = read_json(path)
    if not isinstance(stored, list) or len(stored) != IMAGES:
        found = f"{len(stored):,} entries" if isinstance(stored, list) else type(stored).__name__
        raise UserError(f"{path} holds {found}; expected a list of {IMAGES:,} lists of class indices.")
    for number, labels in enumerate(stored):
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 1000 for label in labels):
            raise UserError(f"{path}, entry {number}: {labels!r:.60}; expected a list of class indices from 0 to 999.")
    return [tuple(sorted(set(labels))) for labels in stored]


def _v2(name: str, version: str, what: str) -> Published:
    inside, archive = f"imagenetv2-{version}-format-val", f"imagenetv2-{version}.tar"
    layout = f"{inside}/0 to 999 with ten images each, or {archive}.gz"
    title = f"ImageNet-V2 ({what})"
    return Published(
        name, title, 1000, {"test": 10_000}, LICENCE_FLICKR, "https://github.com/modestyachts/ImageNetV2", layout,
        partial(read_numbered, title=title, layout=layout, inside=inside, archives=(archive, f"{archive}.gz")),
    )  # fmt: skip


def _by_wnid(name: str, title: str, classes: int, images: int, licence: str, source: str, inside: str) -> Published:
    archive = f"{inside}.tar"
    layout = f"{inside}/ with {classes:,} folders named by WordNet id, such as n01443537, or {archive}"
    return Published(
        name, title, classes, {"test": images}, licence, source, layout,
        partial(read_wnids, title=title, layout=layout, inside=inside, archives=(archive,)),
    )  # fmt: skip


REAL_LAYOUT = "real.json of google-research/reassessed-imagenet beside ImageNet's validation images"
ROWS = (
    _v2("imagenet_v2", "matched-frequency", "matched frequency"),
    _v2("imagenet_v2_threshold", "threshold0.7", "threshold 0.7"),
    _v2("imagenet_v2_top", "top-images", "top images"),
    Published(
        "imagenet_real", "ImageNet-ReaL", 1000, {"val": IMAGES}, "labels Apache 2.0; images ImageNet's terms",
        "https://github.com/google-research/reassessed-imagenet; arXiv 2006.07159", REAL_LAYOUT, read_real,
    ),
    _by_wnid("imagenet_a", "ImageNet-A", 200, 7_500, "MIT", "https://github.com/hendrycks/natural-adv-examples", "imagenet-a"),
    _by_wnid("imagenet_r", "ImageNet-R", 200, 30_000, "not stated", "https://github.com/hendrycks/imagenet-r", "imagenet-r"),
    _by_wnid("imagenet_sketch", "ImageNet-Sketch", 1000, 50_889, "MIT", "https://github.com/HaohanWang/ImageNet-Sketch", "sketch"),
)  # fmt: skip
