"""Published sets read from stand-ins in the publishers' own containers, packed and unpacked, written by tarfile, zipfile, gzip,
struct, scipy and Pillow: nothing of the package. Layouts as the loaders that each module cites read them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from standins import jpeg, unpack, write_tar, write_zip
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.data.pixels import open_picture
from vitkit.data.samples import Source
from vitkit.datasets.book import find_dataset, read_data

scipy_io = pytest.importorskip("scipy.io", reason="needs scipy")


def hashed(keys: Sequence[str | int], split: str) -> list[str | int]:
    """The order of TensorFlow Datasets, spelled out once more."""
    return sorted(keys, key=lambda key: hashlib.md5(f"{split}{key}".encode()).hexdigest())


def mat(**variables: object) -> bytes:
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, variables)
    return buffer.getvalue()


def refused(name: str, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_data(f"{name}={folder}", partial=True)
    return str(caught.value)


def labelled(source: Source, split: str) -> dict[str, str]:
    return {sample.name: source.classes[sample.label] for sample in source.splits[split]}


# CIFAR


def cifar_members(version: int, records: int = 3) -> tuple[dict[str, bytes], dict[str, np.ndarray], dict[str, int]]:
    """Files of the binary version, and pixels and class of each image by our names."""
    random = np.random.default_rng(version)
    pixels: dict[str, np.ndarray] = {}
    labels: dict[str, int] = {}

    def batch(split: str, start: int) -> bytes:
        content = b""
        for i in range(start, start + records):
            name = f"{split}/{i:05}"
            pixels[name] = random.integers(0, 256, (32, 32, 3), np.uint8)
            labels[name] = int(random.integers(version))
            planes = b"".join(pixels[name][:, :, channel].tobytes() for channel in range(3))
            content += bytes([labels[name]] if version == 10 else [19, labels[name]]) + planes
        return content

    if version == 10:
        names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        files = {f"data_batch_{i + 1}.bin": batch("train", i * records) for i in range(5)}
        files |= {"test_batch.bin": batch("test", 0), "batches.meta.txt": ("\n".join(names) + "\n\n").encode()}
        return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}, pixels, labels
    fine = "\n".join(f"fine{i:02}" for i in range(100)).encode()
    files = {"train.bin": batch("train", 0), "test.bin": batch("test", 0), "fine_label_names.txt": fine}
    files["coarse_label_names.txt"] = "\n".join(f"coarse{i}" for i in range(20)).encode()
    return {f"cifar-100-binary/{name}": content for name, content in files.items()}, pixels, labels


@pytest.mark.parametrize("version", [10, 100])
@pytest.mark.parametrize("kind", ["packed", "folder", "inside", "renamed"])
def test_cifar(tmp_path: Path, version: int, kind: str) -> None:
    members, pixels, labels = cifar_members(version)
    folder = tmp_path
    if kind == "packed":
        write_tar(tmp_path / f"cifar-{version}-binary.tar.gz", members.items())
    else:
        unpack(tmp_path, members.items())
        inner = tmp_path / next(iter(members)).partition("/")[0]
        folder = inner if kind == "inside" else inner.rename(tmp_path / "mine") if kind == "renamed" else tmp_path
    source = read_data(f"cifar{version}={folder}", partial=True)
    assert source.classes[-1] == ("truck" if version == 10 else "fine99")
    counts = {split: len(samples) for split, samples in source.splits.items()}
    assert counts == {"train": 15 if version == 10 else 3, "test": 3}
    for split, samples in source.splits.items():
        assert [int(s.name[-5:]) for s in samples] == hashed(range(len(samples)), split)
        for sample in samples:
            assert sample.label == labels[sample.name]
            assert np.array_equal(np.asarray(open_picture(sample.source)), pixels[sample.name])
    assert source.notes[0].startswith(f"a part of CIFAR-{version} only, not comparable with published figures: train ")


def test_cifar_pickles_are_refused(tmp_path: Path) -> None:
    for name in ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz"):
        (tmp_path / name).write_bytes(b"never opened")
    for version in (10, 100):
        text = refused(f"cifar{version}", tmp_path)
        assert (
            f"cifar-{version}-python.tar.gz is of the Python version, pickled objects that can run any program" in text
        )
        assert f"Fetch the binary version: cifar-{version}-binary.tar.gz" in text
    inside = tmp_path / "cifar-10-batches-py"
    unpack(inside, [("batches.meta", b""), ("data_batch_1", b"")])
    assert "cifar-10-batches-py/batches.meta is of the Python version" in refused("cifar10", inside)
    assert "cifar-10-batches-py is of the Python version" in refused("cifar10", _only(tmp_path, "cifar-10-batches-py"))


def _only(folder: Path, keep: str) -> Path:
    for path in folder.iterdir():
        if path.name != keep:
            path.unlink()
    return folder


def test_damaged_cifar_files_are_refused(tmp_path: Path) -> None:
    members, _, _ = cifar_members(10)
    folder = unpack(tmp_path, members.items()) / "cifar-10-batches-bin"
    whole = (folder / "data_batch_2.bin").read_bytes()
    (folder / "data_batch_2.bin").write_bytes(whole[:-1])
    assert "data_batch_2.bin of" in (text := refused("cifar10", tmp_path))
    assert "has 9,218 bytes, no multiple of the 3,073 of a record (1 of labels, 3,072 of an image)" in text
    (folder / "data_batch_2.bin").write_bytes(b"")
    assert "has 0 bytes" in refused("cifar10", tmp_path)
    (folder / "data_batch_2.bin").write_bytes(bytes([10]) + whole[1:])
    assert "record 0 of data_batch_2.bin" in (text := refused("cifar10", tmp_path))
    assert "has the class 10; batches.meta.txt names 10." in text
    (folder / "batches.meta.txt").unlink()
    assert "has no batches.meta.txt" in refused("cifar10", tmp_path)
    assert "no cifar-100-binary/ and no cifar-100-binary.tar.gz; expected the binary version" in refused(
        "cifar100", tmp_path
    )


# Oxford-IIIT Pet

BREEDS = """
Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman Bombay boxer British_Shorthair
chihuahua Egyptian_Mau english_cocker_spaniel english_setter german_shorthaired great_pyrenees havanese japanese_chin
keeshond leonberger Maine_Coon miniature_pinscher newfoundland Persian pomeranian pug Ragdoll Russian_Blue saint_bernard
samoyed scottish_terrier shiba_inu Siamese Sphynx staffordshire_bull_terrier wheaten_terrier yorkshire_terrier
""".split()  # noqa: SIM905


def pets_members(counts: dict[str, int]) -> dict[str, bytes]:
    """Both archives' members; images of each list go round the breeds."""
    members = {"annotations/README": b"text", "annotations/trimaps/._hidden.png": b""}
    number = 0
    for file, count in counts.items():
        lines = []
        for i in range(count):
            number += 1
            breed = i % len(BREEDS)
            lines.append(f"{BREEDS[breed]}_{number} {breed + 1} {1 + breed % 2} {breed // 2 + 1}")
            members[f"images/{BREEDS[breed]}_{number}.jpg"] = b"image %d" % number
        members[f"annotations/{file}"] = ("\n".join(lines) + "\n").encode()
    members["images/Abyssinian_100.mat"] = b"a stray of the published archive"
    return members


