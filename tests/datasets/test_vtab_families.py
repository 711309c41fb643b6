"""Every VTAB data set with several facts or an unusual container, on a stand-in in the publisher's own layout."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from containers import example, norb_matrix, picture, write_picture, write_records
from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.data.samples import Sample
from vitkit.datasets import eurosat, resisc45
from vitkit.datasets.book import find_dataset
from vitkit.datasets.kitti import kitti_splits


def pixels_of(sample: Sample) -> np.ndarray:
    return np.asarray(open_image(sample.source))


def opened(name: str, folder: Path) -> dict[str, list[Sample]]:
    source = find_dataset(name).open(folder, partial=True)
    assert "a part of" in source.notes[-1]
    for split, samples in source.splits.items():
        assert_tfds_order(name, split, [sample.name for sample in samples])
    return {split: sorted(samples, key=lambda sample: sample.name) for split, samples in source.splits.items()}


def assert_tfds_order(name: str, split: str, names: list[str]) -> None:
    """Names as published data sets give them, to tfds' keys as its builders give them, to its order: the MD5 of split and key."""
    stems = [found.rpartition("/")[2] for found in names]
    keys = {
        "svhn": lambda: map(int, stems), "dsprites": lambda: map(int, stems), "smallnorb": lambda: map(int, stems),
        "patch": lambda: [f"{'valid' if split == 'val' else split}_{int(stem)}" for stem in stems],
        "eurosat": lambda: [f"{found.split('/')[-2]}_{stem}" for found, stem in zip(names, stems, strict=True)],
        "resisc45": lambda: [f"{found.split('/')[-2]}_{stem}" for found, stem in zip(names, stems, strict=True)],
        "retinopathy": lambda: stems, "clevr": lambda: stems, "kitti": lambda: [f"{stem}.png" for stem in stems],
        "sun397": lambda: [f"/{found}" for found in names],
        "dmlab": lambda: [f"file{int(stem)}" for stem in stems],
    }[name.split("_")[0]]()  # fmt: skip
    salt = "validation" if split == "val" else split
    sums = [hashlib.md5(f"{salt}{key}".encode()).hexdigest() for key in keys]
    assert sums == sorted(sums)


def labels(samples: list[Sample]) -> list[int]:
    return [sample.label for sample in samples]


def test_a_part_is_refused_unless_asked_for_and_no_folder_says_the_layout(tmp_path: Path) -> None:
    for name in ("clevr_count", "svhn", "retinopathy", "sun397", "kitti_distance"):
        with pytest.raises(UserError, match="no folder"):
            find_dataset(name).open(tmp_path / "absent")
        with pytest.raises(UserError, match=r"expected .* The folder holds: nothing"):
            find_dataset(name).open(tmp_path)


