"""ImageNet-C: ImageNet's validation images under 15 kinds of corruption (and 4 more for validation), five severities each.

Layout ``CORRUPTION/SEVERITY/WNID/*.JPEG``, the kinds in one folder or in those of the publisher's archives (noise, blur, weather,
digital, extra): hendrycks/robustness, ImageNet-C/test.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from vitkit.config import UserError
from vitkit.data.classnames import class_wnids
from vitkit.data.pixels import IMAGE_SUFFIXES
from vitkit.data.samples import Sample, Source, listed
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.rows import Published, missing

__all__ = ["ALEXNET", "EXTRA", "IMAGES", "ROWS", "SEVERITIES", "read_corruptions"]

# AlexNet's error on each corruption, the mean of five severities, which the corruption error is measured in.
# Source: google-research/augmix, imagenet.py (ALEXNET_ERR, which says: taken from hendrycks/robustness).
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360,
    "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # not in the mean corruption error
SEVERITIES = (1, 2, 3, 4, 5)
IMAGES = 50_000  # of each severity
LAYOUT = "CORRUPTION/SEVERITY/WNID/*.JPEG, such as fog/3/n01440764/ILSVRC2012_val_00000293.JPEG"


def read_corruptions(folder: Path) -> Source:
    """A split ``CORRUPTION/SEVERITY`` for each that is there.

    Raises:
        UserError: none is there, a folder that is no severity, or one that is no class of ImageNet.
    """
    known = (*ALEXNET, *EXTRA)
    groups = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in known)]
    index = {wnid: number for number, wnid in enumerate(class_wnids())}
    splits: dict[str, Sequence[Sample]] = {}
    names: tuple[str, ...] = ()
    for kind in known:
        places = [group / kind for group in groups if (group / kind).is_dir()]
        if len(places) > 1:
            raise UserError(f"ImageNet-C in {folder} has {kind} twice: {places[0]} and {places[1]}. Keep one.")
        for severity in SEVERITIES if places else ():
            place = places[0] / str(severity)
            if place.is_dir():
                found = _names(place, index)
                names = names if found == names else found  # every severity holds the same file names
                shown = f"{kind}/{severity}"
                make = partial(
                    _sample, place, shown, names, index
                )  # names once, not 75 times: there are 3,750,000 images
                splits[shown] = LazySamples(len(names), make)
    if not splits:
        raise missing("ImageNet-C", folder, "folder of a corruption with severities 1 to 5", LAYOUT)
    return Source("ImageNet-C", class_wnids(), splits)


def _sample(folder: Path, shown: str, names: tuple[str, ...], index: Mapping[str, int], place: int) -> Sample:
    name = names[place]
    return Sample(f"{shown}/{name}", folder / name, index[name.partition("/")[0]])


def _names(place: Path, index: Mapping[str, int]) -> tuple[str, ...]:
    wnids = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    if strange := [name for name in wnids if name not in index]:
        raise UserError(
            f"ImageNet-C: {place} holds {listed(strange)}, no WordNet id of ImageNet's classes; expected {LAYOUT}."
        )
    return tuple(
        f"{wnid}/{name}"
        for wnid in wnids
        for name in sorted(os.listdir(place / wnid))
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )


ROWS = (
    Published(
        "imagenet_c", "ImageNet-C", 1000, {f"{kind}/{severity}": IMAGES for kind in ALEXNET for severity in SEVERITIES},
        "CC BY 4.0", "https://zenodo.org/record/2235448; arXiv 1903.12261", LAYOUT, read_corruptions,
    ),
)  # fmt: skip