@pytest.mark.parametrize("packed", [True, False])
def test_pets_of_the_published_size(tmp_path: Path, packed: bool) -> None:
    counts = {"trainval.txt": 3680, "test.txt": 3669} if packed else {"trainval.txt": 80, "test.txt": 74}
    members = pets_members(counts)
    for name in ("images", "annotations"):
        inside = [(file, content) for file, content in members.items() if file.startswith(name)]
        write_tar(tmp_path / f"{name}.tar.gz", inside) if packed else unpack(tmp_path, inside)
    source = read_data(f"pets={tmp_path}", partial=not packed)
    assert source.classes == tuple(BREEDS)
    assert bool(source.notes) is not packed
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        assert len(source.splits[split]) == counts[file]
        assert [s.name for s in source.splits[split]] == hashed([s.name for s in source.splits[split]], split)
        assert all(name.startswith(f"{breed}_") for name, breed in labelled(source, split).items())
    sample = source.splits["test"][0]
    assert read_bytes(sample.source) == members[f"images/{sample.name}"]


def test_pets_of_another_layout(tmp_path: Path) -> None:
    members = pets_members({"trainval.txt": 40, "test.txt": 37})
    assert "no images; expected images.tar.gz and annotations.tar.gz" in refused("pets", tmp_path)
    unpack(tmp_path, [(name, content) for name, content in members.items() if name.startswith("images")])
    assert "no annotations; expected" in (text := refused("pets", tmp_path))
    assert text.endswith("The folder holds: images.")
    lists = tmp_path / "annotations"
    unpack(tmp_path, [("annotations/trainval.txt", b"Abyssinian_1;1\n"), ("annotations/test.txt", b"")])
    assert "has the line 'Abyssinian_1;1'; expected such as 'Abyssinian_100 1 1 1'" in refused("pets", tmp_path)
    (lists / "trainval.txt").write_text("Abyssinian_1 1 1 1\nBengal_2 1 1 1\n")
    assert "calls class 1 Abyssinian and, at Bengal_2, Bengal" in refused("pets", tmp_path)
    (lists / "trainval.txt").write_text("Abyssinian_1 1 1 1\n")
    assert "have 1 classes; expected 1 to 37" in refused("pets", tmp_path)
    (lists / "test.txt").unlink()
    assert (text := refused("pets", tmp_path)).endswith(
        "annotations has no test.txt. Fetch it again. Expected of Oxford-IIIT Pets: images.tar.gz and annotations.tar.gz, or the "
        "folders images/ and annotations/."
    ), text


