"""EuroSAT, the RGB version: 64 x 64 JPEG files in one folder for each class, in one split.

Source: github.com/phelber/EuroSAT; tensorflow_datasets, image_classification/eurosat.py (``2750/CLASS/CLASS_n.jpg``).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vitkit.data.samples import Source
from vitkit.datasets.files.class_folders import read_class_folders
from vitkit.datasets.files.shipped import find_one
from vitkit.datasets.rows import Published

__all__ = ["ROWS"]

TITLE = "EuroSAT"
LAYOUT = "EuroSAT.zip (or EuroSAT_RGB.zip), or its folder 2750 (or EuroSAT_RGB) with CLASS/CLASS_n.jpg"
CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip


def _read(folder: Path) -> Source:
    root = find_one(TITLE, folder, LAYOUT, "2750", "EuroSAT_RGB", "EuroSAT.zip", "EuroSAT_RGB.zip")
    return dataclasses.replace(read_class_folders(TITLE, root, CLASSES, ".jpg", LAYOUT), name="eurosat")


ROWS = (
    Published(
        "eurosat", TITLE, 10, {"train": 27_000}, "MIT", "https://github.com/phelber/EuroSAT", LAYOUT, _read
    ),
)  # fmt: skip
