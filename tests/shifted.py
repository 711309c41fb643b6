"""Stand-ins of the robustness sets, written in their publishers' layouts without the readers' code."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared import ROOT
from vitkit.data.samples import Sample

Picture = Callable[[int], bytes]  # the file of the number-th image
WNIDS = [
    line.split("\t")[0]
    for line in (ROOT / "src/vitkit/data/assets/imagenet1k.txt").read_text(encoding="utf-8").splitlines()
]
KINDS = (
    *(
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
    ),
    *("frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)


def pixels(number: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def noise(number: int) -> bytes:
    return png(pixels(number))


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def class_folders(root: Path, labels: Mapping[int, str], picture: Picture = noise) -> Path:
    """Image ``number`` in the folder ``labels[number]``."""
    for number, name in labels.items():
        put(root / name / f"{number:05d}.png", picture(number))
    return root


def archive(folder: Path, to: Path) -> Path:
    """A tar file, gzip by its name, of a folder with its name inside."""
    with tarfile.open(to, "w:gz" if to.suffix == ".gz" else "w") as file:
        file.add(folder, folder.name)
    return to


def real(folder: Path, labels: Mapping[int, list[int]]) -> None:
    """real.json: lists for 50,000 images, empty but for those given by place."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "real.json").write_text(json.dumps([labels.get(place, []) for place in range(50_000)]))


def objectnet(root: Path, objects: Mapping[str, list[int]], images: Mapping[str, list[int]], seed: int = 0) -> Path:
    """Release 1.0 of shared ``objects`` (label to ImageNet indices), ``images`` by label, and one object that is not shared.

    Files have a red border two pixels wide around `pixels`.
    """
    lines = np.random.default_rng(seed).permutation(1000)  # line of each output
    names = {int(line): f"name {output}, other name {output}" for output, line in enumerate(lines)}
    maps = root / "objectnet-1.0" / "mappings"
    maps.mkdir(parents=True)
    (maps / "imagenet_to_label_2012_v2").write_text("".join(names[line] + "\n" for line in range(1000)))
    (maps / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(o): int(n) for o, n in enumerate(lines)}))
    said = {label: "; ".join(names[int(lines[index])] for index in indices) for label, indices in objects.items()}
    (maps / "objectnet_to_imagenet_1k.json").write_text(json.dumps(said))
    folders = {label.lower().replace(" ", "_"): label for label in (*objects, "Air freshener")}
    (maps / "folder_to_objectnet_label.json").write_text(json.dumps(folders))
    for label, numbers in {**images, "Air freshener": [99_999]}.items():
        for number in numbers:
            framed = np.zeros((20, 20, 3), np.uint8)
            framed[..., 0] = 255
            framed[2:-2, 2:-2] = pixels(number)
            place = root / "objectnet-1.0" / "images" / label.lower().replace(" ", "_")
            put(place / f"{number:05d}.png", png(framed))
    return root


def vizwiz(root: Path, classes: list[int], images: Mapping[int, tuple[list[int], list[str]]], labelled: bool) -> Path:
    """The release, or with ``labelled`` the form with labels and flaws; ``images`` are numbers with labels and codes of flaws."""
    names = {number: f"VizWiz_val_{number:08d}.jpg" for number in images}
    for number, name in names.items():
        put(root / "images" / name, noise(number))
    if labelled:
        codes = ("OBS", "DRK", "BLR", "BRT", "ROT", "FRM", "NON", "OTH")
        stored = {
            names[number]: {"labels": labels, "flaws": {code: code in flaws for code in codes} if flaws else None}
            for number, (labels, flaws) in images.items()
        }
        (root / "IN_to_VizWiz.json").write_text(json.dumps({str(index): place for place, index in enumerate(classes)}))
        (root / "annotations.json").write_text(json.dumps(stored))
    else:
        categories = [{"id": index, "wordnet_id": WNIDS[index]} for index in classes]
        (root / "annotations.json").write_text(json.dumps({"categories": categories, "images": list(names.values())}))
    return root


def validation(monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], list[Sample]]) -> None:
    """Stand in for the reader of ImageNet's validation images."""
    monkeypatch.setattr("vitkit.datasets.robustness.validation", read)