def test_svhn(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    draws = np.random.default_rng(0)
    X = draws.integers(0, 256, (32, 32, 3, 4), np.uint8)
    savemat(tmp_path / "train_32x32.mat", {"X": X, "y": np.array([[1], [10], [9], [2]], np.uint8)})
    savemat(tmp_path / "test_32x32.mat", {"X": X[..., :1], "y": np.array([[10]], np.uint8)}, do_compression=True)
    found = opened("svhn", tmp_path)
    assert labels(found["train"]) == [1, 0, 9, 2]
    assert labels(found["test"]) == [0]
    assert (pixels_of(found["train"][2]) == X[..., 2]).all()
    assert (pixels_of(found["test"][0]) == X[..., 0]).all()
    with pytest.raises(UserError, match="train 4 of 73,257, test 1 of 26,032"):
        find_dataset("svhn").open(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": X, "y": np.array([[0], [1], [2], [3]], np.uint8)})
    with pytest.raises(UserError, match="image 0 has the label 0; expected 1 to 10, 10 for 0"):
        opened("svhn", tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": X, "y": np.array([[1]], np.uint8)})
    with pytest.raises(UserError, match=r"expected uint8 \(32, 32, 3, images\) and a label for each image"):
        opened("svhn", tmp_path)


def test_patch_camelyon(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    for split in ("train", "valid", "test"):
        for part, values in (("x", x), ("y", np.array([1, 0], np.uint8).reshape(2, 1, 1, 1))):
            with h5py.File(tmp_path / f"camelyonpatch_level_2_split_{split}_{part}.h5", "w") as file:
                file.create_dataset(part, data=values)
    found = opened("patch_camelyon", tmp_path)
    assert {split: labels(samples) for split, samples in found.items()} == {
        split: [1, 0] for split in ("train", "val", "test")
    }
    assert (pixels_of(found["val"][1]) == x[1]).all()
    path = tmp_path / "camelyonpatch_level_2_split_valid_x.h5"
    path.rename(f"{path}.gz")
    with pytest.raises(UserError, match=r"valid_x\.h5\.gz is packed; unpack it first: gunzip"):
        opened("patch_camelyon", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_eurosat(tmp_path: Path, packed: bool) -> None:
    for number, name in enumerate(eurosat.CLASSES):
        for index in (2, 1):
            write_picture(tmp_path / "2750" / name / f"{name}_{index}.jpg", (20 * number, 0, 0))
    if packed:
        with zipfile.ZipFile(tmp_path / "EuroSAT.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((tmp_path / "2750").rglob("*.jpg"), reverse=True):
                archive.write(path, path.relative_to(tmp_path))
                path.unlink()
        for folder in (*(tmp_path / "2750").iterdir(), tmp_path / "2750"):
            folder.rmdir()
    found = opened("eurosat", tmp_path)
    assert list(found) == ["train"]
    assert labels(found["train"]) == [number for number in range(10) for _ in range(2)]
    assert found["train"][2].name.endswith("Forest/Forest_1.jpg")
    assert abs(int(pixels_of(found["train"][19])[0, 0, 0]) - 180) < 3


def test_eurosat_with_other_classes_says_so(tmp_path: Path) -> None:
    write_picture(tmp_path / "2750" / "Desert" / "Desert_1.jpg", 0)
    with pytest.raises(UserError, match=r"\.jpg files in 'Desert', no class of it; expected EuroSAT\.zip"):
        opened("eurosat", tmp_path)


def test_resisc45(tmp_path: Path) -> None:
    (tmp_path / "NWPU-RESISC45.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"NWPU-RESISC45\.rar is a rar file, which is not read; unpack it: unrar x"):
        opened("resisc45", tmp_path)
    for name in ("wetland", "airplane"):
        write_picture(tmp_path / "NWPU-RESISC45" / name / f"{name}_001.jpg", 9)
    assert labels(opened("resisc45", tmp_path)["train"]) == [0, 44]
    assert len(resisc45.CLASSES) == 45


def test_retinopathy(tmp_path: Path) -> None:
    def table(name: str, head: list[str], rows: list[list[object]]) -> None:
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])

    table("trainLabels.csv", ["image", "level"], [["10_left", 0], ["10_right", 4]])
    table("retinopathy_solution.csv", ["image", "level", "Usage"], [["1_left", 2, "Private"], ["1_right", 3, "Public"]])
    for name in ("train/10_left", "train/10_right", "test/1_left", "test/1_right"):
        write_picture(tmp_path / f"{name}.jpeg", 100, (540, 400))
    found = opened("retinopathy", tmp_path)
    assert {split: labels(samples) for split, samples in found.items()} == {"train": [0, 4], "val": [3], "test": [2]}
    write_picture(tmp_path / "test/1_left.jpeg", 100, (3888, 2592))
    with pytest.raises(UserError, match=r"3888 x 2592 pixels, so it is Kaggle's own photo.*btgraham-300"):
        opened("retinopathy", tmp_path)
    (tmp_path / "test/1_left.jpeg").unlink()
    with pytest.raises(UserError, match=r"no image 1_left\.jpeg of the test split"):
        opened("retinopathy", tmp_path)
    table("retinopathy_solution.csv", ["image", "level"], [["1_left", 2]])
    with pytest.raises(UserError, match="has no column 'Usage'; expected image, level, Usage"):
        opened("retinopathy", tmp_path)
    table("trainLabels.csv", ["image", "level"], [["10_left", 5]])
    with pytest.raises(UserError, match="line 2: 10_left has the level '5'; expected 0 to 4"):
        opened("retinopathy", tmp_path)


def scene(name: str, distances: list[float]) -> dict[str, object]:
    objects = [
        {"size": "large", "shape": "cube", "pixel_coords": [10, 20, z], "3d_coords": [0, 0, 0]} for z in distances
    ]
    return {"image_filename": name, "split": "train", "objects": objects}


@pytest.mark.parametrize("packed", [False, True])
def test_clevr(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "CLEVR_v1.0"
    scenes = {
        "train": [scene("CLEVR_train_000001.png", [9.2, 8.1, 12.0]), scene("CLEVR_train_000000.png", [11.0] * 10)],
        "val": [scene("CLEVR_val_000000.png", [8.0, 9.0, 9.0, 9.0])],
    }
    for split, found in scenes.items():
        for number, one in enumerate(found):
            write_picture(root / "images" / split / str(one["image_filename"]), (number * 50, 1, 2))
        (root / "scenes").mkdir(exist_ok=True)
        (root / f"scenes/CLEVR_{split}_scenes.json").write_text(json.dumps({"info": {}, "scenes": found}))
    write_picture(root / "images/test/CLEVR_test_000000.png", 3)
    if packed:
        with zipfile.ZipFile(tmp_path / "CLEVR_v1.0.zip", "w") as archive:
            for path in root.rglob("*.*"):
                archive.write(path, path.relative_to(tmp_path))
        root.rename(tmp_path / "moved")
    count, distance = opened("clevr_count", tmp_path), opened("clevr_distance", tmp_path)
    assert labels(count["train"]) == [7, 0]  # 10 objects, then 3
    assert labels(distance["train"]) == [5, 1]
    assert labels(count["val"]) == [1]
    assert labels(distance["val"]) == [0]  # 8 is not above 8
    assert pixels_of(count["train"][1])[0, 0].tolist() == [0, 1, 2]
    assert list(count) == ["train", "val"]
    if not packed:
        (root / "images/val/CLEVR_val_000000.png").unlink()
        with pytest.raises(
            UserError, match=r"no images/val/CLEVR_val_000000\.png, which scenes/CLEVR_val_scenes\.json"
        ):
            opened("clevr_count", tmp_path)
        (root / "scenes/CLEVR_val_scenes.json").write_text('{"scenes": [{"image_filename": "a"}]}')
        with pytest.raises(UserError, match=r"CLEVR_val_scenes\.json cannot be understood"):
            opened("clevr_count", tmp_path)


def test_clevr_of_eleven_objects_names_the_image(tmp_path: Path) -> None:
    root = tmp_path / "CLEVR_v1.0"
    write_picture(root / "images/train/a.png", 1)
    (root / "scenes").mkdir()
    (root / "scenes/CLEVR_train_scenes.json").write_text(json.dumps({"scenes": [scene("a.png", [9.0] * 11)]}))
    with pytest.raises(UserError, match=r"train/a\.png: its label is 8; the task has 8 classes"):
        opened("clevr_count", tmp_path)


@pytest.mark.parametrize("packed", ["", ".tar", ".tar.gz"])
def test_dmlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str) -> None:
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "dmlab"
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        for shard in range(2 if split == "train" else 1):
            contents = [
                example(
                    image=picture((shard, index, 7), kind="png"),
                    filename=f"file{shard * 3 + index}".encode(),
                    label=(shard * 3 + index) % 6,
                )
                for index in range(count)
            ]
            write_records(folder / f"dmlab-{split}.tfrecord-{shard:05d}", contents)
    if packed:
        with tarfile.open(tmp_path / f"dmlab{packed}", "w:gz" if packed.endswith("gz") else "w") as archive:
            archive.add(folder, ".")
    found = opened("dmlab", tmp_path if packed else folder)
    assert labels(found["train"]) == [0, 1, 2, 3, 4, 5]
    assert pixels_of(found["train"][4])[0, 0].tolist() == [1, 1, 7]
    assert [len(found[split]) for split in ("val", "test")] == [1, 2]
    if not packed:
        write_records(folder / "dmlab-test.tfrecord-00000", [example(image=b"", filename=b"file0", label=6)])
        with pytest.raises(UserError, match="test/000000: its label is 6; the task has 6 classes"):
            opened("dmlab", folder)
        (folder / "dmlab-test.tfrecord-00000").unlink()
        with pytest.raises(UserError, match=r"no dmlab-test\.tfrecord\*; expected dmlab\.tar\.gz"):
            opened("dmlab", folder)


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_dsprites(tmp_path: Path, kind: str) -> None:
    draws = np.random.default_rng(0)
    imgs = draws.integers(0, 2, (3, 64, 64), np.uint8)
    classes = np.array([[0, 1, 2, 39, 31, 0], [0, 0, 0, 4, 1, 5], [0, 0, 0, 5, 2, 5]], np.int64)
    path = tmp_path / f"dsprites_ndarray_co1sh3sc6or40x32y32_64x64.{kind}"
    if kind == "npz":
        np.savez_compressed(path, metadata=np.array({}), imgs=imgs, latents_classes=classes)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["imgs"] = imgs
            file["latents/classes"] = classes
    place, turn = opened("dsprites_location", tmp_path), opened("dsprites_orientation", tmp_path)
    assert labels(place["train"]) == [15, 0, 1]
    assert labels(turn["train"]) == [15, 1, 2]
    for index in range(3):
        assert (pixels_of(turn["train"][index]) == imgs[index][..., None] * 255).all()
    if kind == "npz":
        np.savez(path, imgs=imgs[:2], latents_classes=classes)
        with pytest.raises(UserError, match="has 2 images and classes of 3"):
            opened("dsprites_location", tmp_path)
        np.savez(path, imgs=imgs)
        with pytest.raises(UserError, match="cannot be read"):
            opened("dsprites_location", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_smallnorb(tmp_path: Path, packed: bool) -> None:
    dat = np.random.default_rng(0).integers(0, 256, (3, 2, 96, 96), np.uint8)
    info = np.array([[4, 0, 34, 0], [6, 8, 0, 5], [7, 3, 2, 1]], np.int32)
    stems = ("smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing")
    for stem in stems:
        for part, values in (("dat", dat), ("cat", np.array([4, 0, 2], np.int32)), ("info", info)):
            content = norb_matrix(values)
            if packed:
                (tmp_path / f"{stem}-{part}.mat.gz").write_bytes(gzip.compress(content))
            else:
                (tmp_path / f"{stem}-{part}.mat").write_bytes(content)
    assert labels(opened("smallnorb", tmp_path)["train"]) == [4, 0, 2]
    assert labels(opened("smallnorb_azimuth", tmp_path)["test"]) == [17, 0, 1]
    found = opened("smallnorb_elevation", tmp_path)
    assert labels(found["train"]) == [0, 8, 3]
    for index in range(3):
        assert (pixels_of(found["test"][index]) == dat[index, 0][..., None]).all()
    if not packed:
        (tmp_path / f"{stems[0]}-info.mat").write_bytes(norb_matrix(info[:2]))
        with pytest.raises(UserError, match=r"has 3 images, .*-cat\.mat is \(3,\) and .*-info\.mat \(2, 4\); expected"):
            opened("smallnorb", tmp_path)
        (tmp_path / f"{stems[0]}-info.mat").unlink()
        with pytest.raises(UserError, match=r"no smallnorb-5x46789x9x18x6x2x96x96-training-info\.mat or .*\.mat\.gz"):
            opened("smallnorb", tmp_path)


def kitti_line(kind: str, z: float) -> str:
    return f"{kind} 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 {z} -1.56"


def write_kitti(folder: Path, packed: bool) -> list[str]:
    """12 drives of one image each but the last, which has two; returns the drive of each image."""
    drives = [f"2011_09_26_drive_{number:04d}_sync" for number in range(12)]
    mapping = [f"2011_09_26 {drive} {index:010d}" for index, drive in enumerate([*drives, drives[-1]])]
    order = np.random.default_rng(3).permutation(13) + 1  # image i is line order[i], from 1
    lines = {0: [kitti_line("Car", 7.9)], 1: [kitti_line("Pedestrian", 3.0)], 2: [kitti_line("Van", 20.0)], 3: []}
    files: dict[str, bytes] = {}
    for image in range(13):
        found = [*lines.get(image, [kitti_line("Truck", 33.5)]), kitti_line("DontCare", -1000)]
        files[f"training/label_2/{image:06d}.txt"] = "\n".join([*found, ""]).encode()
        files[f"training/image_2/{image:06d}.png"] = picture((image, 0, 0))
    files["testing/image_2/000000.png"] = picture(0)
    files["mapping/train_rand.txt"] = ",".join(map(str, order)).encode() + b"\n"
    files["mapping/train_mapping.txt"] = "\n".join([*mapping, ""]).encode()
    archives = {
        "image_2": "data_object_image_2.zip",
        "label_2": "data_object_label_2.zip",
        "mapping": "devkit_object.zip",
    }
    for part, name in archives.items():
        for path, content in files.items():
            if part not in path:
                continue
            if packed:
                with zipfile.ZipFile(folder / name, "a", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr(path, content)
            else:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
    return [mapping[line - 1].split()[1] for line in order]


@pytest.mark.parametrize("packed", [False, True])
def test_kitti(tmp_path: Path, packed: bool) -> None:
    drive_of = write_kitti(tmp_path, packed)
    found = opened("kitti_distance", tmp_path)
    numbers = {split: [int(sample.name[-6:]) for sample in samples] for split, samples in found.items()}
    assert sorted(n for found_ in numbers.values() for n in found_) == list(range(13))
    # tfds: np.random.seed(123), one drive in ten to test, then one in ten of the others' sorted names to validation
    np.random.seed(123)
    names = sorted(set(drive_of))
    test = np.random.choice(names, 1, replace=False)[0]
    val = np.random.choice(sorted(set(names) - {test}), 1, replace=False)[0]
    assert numbers["test"] == [image for image in range(13) if drive_of[image] == test]
    assert numbers["val"] == [image for image in range(13) if drive_of[image] == val]
    by_image = {int(s.name[-6:]): s for samples in found.values() for s in samples}
    # 7.9 m; a pedestrian only; exactly 20 m is not above 20; no object at all; 33.5 m
    assert [by_image[i].label for i in range(5)] == [0, 3, 1, 3, 2]
    assert pixels_of(by_image[11])[0, 0].tolist() == [11, 0, 0]


def test_kitti_in_pieces_says_what_is_missing(tmp_path: Path) -> None:
    write_kitti(tmp_path, False)
    (tmp_path / "training/image_2/000012.png").unlink()
    with pytest.raises(UserError, match=r"12 images, the last of them 000011; train_rand\.txt is of 13 images"):
        opened("kitti_distance", tmp_path)
    write_picture(tmp_path / "training/image_2/000012.png", 0)
    (tmp_path / "training/label_2/000003.txt").write_text("Car 0.0 0\n")
    with pytest.raises(UserError, match=r"label_2/000003\.txt cannot be understood: a line has 3 fields, expected 15"):
        opened("kitti_distance", tmp_path)
    (tmp_path / "mapping/train_rand.txt").unlink()
    with pytest.raises(UserError, match=r"no mapping/train_rand\.txt; expected data_object_image_2\.zip"):
        opened("kitti_distance", tmp_path)
    with pytest.raises(UserError, match=r"names line 9 of train_mapping\.txt, which is no drive"):
        kitti_splits([9], ["2011 drive 0"])


@pytest.mark.parametrize("packed", ["", ".tar", ".tar.gz"])
def test_sun397(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str) -> None:
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    classes = [f"/{chr(97 + n % 26)}/scene{n:03d}" + ("/indoor" if n % 3 else "") for n in range(397)]
    lists: dict[str, list[str]] = {"tr": [], "va": [], "te": []}
    for number, name in enumerate(sorted(classes)):
        image = f"{name}/sun_{number:04d}.jpg"
        write_picture(tmp_path / "SUN397" / image[1:], (number % 256, 0, 0))
        lists[("tr", "va", "te")[number % 3]].append(image)
    for part, lines in lists.items():
        (tmp_path / f"sun397_tfds_{part}.txt").write_text("\n".join(reversed(lines)) + "\n")
    with zipfile.ZipFile(tmp_path / "Partitions.zip", "w") as archive:
        archive.writestr("Training_01.txt", "\n".join(sorted(line for lines in lists.values() for line in lines)))
        archive.writestr("Testing_01.txt", lists["te"][0])
    if packed:
        with tarfile.open(tmp_path / f"SUN397{packed}", "w:gz" if packed.endswith("gz") else "w") as archive:
            archive.add(tmp_path / "SUN397", "SUN397")
        (tmp_path / "SUN397").rename(tmp_path / "moved")
    found = opened("sun397", tmp_path)
    assert labels(found["train"]) == list(range(0, 397, 3))
    assert labels(found["val"]) == list(range(1, 397, 3))
    assert "/" + found["test"][0].name == lists["te"][0]
    assert abs(int(pixels_of(found["train"][-1])[0, 0, 0]) - 396 % 256) < 4
    first = opened("sun397_01", tmp_path)
    assert labels(first["train"]) == list(range(397))
    assert labels(first["test"]) == [2]
    if not packed:
        (tmp_path / "SUN397" / lists["va"][0][1:]).unlink()
        with pytest.raises(UserError, match=r"sun397_tfds_va\.txt names /.*, which .*SUN397 does not hold"):
            opened("sun397", tmp_path)
        (tmp_path / "sun397_tfds_te.txt").unlink()
        with pytest.raises(UserError, match=r"no sun397_tfds_te\.txt; expected the folder SUN397"):
            opened("sun397", tmp_path)
