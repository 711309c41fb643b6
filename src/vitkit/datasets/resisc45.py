"""NWPU-RESISC45: 256 x 256 JPEG files in one folder for each class, in one split. The publisher's rar file is unpacked by the user.

Source: arXiv 1703.00121; tensorflow_datasets, image_classification/resisc45.py (``NWPU-RESISC45/CLASS/CLASS_nnn.jpg``).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vitkit.config import UserError
from vitkit.data.samples import Source
from vitkit.datasets.files.class_folders import read_class_folders
from vitkit.datasets.files.shipped import find_one
from vitkit.datasets.rows import Published

__all__ = ["ROWS"]

TITLE = "RESISC45"
LAYOUT = "the folder NWPU-RESISC45 with CLASS/CLASS_nnn.jpg, unpacked from NWPU-RESISC45.rar"
CLASSES = (
    "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
    "circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway", "golf_course",
    "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow", "medium_residential",
    "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway", "railway_station",
    "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship", "snowberg", "sparse_residential",
    "stadium", "storage_tank", "tennis_court", "terrace", "thermal_power_station", "wetland",
)  # fmt: skip


def _read(folder: Path) -> Source:
    if not (folder / "NWPU-RESISC45").exists() and (rar := next(iter(sorted(folder.glob("*.rar"))), None)):
        raise UserError(f"{TITLE}: {rar} is a rar file, which is not read; unpack it: unrar x {rar} {folder}")
    root = find_one(TITLE, folder, LAYOUT, "NWPU-RESISC45", "NWPU-RESISC45.zip")
    return dataclasses.replace(read_class_folders(TITLE, root, CLASSES, ".jpg", LAYOUT), name="resisc45")


ROWS = (
    Published(
        "resisc45", TITLE, 45, {"train": 31_500}, "not stated by the publisher", "https://arxiv.org/abs/1703.00121",
        LAYOUT, _read,
    ),
)  # fmt: skip