# Oxford Flowers-102


def flowers(folder: Path, *, packed: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """8,189 images of a few bytes; labels and splits drawn, as the publisher stores them: rows of numbers."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(8189) % 102 + 1).astype(np.uint8)
    numbers = random.permutation(8189) + 1
    sets = {"trnid": numbers[:1020], "valid": numbers[1020:2040], "tstid": numbers[2040:]}
    images = [(f"jpg/image_{i:05}.jpg", b"image %d" % i) for i in range(1, 8190)]
    if packed:
        write_tar(folder / "102flowers.tgz", images)
    else:
        unpack(folder, images[:300])
    (folder / "imagelabels.mat").write_bytes(mat(labels=labels[None]))
    (folder / "setid.mat").write_bytes(mat(**{name: ids[None].astype(np.uint16) for name, ids in sets.items()}))
    return labels, sets


@pytest.mark.parametrize("packed", [True, False])
def test_flowers(tmp_path: Path, packed: bool) -> None:
    labels, sets = flowers(tmp_path, packed=packed)
    source = read_data(f"flowers102={tmp_path}", partial=not packed)
    assert len(source.classes) == len(set(source.classes)) == 102
    assert (source.classes[0], source.classes[48], source.classes[101]) == (
        "pink primrose",
        "oxeye daisy",
        "blackberry lily",
    )
    for split, theirs, tfds in (("train", "trnid", "train"), ("val", "valid", "validation"), ("test", "tstid", "test")):
        there = [int(i) for i in sets[theirs] if packed or i <= 300]
        assert [s.name for s in source.splits[split]] == hashed([f"image_{i:05}.jpg" for i in there], tfds)
        assert all(s.label == labels[int(s.name[6:11]) - 1] - 1 for s in source.splits[split])
    sample = source.splits["train"][0]
    assert read_bytes(sample.source) == b"image %d" % int(sample.name[6:11])
    if not packed:
        assert f"train {len(source.splits['train'])} of 1,020" in source.notes[0]
        with pytest.raises(
            UserError, match=r"is not the published one: images found of images published: train \d+ of 1,020"
        ):
            read_data(f"flowers102={tmp_path}")


def test_flowers_of_another_layout(tmp_path: Path) -> None:
    assert "no 102flowers.tgz and no jpg/; expected 102flowers.tgz or jpg/, with" in refused("flowers102", tmp_path)
    unpack(tmp_path, [("jpg/image_00001.jpg", jpeg(1))])
    assert "no imagelabels.mat; expected" in refused("flowers102", tmp_path)
    (tmp_path / "imagelabels.mat").write_bytes(mat(labels=np.array([[1, 103]])))
    assert "no setid.mat; expected" in refused("flowers102", tmp_path)
    sets = {"trnid": [[1]], "valid": [[2]], "tstid": [[3]]}
    (tmp_path / "setid.mat").write_bytes(mat(**sets))
    assert "has classes from 1 to 103; expected 1 to 102" in refused("flowers102", tmp_path)
    (tmp_path / "imagelabels.mat").write_bytes(mat(labels=np.array([[1, 102]])))
    assert "tstid of" in (text := refused("flowers102", tmp_path))
    assert "has the images 3 to 3; imagelabels.mat has labels of 2" in text
    (tmp_path / "setid.mat").write_bytes(mat(trnid=[[1]], valid=[[2]]))
    assert "has no variable 'tstid'; it holds trnid, valid." in refused("flowers102", tmp_path)
    (tmp_path / "setid.mat").write_bytes(mat(trnid=[[1]], valid=[[2]], tstid=np.zeros((1, 0))))
    assert "tstid of" in (text := refused("flowers102", tmp_path))
    assert "is no list of numbers" in text


# Caltech-101


def caltech_members() -> list[tuple[str, bytes]]:
    """9,144 images and the stray file of the publisher's archive."""
    sizes = {"BACKGROUND_Google": 467, "Faces": 435, "Faces_easy": 435, "accordion": 55}
    sizes |= {f"class_{i:02}": 79 for i in range(97)}
    sizes["zebra"] = 9144 - sum(sizes.values())
    names = [f"{category}/image_{i:04}.jpg" for category, size in sizes.items() for i in range(1, size + 1)]
    return [(f"101_ObjectCategories/{name}", name.encode()) for name in [*names, "BACKGROUND_Google/tmp"]]


@pytest.mark.parametrize("kind", ["packed", "zip unpacked", "without the stray"])
def test_caltech_is_split_as_tensorflow_datasets_does(tmp_path: Path, kind: str) -> None:
    members = caltech_members()
    if kind == "without the stray":
        members = [member for member in members if not member[0].endswith("tmp")]
    place = tmp_path / "caltech-101" if kind == "zip unpacked" else tmp_path
    place.mkdir(exist_ok=True)
    write_tar(place / "101_ObjectCategories.tar.gz", members)
    source = read_data(f"caltech101={tmp_path}")
    assert source.classes[:4] == ("accordion", "BACKGROUND_Google", "class_00", "class_01")
    # once more, as the builder goes over the folders
    np.random.seed(1234)
    by_class: dict[str, list[str]] = {}
    for name, _ in caltech_members():
        by_class.setdefault(name.split("/")[1], []).append(name.split("/")[2])
    train = []
    for category in sorted(by_class):
        chosen = np.random.choice(sorted(by_class[category]), 30, replace=False)
        train += [f"{category}/{file}" for file in chosen if file.endswith(".jpg")]
    assert [sample.name for sample in source.splits["train"]] == hashed(train, "train")
    assert len(source.splits["test"]) == 6084
    assert all(name.split("/")[0] == category for name, category in labelled(source, "test").items())
    assert read_bytes(source.splits["test"][5].source) == source.splits["test"][5].name.encode()


def test_caltech_of_another_layout(tmp_path: Path) -> None:
    assert "(unpack caltech-101.zip, which holds it)" in refused("caltech101", tmp_path)
    unpack(tmp_path, [(f"101_ObjectCategories/ant/image_{i:04}.jpg", b"") for i in range(29)])
    assert "ant of" in (text := refused("caltech101", tmp_path))
    assert "has 29 files, fewer than the 30 that training takes" in text
    unpack(tmp_path, [(f"101_ObjectCategories/ant/image_{i:04}.jpg", b"") for i in range(40)])
    assert "has 1 classes, the published one 102" in refused("caltech101", tmp_path)
    unpack(tmp_path, [("101_ObjectCategories/image_0001.jpg", b"")])
    assert "holds image_0001.jpg; expected such as accordion/image_0001.jpg" in refused("caltech101", tmp_path)


# Stanford Cars


def car_records(rows: Sequence[tuple[str, int]]) -> np.ndarray:
    kinds = [(field, "O") for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    records = np.zeros((1, len(rows)), dtype=kinds)
    for place, (name, number) in enumerate(rows):
        records[0, place] = (1, 2, 30, 40, number, name)
    return records


def car_members(counts: dict[str, int]) -> dict[str, bytes]:
    names = np.array([f"Make {i:03} Sedan 2012" for i in range(1, 197)], dtype=object)[None]
    members = {"devkit/cars_meta.mat": mat(class_names=names), "devkit/README.txt": b"text"}
    for split, count in counts.items():
        rows = [(f"{i:05}.jpg", i * 7 % 196 + 1) for i in range(1, count + 1)]
        file = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        members[file] = mat(annotations=car_records(rows))
        members |= {f"cars_{split}/{name}": f"{split} {name}".encode() for name, _ in rows}
    return members


@pytest.mark.parametrize("packed", [True, False])
def test_cars(tmp_path: Path, packed: bool) -> None:
    members = car_members({"train": 12, "test": 9})
    for folder, archive in (
        ("devkit", "car_devkit.tgz"),
        ("cars_train", "cars_train.tgz"),
        ("cars_test", "cars_test.tgz"),
    ):
        inside = [(name, content) for name, content in members.items() if name.startswith(folder + "/")]
        write_tar(tmp_path / archive, inside) if packed else unpack(tmp_path, inside)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(members["cars_test_annos_withlabels.mat"])
    source = read_data(f"cars196={tmp_path}", partial=True)
    assert len(source.classes) == 196
    for split, count in (("train", 12), ("test", 9)):
        samples = source.splits[split]
        assert [s.name[-9:-4] for s in samples] == hashed([f"{i:05}" for i in range(1, count + 1)], split)
        assert all(s.label == int(s.name[-9:-4]) * 7 % 196 for s in samples)
        assert all(read_bytes(s.source) == f"{split} {s.name[-9:]}".encode() for s in samples)
    assert not {s.name for s in source.splits["train"]} & {s.name for s in source.splits["test"]}


def test_cars_of_another_layout(tmp_path: Path) -> None:
    members = car_members({"train": 3, "test": 3})
    labels = members.pop("cars_test_annos_withlabels.mat")
    assert "no car_devkit.tgz and no devkit/; expected" in refused("cars196", tmp_path)
    unpack(tmp_path, members.items())
    assert "no cars_test_annos_withlabels.mat; expected" in refused("cars196", tmp_path)
    kinds = [("bbox_x1", "O"), ("fname", "O")]
    unlabelled = np.array([[(1, "00001.jpg")]], dtype=kinds)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(mat(annotations=unlabelled))
    assert "have no fields fname and class; cars_test_annos_withlabels.mat is meant" in refused("cars196", tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(mat(annotations=car_records([("00001.jpg", 197)])))
    assert "00001.jpg of the test images has the class 197; expected 1 to 196" in refused("cars196", tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(labels)
    (tmp_path / "cars_test").rename(tmp_path / "photos")
    assert "no cars_test.tgz and no cars_test/; expected" in refused("cars196", tmp_path)
    (tmp_path / "devkit" / "cars_meta.mat").unlink()
    assert "has no cars_meta.mat; expected" in refused("cars196", tmp_path)


# Describable Textures

TEXTURES = [f"texture{i:02}" if i else "polka-dotted" for i in range(47)]


def dtd_members(each: int = 40) -> dict[str, bytes]:
    members: dict[str, bytes] = {"dtd/images/banded/.directory": b"", "dtd/imdb/imdb.mat": b"another list"}
    for number, file in enumerate(("train1.txt", "val1.txt", "test1.txt")):
        names = [f"{t}/{t}_{number * each + i:04}.jpg" for t in TEXTURES for i in range(each)]
        members[f"dtd/labels/{file}"] = "\n".join(names).encode()
        members |= {f"dtd/images/{name}": name.encode() for name in names}
    return members


@pytest.mark.parametrize("kind", ["packed", "plain tar", "folder", "inside"])
def test_dtd(tmp_path: Path, kind: str) -> None:
    members = dtd_members(40 if kind == "packed" else 1)
    if kind in ("packed", "plain tar"):
        path = write_tar(tmp_path / "dtd-r1.0.1.tar.gz", members.items())
        if kind == "plain tar":  # the published file was one under this name
            path.write_bytes(gzip.decompress(path.read_bytes()))
    else:
        unpack(tmp_path, members.items())
    source = read_data(f"dtd={tmp_path / 'dtd' if kind == 'inside' else tmp_path}", partial=kind != "packed")
    assert source.classes == tuple(sorted(TEXTURES))
    for split, file, tfds in (("train", "train1", "train"), ("val", "val1", "validation"), ("test", "test1", "test")):
        lines = members[f"dtd/labels/{file}.txt"].decode().split("\n")
        assert [s.name for s in source.splits[split]] == [f"images/{name}" for name in hashed(lines, tfds)]
        assert all(name.split("/")[1] == texture for name, texture in labelled(source, split).items())
    assert read_bytes(source.splits["val"][3].source) == source.splits["val"][3].name[7:].encode()


def test_dtd_in_a_folder_of_its_name_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "dtd").mkdir()
    write_tar(tmp_path / "dtd" / "dtd-r1.0.1.tar.gz", dtd_members(1).items())
    assert len(read_data("dtd", root=tmp_path, partial=True).splits["test"]) == 47
    (tmp_path / "dtd" / "dtd-r1.0.1.tar.gz").unlink()
    with pytest.raises(UserError, match=r"has no labels/train1\.txt"):
        read_data("dtd", root=tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no dtd-r1.0.1.tar.gz and no dtd/; expected" in refused("dtd", tmp_path / "empty")


def test_dtd_lists_of_another_layout(tmp_path: Path) -> None:
    members = dtd_members(1) | {"dtd/labels/val1.txt": b"banded_0001.jpg\n"}
    unpack(tmp_path, members.items())
    assert "labels/val1.txt of" in (text := refused("dtd", tmp_path))
    assert "has the line 'banded_0001.jpg'; expected such as 'banded/banded_0002.jpg'" in text


# UC Merced


def merced_members(each: int = 100) -> list[tuple[str, bytes]]:
    names = [f"{c}/{c}{i:02}.tif" for c in (f"use{k:02}" for k in range(21)) for i in range(each)]
    return [
        ("UCMerced_LandUse/readme.txt", b"text"),
        *((f"UCMerced_LandUse/Images/{n}", n.encode() * 9) for n in names),
    ]


@pytest.mark.parametrize("kind", ["packed", "folder", "inside", "innermost"])
def test_uc_merced(tmp_path: Path, kind: str) -> None:
    folder = tmp_path
    if kind == "packed":
        write_zip(tmp_path / "UCMerced_LandUse.zip", merced_members())
    else:
        unpack(tmp_path, merced_members())
        folder = {"folder": folder, "inside": folder / "UCMerced_LandUse"}.get(
            kind, folder / "UCMerced_LandUse" / "Images"
        )
    source = read_data(f"uc_merced={folder}")
    files = [name.rpartition("/")[2] for name, _ in merced_members() if name.endswith(".tif")]
    order = hashed(files, "train")
    found = {split: [s.name.rpartition("/")[2] for s in samples] for split, samples in source.splits.items()}
    assert found == {"train": order[:1000], "test": order[1000:]}
    assert all(name.startswith(use) for split in source.splits for name, use in labelled(source, split).items())
    sample = source.splits["test"][7]
    assert read_bytes(sample.source) == sample.name.encode() * 9


def test_uc_merced_of_another_layout(tmp_path: Path) -> None:
    assert "no UCMerced_LandUse.zip and no UCMerced_LandUse/; expected" in refused("uc_merced", tmp_path)
    unpack(tmp_path, [("UCMerced_LandUse/Images/beach.tif", b"")])
    assert "holds beach.tif; expected such as agricultural/agricultural00.tif" in refused("uc_merced", tmp_path)
    (tmp_path / "UCMerced_LandUse" / "Images" / "beach.tif").unlink()
    assert "holds no .tif files; expected such as" in refused("uc_merced", tmp_path)


# MNIST


def idx(kind: int, array: np.ndarray) -> bytes:
    return struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_members() -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    random = np.random.default_rng(0)
    members, truth = {}, {}
    for split, start, count in (("train", "train", 30), ("test", "t10k", 20)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8)
        members |= {f"{start}-images-idx3-ubyte": idx(8, images), f"{start}-labels-idx1-ubyte": idx(8, labels)}
        truth[split] = images, labels
    return members, truth


@pytest.mark.parametrize("kind", ["gz", "plain", "raw"])
def test_mnist(tmp_path: Path, kind: str) -> None:
    members, truth = mnist_members()
    for name, content in members.items():
        if kind == "gz":
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            unpack(tmp_path / "raw" if kind == "raw" else tmp_path, [(name, content)])
    source = read_data(f"mnist={tmp_path}", partial=True)
    assert source.classes == tuple("0123456789")
    for split, (images, labels) in truth.items():
        samples = source.splits[split]
        assert [int(s.name[-5:]) for s in samples] == hashed(range(len(labels)), split)
        for sample in samples:
            number = int(sample.name[-5:])
            pixels = np.asarray(open_picture(sample.source))
            assert pixels.shape == (28, 28, 3)
            assert all(np.array_equal(pixels[:, :, channel], images[number]) for channel in range(3))
            assert sample.label == labels[number]


def test_mnist_of_another_layout(tmp_path: Path) -> None:
    members, _ = mnist_members()
    assert "no train-images-idx3-ubyte; expected train-images-idx3-ubyte, train-labels" in refused("mnist", tmp_path)
    unpack(tmp_path, members.items())

    def put(content: bytes, name: str = "train-labels-idx1-ubyte") -> str:
        (tmp_path / name).write_bytes(content)
        return refused("mnist", tmp_path)

    assert "is no IDX file: it begins with 89 50 4e 47; expected 00 00" in put(b"\x89PNG....")
    assert "is no IDX file: it begins with nothing" in put(b"")
    assert "is cut off inside its header" in put(b"\0\0\x08\x01\0")
    labels = np.zeros(30, np.uint8)
    assert "has 29 bytes of numbers, its header says 30" in put(idx(8, labels)[:-1])
    assert "has more bytes of numbers, its header says 30" in put(idx(8, labels) + b"\0")
    assert "has 2 dimensions of uint8; expected 1 of uint8" in put(idx(8, labels[None]))
    assert "has 1 dimensions of >i2; expected 1 of uint8" in put(idx(11, labels.astype(">i2")))
    assert "says it has 1,099,511,627,776 bytes" in put(b"\0\0\x08\x02" + struct.pack(">II", 2**20, 2**20))
    assert "train has 30 images and 29 labels" in put(idx(8, labels[1:]))
    assert "train-labels has the class 10; expected 0 to 9" in put(idx(8, labels + 10))
    assert "is damaged:" in put(gzip.compress(idx(8, labels))[:-12])


# All of them


@pytest.mark.parametrize(
    "name",
    ["imagenet", "cifar10", "cifar100", "pets", "flowers102", "caltech101", "cars196", "dtd", "uc_merced", "mnist"],
)
def test_a_folder_of_something_else_says_what_was_expected(tmp_path: Path, name: str) -> None:
    row = find_dataset(name)
    unpack(tmp_path, [("holiday/beach.jpg", jpeg(1))])
    with pytest.raises(UserError) as caught:
        row.open(tmp_path)
    assert row.title in str(caught.value)
    assert f"expected {row.layout}. The folder holds: holiday." in str(caught.value)
    with pytest.raises(UserError, match=r"no folder .*nothing; expected"):
        row.open(tmp_path / "nothing")


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
