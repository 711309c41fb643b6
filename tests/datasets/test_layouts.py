"""What every published set says of a folder that holds something else. Stand-ins are written by nothing of the package."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from published import refused
from standins import cifar_members, jpeg, pack_tar, pack_zip, unpack
from vitkit.config import UserError
from vitkit.datasets.book import find_dataset, list_datasets
from vtab_standins import WRITERS

NAMES = [row.name for row in list_datasets()]
# Files and folders that make a reader of each set go on to what it reads next, in the publisher's names.
CIFAR_BATCHES = [f"cifar-10-batches-bin/{name}.bin" for name in ("data_batch_1", "test_batch")]
NORB = [
    f"smallnorb-5x{stem}-{part}.mat"
    for stem in ("46789x9x18x6x2x96x96-training", "01235x9x18x6x2x96x96-testing")
    for part in ("dat", "cat", "info")
]
SPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
PCAM = [f"camelyonpatch_level_2_split_{split}_{part}.h5" for split in ("train", "valid", "test") for part in "xy"]
SUN = [f"sun397_tfds_{part}.txt" for part in ("tr", "va", "te")]
V2 = [f"imagenetv2-{version}.tar" for version in ("matched-frequency", "threshold0.7", "top-images")]
KITTI = ["image_2/000000.png", "label_2/000000.txt"]
OBJECTNET = [
    "objectnet_to_imagenet_1k.json", "folder_to_objectnet_label.json",
    "pytorch_to_imagenet_2012_id.json", "imagenet_to_label_2012_v2",
]  # fmt: skip
CARS = "cars_test_annos_withlabels.mat"
FILES: dict[str, list[list[str]]] = {  # by how the names of the rows begin
    "imagenet": [["ILSVRC2012_img_train.tar"], ["ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"]],
    "cifar10": [["cifar-10-binary.tar.gz"], CIFAR_BATCHES],
    "cifar100": [["cifar-100-binary.tar.gz"], ["cifar-100-binary/train.bin"]],
    "mnist": [["train-images-idx3-ubyte"], ["raw/train-images-idx3-ubyte.gz"]],
    "pets": [["images.tar.gz", "annotations.tar.gz"], ["images/a.jpg", "annotations/trainval.txt"]],
    "flowers102": [["102flowers.tgz"], ["jpg/a.jpg", "imagelabels.mat", "setid.mat"]],
    "caltech101": [["101_ObjectCategories.tar.gz"], ["101_ObjectCategories/a"]],
    "cars196": [["car_devkit.tgz", CARS], ["devkit/cars_meta.mat", CARS]],
    "dtd": [["dtd-r1.0.1.tar.gz"], ["labels/train1.txt"]],
    "uc_merced": [["UCMerced_LandUse.zip"], ["UCMerced_LandUse/Images/a.tif"]],
    "clevr": [["CLEVR_v1.0.zip"], ["CLEVR_v1.0/scenes/CLEVR_train_scenes.json"]],
    "dmlab": [
        ["dmlab.tar"], ["dmlab.tar.gz"], [f"dmlab-{split}.tfrecord-00000" for split in ("train", "validation", "test")],
    ],
    "dsprites": [[f"{SPRITES}.npz"], [f"{SPRITES}.hdf5"]],
    "eurosat": [["EuroSAT.zip"], ["2750/a.jpg"]],
    "kitti": [
        ["data_object_image_2.zip", "data_object_label_2.zip", "devkit_object.zip"],
        [*(f"training/{name}" for name in KITTI), "mapping/train_rand.txt", "mapping/train_mapping.txt"],
    ],
    "patch": [PCAM],
    "resisc45": [["NWPU-RESISC45.zip"], ["NWPU-RESISC45.rar"], ["NWPU-RESISC45"]],
    "retinopathy": [["trainLabels.csv", "retinopathy_solution.csv", "train/a.jpeg", "test/a.jpeg"]],
    "smallnorb": [NORB, [f"{name}.gz" for name in NORB]],
    "sun397": [
        [*SUN, "SUN397.tar"], ["Partitions.zip", "SUN397/a/b.jpg"], ["Training_01.txt", "Testing_01.txt", "SUN397.tar.gz"],
    ],
    "svhn": [["train_32x32.mat", "test_32x32.mat"]],
    "imagenet_v2": [V2, [f"{name}.gz" for name in V2]],
    "imagenet_real": [["real.json"]],
    "imagenet_a": [["imagenet-a.tar"]],
    "imagenet_r": [["imagenet-r.tar"]],
    "imagenet_sketch": [["sketch.tar"]],
    "imagenet_c": [["fog"], ["fog/1"], ["fog/1/n01440764"], ["fog/1/n01440764/a.txt"], ["weather/fog/9/a.JPEG"]],
    "objectnet": [["objectnet-1.0"], [f"objectnet-1.0/mappings/{name}" for name in OBJECTNET]],
    "vizwiz": [["annotations.json"], ["annotations.json", "images/a.jpg"]],
}  # fmt: skip
CONTENTS = {
    "nothing": b"", "a photo": jpeg(1), "text": b"no such file\n", "packed": gzip.compress(b"no archive" * 99),
    "zip": pack_zip([("holiday/beach.jpg", jpeg(1))]), "tar": pack_tar([("holiday/beach.jpg", jpeg(1))]),
}  # fmt: skip
CONTENTS |= {f"cut {name}": CONTENTS[name][: -400 if name == "tar" else -40] for name in ("zip", "tar", "packed")}
CONTENTS["cut tar.gz"] = gzip.compress(CONTENTS["tar"])[:-30]


def refusal(name: str, folder: Path) -> str:
    """What is said; anything but a UserError is a failure."""
    row = find_dataset(name)
    texts = []
    for partial in (False, True):
        with pytest.raises(UserError) as caught:
            row.open(folder, partial=partial)
        texts.append(str(caught.value))
        assert row.layout in texts[-1], texts[-1]
        assert texts[-1].endswith("."), texts[-1]
    assert texts[0] == texts[1]
    return texts[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_something_else_says_what_was_expected(tmp_path: Path, name: str) -> None:
    row = find_dataset(name)
    with pytest.raises(UserError, match=r"no folder .*nothing; expected") as caught:
        row.open(tmp_path / "nothing")
    assert row.layout in str(caught.value)
    assert row.title.split(",")[0].split(" (")[0] in (text := refusal(name, tmp_path)), text
    assert text.endswith("The folder holds: nothing."), text
    unpack(tmp_path, [("holiday.jpg", jpeg(1))])
    assert refusal(name, tmp_path).endswith("The folder holds: holiday.jpg.")
    (tmp_path / "holiday.jpg").unlink()
    unpack(tmp_path, [("holiday/beach.jpg", jpeg(1))])
    refusal(name, tmp_path)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_right_name_and_the_wrong_content_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    key = max((key for key in FILES if name.startswith(key)), key=len)
    for number, files in enumerate(FILES[key]):
        folder = tmp_path / str(number)
        unpack(folder, [(file, CONTENTS[content]) for file in files])
        refusal(name, folder)


PACKED = (".gz", ".tgz", ".zip", ".npz", ".hdf5", ".h5", ".mat", ".tfrecord-00000")


@pytest.mark.parametrize(
    "name", ["caltech101", "cifar100", "dtd", "flowers102", "sun397", "svhn", "clevr_count", "dmlab"]
)
def test_a_cut_archive_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of whole stand-ins, so that readers come as far as their contents."""
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / name
    folder.mkdir()
    WRITERS[name.partition("_")[0]][0](folder)
    cut = [path for path in folder.iterdir() if path.name.endswith(PACKED)]
    assert cut
    for path in cut:
        whole = path.read_bytes()
        for length in (len(whole) // 50, len(whole) // 2, len(whole) - 30):
            path.write_bytes(whole[:length])
            refusal(name, folder)
        path.write_bytes(whole)


def test_a_sprites_archive_that_is_cut_or_changed_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / f"{SPRITES}.npz"
    images = np.random.default_rng(0).integers(0, 2, (40, 64, 64), np.uint8)
    np.savez_compressed(path, imgs=images, latents_classes=np.zeros((40, 6), np.int64))
    whole = path.read_bytes()
    for place in range(20, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place])
        refusal("dsprites_location", tmp_path)
        path.write_bytes(whole[:place] + b"\xff" * 9 + whole[place + 9 :])
        with pytest.raises(UserError):
            find_dataset("dsprites_location").open(tmp_path)


def test_one_class_short_is_refused_even_in_part(tmp_path: Path) -> None:
    members = cifar_members(10)[0]
    members["cifar-10-batches-bin/batches.meta.txt"] += b"submarine\n"
    unpack(tmp_path, members.items())
    assert "has 11 classes, the published one 10" in refused("cifar10", tmp_path)


def test_a_smaller_row_passes_when_its_counts_are_met(tmp_path: Path) -> None:
    unpack(tmp_path, cifar_members(100)[0].items())
    row = dataclasses.replace(find_dataset("cifar100"), counts={"train": 3, "test": 3})
    assert row.open(tmp_path).notes == ()
    (tmp_path / "cifar-100-binary" / "test.bin").unlink()
    with pytest.raises(UserError, match=r"images found of images published: test 0 of 3\."):
        row.open(tmp_path)
