"""UC Merced Land Use: 21 classes of 100 aerial images, split as big_vision's few-shot evaluation does.

Layout: `UCMerced_LandUse/Images/agricultural/agricultural00.tif`. Source: tensorflow_datasets image_classification/uc_merced.py,
whose only split is train and whose keys are the files' names; big_vision evaluators/fewshot_lsr: train[:1000] and train[1000:].
"""

from __future__ import annotations

from pathlib import Path

from vitkit.config import UserError
from vitkit.data.samples import Source
from vitkit.datasets.files.shipped import open_shipped, ordered_samples
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "UC Merced Land Use"
INNER = "UCMerced_LandUse/Images"
LAYOUT = f"UCMerced_LandUse.zip or {INNER}/ with a folder of .tif files for each class"
TRAIN = 1000


def _read(folder: Path) -> Source:
    shipped = open_shipped(folder, INNER, "UCMerced_LandUse.zip")
    if shipped is None:
        raise missing(TITLE, folder, "UCMerced_LandUse.zip and no UCMerced_LandUse/", LAYOUT)
    names = [name for name in shipped.files if name.endswith(".tif")]
    if not names or any(name.count("/") != 1 for name in names):
        wrong = next((name for name in names if name.count("/") != 1), "no .tif files")
        raise UserError(f"{TITLE}: {shipped.place} holds {wrong}; expected such as agricultural/agricultural00.tif.")
    classes = sorted({name.partition("/")[0] for name in names})
    listed = [(name, classes.index(name.partition("/")[0]), name.partition("/")[2]) for name in names]
    samples = ordered_samples(shipped.files, listed, "train")
    return Source("uc_merced", tuple(classes), {"train": samples[:TRAIN], "test": samples[TRAIN:]})


ROWS = (
    Published(
        name="uc_merced",
        title=TITLE,
        classes=21,
        counts={"train": TRAIN, "test": 1100},
        licence="none stated; public-domain imagery",
        source="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        layout=LAYOUT,
        read=_read,
        signs=("UCMerced_LandUse", "UCMerced_LandUse.zip"),
        note="the publisher has no split; the first 1,000 images in the order of TensorFlow Datasets train, as in big_vision",
    ),
)
