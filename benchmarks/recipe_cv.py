"""Cross-validate one change of the fine-tuning recipe on training photos of four shared sets; append to a JSON-lines file.

    python benchmarks/recipe_cv.py OUT.jsonl NAME [setting=value ...] [--sets flowers17,cifar10] [--folds 2] [--model box]

Every number comes from folds of training splits; no test split is read. What is scored is the last evaluation of a run,
not its best, so that choosing the epoch does not flatter a setting. Needs the shared data (VITKIT_SHARED).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

import vitkit
from vitkit.config import parse_value
from vitkit.console import Console
from vitkit.data.containers import read_bytes
from vitkit.data.sources import read_source
from vitkit.data.subsets import stratified_folds

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
WEIGHTS = SHARED / "deit_tiny" / "deit_tiny_patch16_224.safetensors"
# set -> (file, classes taken, images per class, image size, number of folds the set is cut into)
# A size of None is the model's own choice.
SETS: dict[str, tuple[str, range | None, int, int | None, int]] = {
    "flowers17": ("flowers17/train.tar", None, 20, 224, 5),
    "cifar10": ("cifar10_jpeg/train-00000-of-00001.parquet", range(10), 25, 96, 5),
    "pneumoniamnist": ("pneumoniamnist/train-00000-of-00001.parquet", range(2), 100, 96, 5),
    "digits": ("", range(10), 1000, None, 5),
    "cifar10x100": ("cifar10_jpeg/train-00000-of-00001.parquet", range(10), 125, None, 5),
    "flowers17_own": ("flowers17/train.tar", None, 20, None, 2),
    "tiny_imagenet": ("tiny_imagenet_32/train-00000-of-00001.parquet", range(0, 200, 10), 15, 96, 5),
}


def read(name: str) -> tuple[list[tuple[str, bytes]], list[int]]:
    """Images as (suffix, bytes) and labels of the first images of each class."""
    file, classes, per_class, *_ = SETS[name]
    if not file:
        samples = read_source(name).splits["train"]
        return [(".png", read_bytes(sample.source)) for sample in samples], [sample.label for sample in samples]
    images: list[tuple[str, bytes]] = []
    labels: list[int] = []
    if file.endswith(".tar"):
        with tarfile.open(SHARED / file) as archive:
            members = sorted((m for m in archive.getmembers() if m.isfile()), key=lambda m: m.name)
            names = sorted({Path(m.name).parent.name for m in members})
            for member in members:
                images.append((Path(member.name).suffix, archive.extractfile(member).read()))
                labels.append(names.index(Path(member.name).parent.name))
        return images, labels
    import pyarrow.parquet as parquet

    table = parquet.read_table(SHARED / file)
    all_labels = np.array(table["label"].to_pylist())
    for index, label in enumerate(classes):
        for row in np.flatnonzero(all_labels == label)[:per_class]:
            content = table["image"][int(row)].as_py()["bytes"]
            images.append((".png" if content[:4] == b"\x89PNG" else ".jpg", content))
            labels.append(index)
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--sets", default="flowers17,cifar10,pneumoniamnist,tiny_imagenet")
    parser.add_argument("--model", default=str(WEIGHTS))
    parser.add_argument("--folds", type=int, default=2, help="how many of the folds to run")
    arguments = parser.parse_args()
    settings = {k: parse_value(v) for k, v in (item.split("=", 1) for item in arguments.settings)}
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    for dataset in arguments.sets.split(","):
        *_, size, parts = SETS[dataset]
        images, labels = read(dataset)
        fold_of = stratified_folds(labels, parts, seed=0)
        for fold in range(min(arguments.folds, parts)):
            root = Path(tempfile.mkdtemp(prefix="recipe-cv-"))
            for index, ((suffix, content), label) in enumerate(zip(images, labels, strict=True)):
                split = "val" if fold_of[index] == fold else "train"
                path = root / "data" / split / f"{label:03d}" / f"{index:05d}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            began = time.perf_counter()
            result = vitkit.finetune(
                root / "data", model=arguments.model, out=root / "run", image_size=size, seed=fold,
                settings={"evaluations": 1, **settings}, console=Console(io.StringIO(), sys.stderr),
            )  # fmt: skip
            last = result.facts["curves"]["evaluations"][-1]
            row = {
                "name": arguments.name, "settings": settings, "set": dataset, "fold": fold, "n": result.headline["n"],
                "top1": last["top1"], "nll": last["nll"], "probe": result.facts["probe"]["val_accuracy"],
                "seconds": round(time.perf_counter() - began, 1),
            }  # fmt: skip
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
