"""The data sets of VTAB in their publishers' containers: of full size where zeros or a few bytes an image cost nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from containers import example, norb_matrix, write_records
from standins import (
    caltech_members,
    cifar_members,
    dtd_members,
    jpeg,
    mat,
    pets_members,
    unpack,
    write_flowers,
    write_tar,
    write_zip,
)

__all__ = ["WRITERS"]

EUROSAT = {
    "AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500, "Pasture": 2000,
    "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000,
}  # fmt: skip
RESISC45 = """
airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland cloud commercial_area
dense_residential desert forest freeway golf_course ground_track_field harbor industrial_area intersection island lake meadow
medium_residential mobile_home_park mountain overpass palace parking_lot railway railway_station rectangular_farmland river
roundabout runway sea_ice ship snowberg sparse_residential stadium storage_tank tennis_court terrace thermal_power_station wetland
""".split()  # noqa: SIM905


def draws() -> np.random.Generator:
    return np.random.default_rng(0)


def caltech101(folder: Path) -> None:
    write_tar(folder / "101_ObjectCategories.tar.gz", caltech_members())


def cifar100(folder: Path) -> None:
    """2,100 training images and 50 test images."""
    members = cifar_members(100)[0]
    for name, count in (("train", 2_100), ("test", 50)):
        records = np.zeros((count, 3_074), np.uint8)
        records[:, 1] = np.arange(count) % 100
        members[f"cifar-100-binary/{name}.bin"] = records.tobytes()
    write_tar(folder / "cifar-100-binary.tar.gz", members.items())


def dtd(folder: Path) -> None:
    write_tar(folder / "dtd-r1.0.1.tar.gz", dtd_members().items())


def flowers102(folder: Path) -> None:
    write_flowers(folder, packed=True)


def pets(folder: Path) -> None:
    members = pets_members({"trainval.txt": 3680, "test.txt": 3669}).items()
    for name in ("images", "annotations"):
        write_tar(folder / f"{name}.tar.gz", [member for member in members if member[0].startswith(name)])


def sun397(folder: Path) -> None:
    """1,000, 300 and 100 images."""
    lines = [f"/{chr(97 + n % 397 % 26)}/scene{n % 397:03d}/sun_{n:04d}.jpg" for n in range(1_400)]
    for name, part in (("tr", lines[:1_000]), ("va", lines[1_000:1_300]), ("te", lines[1_300:])):
        (folder / f"sun397_tfds_{name}.txt").write_text("\n".join(part))
    write_tar(folder / "SUN397.tar.gz", [(f"SUN397{line}", line.encode()) for line in lines])


def svhn(folder: Path) -> None:
    """2,100 training images and 40 test images."""
    for name, count in (("train", 2_100), ("test", 40)):
        y = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        (folder / f"{name}_32x32.mat").write_bytes(mat(X=np.zeros((32, 32, 3, count), np.uint8), y=y))


def patch_camelyon(folder: Path) -> None:
    """Of full size: chunks that were never written take no room."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    for split, count in (("train", 262_144), ("valid", 32_768), ("test", 32_768)):
        stem = f"camelyonpatch_level_2_split_{split}"
        with h5py.File(folder / f"{stem}_x.h5", "w") as file:
            file.create_dataset("x", (count, 96, 96, 3), np.uint8, chunks=(1, 96, 96, 3))
        with h5py.File(folder / f"{stem}_y.h5", "w") as file:
            file["y"] = draws().integers(0, 2, (count, 1, 1, 1), np.uint8)


def eurosat(folder: Path) -> None:
    names = [f"2750/{name}/{name}_{n}.jpg" for name, count in EUROSAT.items() for n in range(1, count + 1)]
    write_zip(folder / "EuroSAT.zip", [(name, b"image") for name in names], 0)


def resisc45(folder: Path) -> None:
    names = [f"NWPU-RESISC45/{name}/{name}_{n:03d}.jpg" for name in RESISC45 for n in range(1, 701)]
    write_zip(folder / "NWPU-RESISC45.zip", [(name, b"image") for name in names], 0)


def retinopathy(folder: Path) -> None:
    """900, 250 and 60 images."""
    content = jpeg(9, (540, 400))
    unpack(folder, [(f"train/{n}_left.jpeg", content) for n in range(900)])
    unpack(folder, [(f"test/{n}_right.jpeg", content) for n in range(310)])
    (folder / "trainLabels.csv").write_text("image,level\n" + "".join(f"{n}_left,{n % 5}\n" for n in range(900)))
    rows = "".join(f"{n}_right,{n % 5},{'Public' if n < 250 else 'Private'}\n" for n in range(310))
    (folder / "retinopathy_solution.csv").write_text(f"image,level,Usage\n{rows}")


