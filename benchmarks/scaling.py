"""Images per second and peak memory of predict and of features for 1,000, 10,000 and 100,000 images: does cost grow as it should?

    python benchmarks/scaling.py [--quick] [--counts 1000,10000,100000] [--engines eager,tuned] [--rounds 3]
        [--what predict,features] [-o runs/scaling]
    python benchmarks/scaling.py --markdown runs/scaling/scaling.csv

CIFAR-10's 10,000 test images as JPEG files ($VITKIT_SHARED/data), hard links of them where more are asked for, in folders of
1,000, and a model so small (96 wide, 4 deep, 17 tokens) that what is done for each image beside the model counts. Each run is a
process of its own, its time that of the one call, its memory the peak of its resident set, also above that of a run over 16 images.
Features are computed with an empty cache. Counts take turns in an order drawn anew each round; medians of rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from turns import machine, peak_mb

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
FEW = 16  # images whose run tells what memory a process takes anyway
FIELDS = ("what", "engine", "images", "round", "rate", "seconds", "mb")
PER_FOLDER = 1000


def make_model(folder: Path) -> Path:
    from vitkit.bundle import Bundle
    from vitkit.data.pixels import Preprocess
    from vitkit.models.vit import VisionTransformer, ViTConfig

    config = ViTConfig(
        embed_dim=96, depth=4, num_heads=3, mlp_dim=384, patch_size=(8, 8), image_size=(32, 32), num_classes=10
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    return Bundle(model.eval(), Preprocess((32, 32)), source="random weights").save(folder / "model")


def make_images(folder: Path, counts: Sequence[int]) -> None:
    """Folders of images by their number; each file is written once."""
    import pyarrow.parquet as pq

    (table,) = (SHARED / "cifar10_jpeg").glob("test-*.parquet")
    rows = pq.read_table(table, columns=["image"]).column("image").to_pylist()
    files = folder / "files"
    files.mkdir()
    for index, row in enumerate(rows):
        (files / f"{index:05}.jpg").write_bytes(row["bytes"])
    for count in counts:
        for index in range(count):
            place = folder / f"{count}" / f"{index // PER_FOLDER:04}"
            if index % PER_FOLDER == 0:
                place.mkdir(parents=True)
            os.link(files / f"{index % len(rows):05}.jpg", place / f"{index:06}.jpg")


def one(what: str, engine: str, model: Path, images: Path) -> dict[str, float]:
    """The time of one call, and this process's peak memory."""
    import io

    import vitkit
    from vitkit.console import Console

    bundle = vitkit.load(model, engine=engine, precision="fp32")
    quiet = Console(io.StringIO(), io.StringIO())
    out = images.with_name(f"{images.name}-{what}.{'parquet' if what == 'parquet' else 'csv'}")
    if what == "features":
        from vitkit.data.samples import Sample
        from vitkit.data.sources import find_images
        from vitkit.evals.features import compute_features
    began = time.perf_counter()
    if what != "features":
        packed = what == "parquet"
        count = vitkit.predict(bundle, [images], out=out, features=packed, console=quiet).written
    else:
        samples = [Sample(path.name, path, 0) for path in find_images(images)]
        count = len(compute_features(bundle, samples, quiet, "features").features)
    seconds = time.perf_counter() - began
    return {"images": count, "rate": count / seconds, "seconds": seconds, "mb": peak_mb()}


def own_process(what: str, engine: str, folder: Path, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, __file__, "--one", what, engine, folder / "model", folder / str(count)]
        environment = {**os.environ, "VITKIT_CACHE": cache}
        done = subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.PIPE, check=True)
    told: dict[str, float] = json.loads(done.stdout)
    assert told["images"] == count, told
    return told


def run(given: argparse.Namespace) -> Path:
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "scaling.csv"
    with tempfile.TemporaryDirectory() as name, open(path, "w", newline="") as file:
        folder = Path(name)
        make_model(folder)
        make_images(folder, [FEW, *given.counts])
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        runs = [(what, e, n) for what in given.what for e in given.engines for n in (FEW, *given.counts)]
        draw = random.Random(0)
        for number in range(given.rounds):
            for what, engine, count in draw.sample(runs, len(runs)):
                told = own_process(what, engine, folder, count)
                writer.writerow({**told, "what": what, "engine": engine, "images": count, "round": number})
                file.flush()
    (out / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")
    return path


def summarise(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Medians of rounds per kind, engine and number of images; memory above that of a run over a few."""
    cells: dict[tuple[str, str, int], list[Mapping[str, str]]] = {}
    for row in rows:
        cells.setdefault((row["what"], row["engine"], int(row["images"])), []).append(row)

    def median(key: tuple[str, str, int], field: str) -> float:
        return statistics.median(float(row[field]) for row in cells[key])

    return [
        {
            "what": what, "engine": engine, "images": count, "rate": median((what, engine, count), "rate"),
            "mb": median((what, engine, count), "mb"),
            "above": median((what, engine, count), "mb") - median((what, engine, FEW), "mb"), "rounds": len(found),
        }
        for (what, engine, count), found in sorted(cells.items())
        if count != FEW
    ]  # fmt: skip


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| what | engine | images | images/s | peak memory, MB | above a run of 16 images, MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row['what']} | {row['engine']} | {row['images']:,} | {row['rate']:,.0f} | {row['mb']:.0f} | {row['above']:+.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1 round of 500 and 2,000 images")
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--engines", default="eager")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", default="predict,features", help="predict writes CSV, parquet Parquet with features")
    parser.add_argument("-o", "--out", default="runs/scaling")
    parser.add_argument("--markdown", metavar="CSV", type=Path, help="measure nothing, print the table")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, engine, model, images = given.one
        print(json.dumps(one(what, engine, Path(model), Path(images))))
        return
    given.counts = [500, 2000] if given.quick else [int(count) for count in given.counts.split(",")]
    given.what = given.what.split(",")
    given.rounds, given.engines = 1 if given.quick else given.rounds, given.engines.split(",")
    with open(given.markdown or run(given), newline="") as file:
        print(markdown(summarise(list(csv.DictReader(file)))))


if __name__ == "__main__":
    main()
