"""Oxford 102 Flowers.

Layout: `jpg/image_00001.jpg` to `image_08189.jpg`; `imagelabels.mat` holds `labels`, the class (from 1) of each image in order;
`setid.mat` holds the numbers of the images of each split, `trnid`, `valid` and `tstid`. Source: torchvision.datasets.flowers102;
tensorflow_datasets oxford_flowers102 2.1.1, whose keys are the files' names. The files hold no names of the classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.data.samples import Source
from vitkit.datasets.files.mat import read_mat
from vitkit.datasets.files.shipped import open_shipped, ordered_samples
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS"]

TITLE = "Oxford Flowers-102"
LAYOUT = "102flowers.tgz or jpg/, with imagelabels.mat and setid.mat"
# In the order of the class numbers. Source: tensorflow_datasets oxford_flowers102, after the publisher's page of categories.
NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily,
moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle,
yellow iris, globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily,
pincushion flower, fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers,
stemless gentian, artichoke, sweet william, carnation, garden phlox, love in the mist, mexican aster,
alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy,
daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy,
common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium,
orange dahlia, pink-yellow dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea,
water lily, rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani,
clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily,
hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia,
blanket flower, trumpet creeper, blackberry lily
"""
CLASSES = tuple(name.strip() for name in NAMES.strip().replace("\n", " ").split(","))
SETS = {"train": ("trnid", "train"), "val": ("valid", "validation"), "test": ("tstid", "test")}  # ours: theirs, tfds's


def _read(folder: Path) -> Source:
    images = open_shipped(folder, "jpg", "102flowers.tgz")
    if images is None:
        raise missing(TITLE, folder, "102flowers.tgz and no jpg/", LAYOUT)
    for name in ("imagelabels.mat", "setid.mat"):
        if not (folder / name).is_file():
            raise missing(TITLE, folder, name, LAYOUT)
    labels = _numbers(folder / "imagelabels.mat", "labels")[0]
    if min(labels) < 1 or max(labels) > len(CLASSES):
        raise UserError(
            f"{TITLE}: {folder / 'imagelabels.mat'} has classes from {min(labels)} to {max(labels)}; expected 1 to 102."
        )
    sets = _numbers(folder / "setid.mat", *(theirs for theirs, _ in SETS.values()))
    splits = {}
    for (split, (theirs, tfds)), numbers in zip(SETS.items(), sets, strict=True):
        if min(numbers) < 1 or max(numbers) > len(labels):
            raise UserError(
                f"{TITLE}: {theirs} of {folder / 'setid.mat'} has the images {min(numbers)} to {max(numbers)}; imagelabels.mat has "
                f"labels of {len(labels):,}."
            )
        listed = [(name := f"image_{i:05}.jpg", labels[i - 1] - 1, name) for i in numbers]
        splits[split] = ordered_samples(images.files, listed, tfds)
    return Source("flowers102", CLASSES, splits)


def _numbers(path: Path, *names: str) -> list[list[int]]:
    """Lists of whole numbers, none empty."""
    lists = []
    for name, value in read_mat(path, *names).items():
        array = np.atleast_1d(value)
        if array.ndim != 1 or not array.size or array.dtype.kind not in "iuf":
            raise UserError(f"{TITLE}: {name} of {path} is no list of numbers. Fetch it again.")
        lists.append([int(number) for number in array])
    return lists


ROWS = (
    Published(
        name="flowers102",
        title=TITLE,
        classes=len(CLASSES),
        counts={"train": 1020, "val": 1020, "test": 6149},
        licence="none stated",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        layout=LAYOUT,
        read=_read,
        signs=("setid.mat", "102flowers.tgz"),
    ),
)
