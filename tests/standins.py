"""Writers of the containers in which publishers ship data sets: tarfile, zipfile, scipy and Pillow, nothing of the package."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

__all__ = [
    "BREEDS",
    "TEXTURES",
    "caltech_members",
    "cifar_members",
    "dtd_members",
    "jpeg",
    "mat",
    "pack_tar",
    "pack_zip",
    "pets_members",
    "png",
    "unpack",
    "write_flowers",
    "write_tar",
    "write_zip",
]

Members = Iterable[tuple[str, bytes]]


def jpeg(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A plain image whose red is ``value``."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 10, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def png(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 10, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def pack_tar(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders = set()
        for name, content in members:
            if "/" in name and (folder := name.rpartition("/")[0]) not in folders:  # as tar itself does
                folders.add(folder)
                entry = tarfile.TarInfo(folder)
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    """A tar file, compressed where its name says so."""
    content = pack_tar(members)
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(("gz", "tgz")) else content)
    return path


def pack_zip(members: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def write_zip(path: Path, members: Members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.write_bytes(pack_zip(members, method))
    return path


def unpack(folder: Path, members: Members) -> Path:
    """The same as plain files."""
    for name, content in members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def mat(**variables: object) -> bytes:
    """A MATLAB file of version 5."""
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy")
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, variables)
    return buffer.getvalue()


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


TEXTURES = [f"texture{i:02}" if i else "polka-dotted" for i in range(47)]


def dtd_members(each: int = 40) -> dict[str, bytes]:
    members: dict[str, bytes] = {"dtd/images/banded/.directory": b"", "dtd/imdb/imdb.mat": b"another list"}
    for number, file in enumerate(("train1.txt", "val1.txt", "test1.txt")):
        names = [f"{t}/{t}_{number * each + i:04}.jpg" for t in TEXTURES for i in range(each)]
        members[f"dtd/labels/{file}"] = "\n".join(names).encode()
        members |= {f"dtd/images/{name}": name.encode() for name in names}
    return members


def caltech_members() -> list[tuple[str, bytes]]:
    """9,144 images and the stray file of the publisher's archive."""
    sizes = {"BACKGROUND_Google": 467, "Faces": 435, "Faces_easy": 435, "accordion": 55}
    sizes |= {f"class_{i:02}": 79 for i in range(97)}
    sizes["zebra"] = 9144 - sum(sizes.values())
    names = [f"{category}/image_{i:04}.jpg" for category, size in sizes.items() for i in range(1, size + 1)]
    return [(f"101_ObjectCategories/{name}", name.encode()) for name in [*names, "BACKGROUND_Google/tmp"]]


def write_flowers(folder: Path, *, packed: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
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
