"""Pre-training on Tiny-ImageNet, by labels and by masked patches, then transfer to few images of CIFAR-10, beside random weights.

    python benchmarks/transfer.py TINY_IMAGENET CIFAR10 --out DIR

Both are folders of Parquet tables (train-*.parquet with validation-* or test-*). What is pre-trained lies in DIR and is used
again; a stopped script goes on. Every transfer to one number of images is the same job (RECIPE, STEPS), whatever it starts from:
equal steps of equal models, so equal wall time. A draw takes the same images for all starts. DIR gets table.json and table.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import vitkit

STARTS = {"scratch": None, "supervised": "tiny_imagenet_small", "masked": "tiny_imagenet_small_masked"}
SHOTS, DRAWS = (10, 100, 1000), 3
# Fixed before any transfer was run.
STEPS = {10: 100, 100: 200, 1000: 400}
RECIPE = {"batch_size": 100, "optim.lr": 5e-4, "evaluations": 1, "initialisation": "official"}


def subset(cifar: Path, folder: Path, shots: int, draw: int) -> None:
    """``shots`` images of each class as a training table, and the whole test table."""
    if folder.exists():
        return
    (train,), (test,) = sorted(cifar.glob("train*.parquet")), sorted(cifar.glob("test*.parquet"))
    table = pq.read_table(train)
    labels = np.asarray(table["label"])
    rng = np.random.default_rng([shots, draw])
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)])
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.take(pa.array(np.sort(chosen))), partial / "train.parquet")
    (partial / "test.parquet").write_bytes(test.read_bytes())
    if (cifar / "classes.txt").exists():
        (partial / "classes.txt").write_bytes((cifar / "classes.txt").read_bytes())
    partial.rename(folder)


def run(recipe: str, data: Path, out: Path, settings: dict[str, object]) -> dict[str, object]:
    """The report of a run, begun, gone on with, or finished before."""
    if (out / "arguments.json").exists():
        vitkit.pretrain(resume=out)
    else:
        vitkit.pretrain(recipe, data=data, out=out, settings=settings)
    report: dict[str, object] = json.loads((out / "report.json").read_text())
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tiny", type=Path)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--starts", nargs="+", choices=list(STARTS), default=list(STARTS), help="a part of the table first"
    )
    given = parser.parse_args()
    starts = {name: recipe for name, recipe in STARTS.items() if name in given.starts}
    began = time.perf_counter()
    seconds = {}
    for name, recipe in starts.items():
        if recipe:
            seconds[name] = run(recipe, given.tiny, given.out / name, {})["seconds"]
    found = []
    for shots in SHOTS:
        for draw in range(DRAWS):
            data = given.out / "data" / f"{shots}-{draw}"
            subset(given.cifar, data, shots, draw)
            for name, recipe in starts.items():
                settings = {**RECIPE, "steps": STEPS[shots], "seed": draw}
                if recipe:
                    settings["start"] = str(given.out / name / "model")
                report = run("cifar10_small", data, given.out / f"{name}-{shots}-{draw}", settings)
                (top1,) = (row["value"] for row in report["rows"] if row["metric"] == "top1")  # type: ignore[attr-defined]
                found.append({"start": name, "shots": shots, "draw": draw, "top1": top1, "seconds": report["seconds"]})
    lines = ["| images per class | " + " | ".join(starts) + " |", "|---" * (1 + len(starts)) + "|"]
    for shots in SHOTS:
        cells = []
        for name in starts:
            values = [100 * entry["top1"] for entry in found if (entry["start"], entry["shots"]) == (name, shots)]
            cells.append(f"{statistics.mean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})")
        lines.append(f"| {shots} | " + " | ".join(cells) + " |")
    whole = {"pretraining_seconds": seconds, "transfers": found, "seconds_of_this_call": time.perf_counter() - began}
    (given.out / "table.json").write_text(json.dumps(whole, indent=2) + "\n")
    (given.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
