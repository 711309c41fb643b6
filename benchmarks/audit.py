"""Measure `vit audit` on the shared data: planted near duplicates, speed and memory, flipped labels.

    python benchmarks/audit.py --what duplicates [--images 10000] [--per-kind 300]
    python benchmarks/audit.py --what speed
    python benchmarks/audit.py --what labels [--images 50000] [--model WEIGHTS]

Needs the shared data (VITKIT_SHARED) and pyarrow. The cache is a new, empty folder; `speed` audits twice, so that the second
audit shows what it saves.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vitkit.console import Console
from vitkit.data.audit import scan
from vitkit.data.sources import Sample, Source
from vitkit.data.survey import survey
from vitkit.jobs.audit import audit_source

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
FLIPPED = 0.05


def read(name: str, split: str, prefix: str, first_label: int = 0, images: int | None = None) -> list[Sample]:
    """Samples of one shared Parquet file, encoded as they are there."""
    import pyarrow.parquet as pq

    table = pq.read_table(SHARED / name / f"{split}-00000-of-00001.parquet")
    rows = range(table.num_rows)
    if images is not None and images < table.num_rows:
        rows = np.sort(np.random.default_rng(0).permutation(table.num_rows)[:images]).tolist()
    content, labels = table["image"], table["label"]
    return [Sample(f"{prefix}/{i}", content[i]["bytes"].as_py(), first_label + labels[i].as_py()) for i in rows]


def encoded(image: Image.Image, quality: int | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if quality is None else image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def changes() -> dict[str, Callable[[Image.Image], bytes]]:
    """Kinds of copies of a 32 x 32 image."""
    kinds: dict[str, Callable[[Image.Image], bytes]] = {}
    for side in (24, 28, 40, 48, 64):
        kinds[f"resized to {side}"] = lambda im, s=side: encoded(im.resize((s, s), Image.Resampling.BICUBIC))
    for quality in (50, 60, 70, 80, 90):
        kinds[f"JPEG {quality}"] = lambda im, q=quality: encoded(im, q)
    edges = {"left": (1, 0, 32, 32), "top": (0, 1, 32, 32), "right": (0, 0, 31, 32), "bottom": (0, 0, 32, 31)}
    for name, box in {**edges, "all edges": (1, 1, 31, 31)}.items():
        kinds[f"cut {name}"] = lambda im, b=box: encoded(im.crop(b))
        kinds[f"cut {name}, resized"] = lambda im, b=box: encoded(im.crop(b).resize((32, 32), Image.Resampling.BICUBIC))
        kinds[f"cut {name}, JPEG 75"] = lambda im, b=box: encoded(im.crop(b), 75)
    return kinds


def duplicates(images: int, per_kind: int) -> None:
    samples = read("cifar10_jpeg", "test" if images <= 10_000 else "train", "real", images=images)
    real = len(samples)
    order = np.random.default_rng(1).permutation(real)
    kinds = changes()
    per_kind = min(per_kind, real // len(kinds))
    planted: dict[tuple[int, int], str] = {}
    for number, (name, change) in enumerate(kinds.items()):
        for i in order[number * per_kind : (number + 1) * per_kind].tolist():
            planted[i, len(samples)] = name
            image = Image.open(io.BytesIO(samples[i].source)).convert("RGB")
            samples.append(Sample(f"{name}/{i}", change(image), samples[i].label))
    source = Source("cifar10", tuple("0123456789"), {"all": samples})
    found = survey(source, {"all": scan(samples, console=Console())}).duplicates
    pairs = {(p.first, p.second) for p in found.near}
    print(f"{real} images and {len(planted)} planted copies; {len(pairs)} pairs found")
    print("| kind | planted | found |\n|---|---|---|")
    for name in kinds:
        keys = [key for key, kind in planted.items() if kind == name]
        print(f"| {name} | {len(keys)} | {100 * sum(key in pairs for key in keys) / len(keys):.1f} % |")
    copy_of = {copy: original for original, copy in planted}
    chained = sum(1 for a, b in pairs - set(planted) if copy_of.get(a, a) != copy_of.get(b, b))
    print(f"pairs that were not planted: {len(pairs - set(planted))} ({100 * chained / len(pairs):.2f} %)")


def speed() -> None:
    cifar = {split: read("cifar10_jpeg", split, f"cifar/{split}") for split in ("train", "test")}
    tiny = {
        split: read("tiny_imagenet_32", name, f"tiny/{split}", 10)
        for split, name in (("train", "train"), ("test", "validation"))
    }
    classes = tuple(f"{i:03d}" for i in range(210))
    source = Source("cifar10 and tiny_imagenet", classes, {split: cifar[split] + tiny[split] for split in cifar})
    for run in ("first", "second"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        timed(source, run)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{run}: peak memory {after / 2**20:.2f} GiB, of it before the audit {before / 2**20:.2f} GiB (encoded images)"
        )


def timed(source: Source, name: str, model: str | None = None) -> dict[str, object]:
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as out:
        result = audit_source(
            source, Path(out) / "audit", model=model, overrides={}, command="", console=Console(), began=began
        )
    print(f"{name}: {time.perf_counter() - began:.0f} s, {time.process_time() - cpu:.0f} s of processor time")
    return dict(result.facts)


def labels(images: int, model: str | None) -> None:
    samples = read("cifar10_jpeg", "train", "train", images=images)
    rng = np.random.default_rng(1)
    flipped = set(rng.choice(len(samples), round(FLIPPED * len(samples)), replace=False).tolist())
    given = [
        s._replace(label=(s.label + int(rng.integers(1, 10))) % 10) if i in flipped else s
        for i, s in enumerate(samples)
    ]
    facts = timed(Source("cifar10", tuple("0123456789"), {"all": given}), "labels", model)
    ranked: list[dict[str, str]] = facts["label_errors"]  # type: ignore[assignment]
    wrong = {samples[i].name for i in flipped}
    hits = sum(entry["name"] in wrong for entry in ranked[: len(flipped)])
    print(f"{facts['label_check']}")
    print(
        f"{len(flipped)} of {len(samples)} labels flipped; precision at that length {100 * hits / len(flipped):.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("duplicates", "speed", "labels"), required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--per-kind", type=int, default=300)
    parser.add_argument("--model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["VITKIT_CACHE"] = cache
        if options.what == "duplicates":
            duplicates(options.images or 10_000, options.per_kind)
        elif options.what == "speed":
            speed()
        else:
            labels(options.images or 50_000, options.model)


if __name__ == "__main__":
    sys.exit(main())