def clevr(folder: Path) -> None:
    """2,100 and 70 images."""
    members = []
    for split, count in (("train", 2_100), ("val", 70)):
        scenes = []
        for n in range(count):
            objects = [{"size": "small", "pixel_coords": [1, 2, 7.5 + (n + k) % 11 / 2]} for k in range(3 + n % 8)]
            scenes.append({"image_filename": f"CLEVR_{split}_{n:06d}.png", "objects": objects})
            members.append((f"CLEVR_v1.0/images/{split}/CLEVR_{split}_{n:06d}.png", b"image"))
        members.append((f"CLEVR_v1.0/scenes/CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}).encode()))
    write_zip(folder / "CLEVR_v1.0.zip", members)


def dmlab(folder: Path) -> None:
    """850, 220 and 30 images."""
    for split, count in (("train", 850), ("validation", 220), ("test", 30)):
        records = [example(filename=b"f%d" % n, image=b"x", label=n % 6) for n in range(count)]
        write_records(folder / f"dmlab-{split}.tfrecord-00000", records)


def dsprites(folder: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    classes = np.zeros((737_280, 6), np.int64)
    classes[:, 3] = np.arange(len(classes)) % 40
    classes[:, 4] = np.arange(len(classes)) // 40 % 32
    with h5py.File(folder / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5", "w") as file:
        file.create_dataset("imgs", (len(classes), 64, 64), np.uint8, chunks=(1, 64, 64))
        file.create_dataset("latents/classes", data=classes, compression="gzip")


def kitti(folder: Path) -> None:
    """7,420 of the 7,481 images, 53 of each of 140 drives: the drives of the real ones are told by its own mapping."""
    drives = [f"2011_09_26 2011_09_26_drive_{n % 140:04d}_sync {n:010d}" for n in range(7_420)]
    line = "{} 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 {} -1.56\n"
    labels = [line.format("Car" if n % 4 else "Cyclist", (0, 5, 15, 40)[n % 4]).encode() for n in range(7_420)]
    write_zip(
        folder / "data_object_image_2.zip", [(f"training/image_2/{n:06d}.png", b"image") for n in range(7_420)], 0
    )
    write_zip(
        folder / "data_object_label_2.zip", [(f"training/label_2/{n:06d}.txt", text) for n, text in enumerate(labels)]
    )
    order = (draws().permutation(7_420) + 1).tolist()
    files = [("train_rand.txt", ",".join(map(str, order))), ("train_mapping.txt", "\n".join(drives))]
    write_zip(folder / "devkit_object.zip", [(f"mapping/{name}", text.encode()) for name, text in files])


def smallnorb(folder: Path) -> None:
    """Of full size: the images are a hole in the file."""
    count = 24_300
    n = np.arange(count)
    info = np.stack([n % 5, n % 9, n % 18 * 2, n % 6], axis=1).astype(np.int32)
    head = norb_matrix(np.zeros((1, 2, 96, 96), np.uint8))[:24]
    for stem in ("5x46789x9x18x6x2x96x96-training", "5x01235x9x18x6x2x96x96-testing"):
        with (folder / f"smallnorb-{stem}-dat.mat").open("wb") as file:
            file.write(head[:8] + np.array([count], "<i4").tobytes() + head[12:])
            file.truncate(24 + count * 2 * 96 * 96)
        (folder / f"smallnorb-{stem}-cat.mat").write_bytes(norb_matrix((n % 5).astype(np.int32)))
        (folder / f"smallnorb-{stem}-info.mat").write_bytes(norb_matrix(info))


Writer = Callable[[Path], None]
# By the folder of the task: the writer, whether it writes as many images as were published, and those to test on.
WRITERS: dict[str, tuple[Writer, bool, int]] = {
    "caltech101": (caltech101, True, 6_084), "cifar100": (cifar100, False, 50), "dtd": (dtd, True, 1_880),
    "flowers102": (flowers102, True, 6_149), "pets": (pets, True, 3_669), "sun397": (sun397, False, 100),
    "svhn": (svhn, False, 40), "patch_camelyon": (patch_camelyon, True, 32_768), "eurosat": (eurosat, True, 5_400),
    "resisc45": (resisc45, True, 6_300), "retinopathy": (retinopathy, False, 60), "clevr": (clevr, False, 70),
    "dmlab": (dmlab, False, 30), "dsprites": (dsprites, True, 73_728), "kitti": (kitti, False, 14 * 53),
    "smallnorb": (smallnorb, True, 12_150),
}  # fmt: skip
