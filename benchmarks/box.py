"""What the backbone that ships is worth: transfer to few images, beside random weights of the same model in equal time.

    python benchmarks/box.py --out DIR [--tasks digits flowers17 ...] [--draws 3]
    python benchmarks/box.py --out DIR --linear          # the probe on all of CIFAR-10, beside random weights and raw pixels
    python benchmarks/box.py --out DIR --sizes           # at 16 to 224 pixels

Each task is drawn three times (of Flowers-17, whose training photos are all used, seeds differ). Columns: a linear probe on the
box's frozen features of all images drawn; full fine-tuning by `vit finetune --model box`, which holds out a part for validation;
the same from random weights of the same model, at the rate, decay and average that suit them, with equal images, size and epochs,
so in equal time; and what the two commands released, the better of trained and probe on validation images. Data:
$VITKIT_SHARED/data; DIR keeps every finished run, and a stopped script goes on. DIR gets table.md and table.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

import vitkit
from vitkit.bundle import Bundle
from vitkit.console import Console
from vitkit.data.audit import read_bytes
from vitkit.data.samples import Sample, Source
from vitkit.data.sources import read_source
from vitkit.engines.eager import EagerEngine
from vitkit.evals.linear import NEAR, _fit, _folded, _standardised, fit_probe
from vitkit.evals.scoring import outputs_of
from vitkit.models.vit import VisionTransformer
from vitkit.zoo.adapt import resize
from vitkit.zoo.load import load_model

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
QUIET = Console(io.StringIO(), io.StringIO())
# name -> (what is shown, data, training images of each class or their share; None: all)
TASKS: dict[str, tuple[str, str, float | None]] = {
    "cifar10x10": ("CIFAR-10, 10 of each class", "cifar10_jpeg", 10),
    "cifar10x100": ("CIFAR-10, 100 of each class", "cifar10_jpeg", 100),
    "cifar10x1000": ("CIFAR-10, 1,000 of each class", "cifar10_jpeg", 1000),
    "pneumonia": ("PneumoniaMNIST, 5 % of the labels", "pneumoniamnist", 0.05),
    "digits": ("digits, 5 of each class", "digits", 5),
    "flowers17": ("Flowers-17, all 20 of each class", "flowers17", None),
}
# What the recipe from random weights has (vitkit.recipes.finetune).
FROM_SCRATCH = {"lr": 2e-3, "layer_decay": 1.0, "weight_decay": 0.2, "ema": 0.99, "drop_path": 0.0}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's, by number of draws


def draw(samples: Sequence[Sample], count: float | None, seed: int) -> list[Sample]:
    """``count`` images of each class, or that share of it."""
    if count is None:
        return list(samples)
    labels, rng, chosen = np.array([sample.label for sample in samples]), np.random.default_rng([seed, 10]), []
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        chosen += own[: int(count) if count >= 1 else round(count * len(own))].tolist()
    return [samples[place] for place in sorted(chosen)]


def write_data(source: Source, train: Sequence[Sample], folder: Path) -> Path:
    """A folder of two Parquet tables, in the Hugging Face layout."""
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for split, samples in (("train", train), ("test", source.splits["test"])):
            images = [{"bytes": read_bytes(sample.source), "path": None} for sample in samples]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            columns = {"image": pa.array(images, kind), "label": pa.array([sample.label for sample in samples])}
            pq.write_table(pa.table(columns), partial / f"{split}-00000-of-00001.parquet")
        (partial / "classes.txt").write_text("\n".join(source.classes) + "\n", encoding="utf-8")
        partial.rename(folder)
    return folder


def random_start(seed: int, folder: Path) -> Path:
    """A bundle of the box's model with random weights."""
    if not folder.exists():
        box = load_model("box")
        model = VisionTransformer(box.config)
        model.init_weights(seed, scheme="small")
        Bundle(model.eval(), box.preprocess_record, source="random weights").save(folder)
    return folder


def tuned(data: Path, model: str, out: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of a fine-tuning run, begun, gone on with, or finished before."""
    if (out / "arguments.json").exists():
        vitkit.finetune(resume=out, console=QUIET)
    else:
        vitkit.finetune(data, model=model, out=out, seed=seed, settings=settings, console=QUIET)
    return json.loads((out / "report.json").read_text())


def trained_top1(run: Path, data: Path) -> float:
    """Test accuracy of the weights that training kept, uncalibrated, whether or not the run released its probe in their place."""
    released = Bundle.read(run / "model")
    size = tuple(json.loads((run / "plan.json").read_text())["recipe"]["train_size"])
    model = VisionTransformer(dataclasses.replace(released.config, image_size=size, drop_path=0.0))
    newest = max((run / "checkpoints").glob("*.safetensors"), key=lambda path: int(path.stem.split("-")[1]))
    kept = {name[len("best/") :]: t for name, t in load_file(newest).items() if name.startswith("best/")}
    model.load_state_dict(kept)
    source = read_source(data)
    assert source.classes == released.classes, (source.classes, released.classes)
    model = resize(model.eval(), released.config.image_size)
    logits = outputs_of(
        EagerEngine(model, group=64), released.require_preprocess(), source.splits["test"], QUIET, "trained"
    ).logits
    return float((logits.argmax(1) == np.array([sample.label for sample in source.splits["test"]])).mean())


def features(bundle: Bundle, samples: Sequence[Sample]) -> Tensor:
    engine = EagerEngine(bundle.model, group=64)
    return torch.from_numpy(outputs_of(engine, bundle.require_preprocess(), samples, QUIET, "features").features)


def measure(name: str, seed: int, out: Path, tested: dict[str, Tensor]) -> dict[str, Any]:
    """One draw of one task."""
    _, data, count = TASKS[name]
    source = read_source(data if data == "digits" else SHARED / data)
    train, test = draw(source.splits["train"], count, seed), source.splits["test"]
    folder = write_data(source, train, out / "data" / f"{name}-{seed}")
    ours = tuned(folder, "box", out / f"{name}-{seed}-box", seed, {})
    recipe = ours["plan"]["recipe"]
    settings = {"epochs": recipe["epochs"], "batch_size": recipe["batch_size"], **FROM_SCRATCH}
    theirs = tuned(
        folder, str(random_start(seed, out / f"random-{seed}")), out / f"{name}-{seed}-scratch", seed, settings
    )
    size = tuple(ours["plan"]["preprocess"]["image_size"])
    bundle = load_model("box", image_size=size) if size != load_model("box").config.image_size else load_model("box")
    if data not in tested:
        tested[data] = features(bundle, test)
    labels = torch.tensor([sample.label for sample in train])
    probe = fit_probe(features(bundle, train), labels, len(source.classes), seed)
    hits = probe.logits(tested[data]).argmax(1).numpy() == np.array([sample.label for sample in test])
    return {
        "task": name, "draw": seed, "train": len(train), "test": len(test), "probe": float(hits.mean()),
        **{f"{start}_{what}": report["headline"]["value"] if what == "top1" else report[what]
           for start, report in (("box", ours), ("scratch", theirs)) for what in ("top1", "seconds")},
        "box_trained": trained_top1(out / f"{name}-{seed}-box", folder),
        "scratch_trained": trained_top1(out / f"{name}-{seed}-scratch", folder),
        "box_released": ours["release"]["released"], "scratch_released": theirs["release"]["released"], "size": size[0],
    }  # fmt: skip


def cell(values: Sequence[float]) -> str:
    """Mean, its 95 % interval by Student's t over draws, and every draw, in percent."""
    mean, shown = 100 * statistics.mean(values), ", ".join(f"{100 * value:.1f}" for value in values)
    if len(values) not in T_95:
        return f"{mean:.1f} ({shown})"
    half = T_95[len(values)] * 100 * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ± {half:.1f} ({shown})"


def table(found: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| task | linear probe, box | fine-tuned from box | trained from random weights | released, box / random "
        "| seconds, box / random |",
        "|---" * 6 + "|",
    ]
    for name, (title, _, _) in TASKS.items():
        own = [row for row in found if row["task"] == name]
        if own:
            cells = [cell([row[key] for row in own]) for key in ("probe", "box_trained", "scratch_trained")]
            cells.append(
                " / ".join(f"{100 * statistics.mean(r[key] for r in own):.1f}" for key in ("box_top1", "scratch_top1"))
            )
            seconds = [statistics.median(row[key] for row in own) for key in ("box_seconds", "scratch_seconds")]
            lines.append(f"| {title} | " + " | ".join(cells) + f" | {seconds[0]:.0f} / {seconds[1]:.0f} |")
    return "\n".join(lines)


def best_linear(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> tuple[float, float]:
    """(test accuracy, the penalty, which 5,000 training images chose) of logistic regression on standardised features."""
    x, mean, std = _standardised(x)
    x, kept = x.float(), torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    own, held = kept[5_000:], kept[:5_000]

    def fit(places: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        weight, bias = _fit(x[places].double(), y[places], 10, penalty, NEAR)
        return weight, bias

    scores = {}
    for penalty in (1e-4, 1e-2, 1.0):
        weight, bias = fit(own, penalty)
        scores[penalty] = float(((x[held].double() @ weight.T + bias).argmax(1) == y[held]).double().mean())
    best = max(scores, key=lambda penalty: scores[penalty])
    weight, bias = _folded(*fit(kept, best), mean, std)
    return float(((x_test @ weight.T + bias).argmax(1) == y_test).double().mean()), best


def linear(out: Path) -> None:
    """The probe on all 50,000 images, of the box, the same model with random weights, and the pixels."""
    source = read_source(SHARED / "cifar10_jpeg")
    train, test = source.splits["train"], source.splits["test"]
    y, y_test = (torch.tensor([sample.label for sample in samples]) for samples in (train, test))
    found, lines = {}, ["| features | numbers | test top-1 | penalty |", "|---|---|---|---|"]
    for name in ("box", "random weights", "raw pixels"):
        bundle = load_model("box" if name != "random weights" else str(random_start(0, out / "random-0")))
        if name == "raw pixels":
            x, x_test = (
                torch.stack([bundle.preprocess(_open(sample)).flatten() for sample in samples]) for samples in (train, test)
            )  # fmt: skip
        else:
            x, x_test = features(bundle, train), features(bundle, test)
        top1, penalty = best_linear(x, y, x_test, y_test)
        found[name] = top1
        lines.append(f"| {name} | {x.shape[1]} | {100 * top1:.1f} | {penalty:g} |")
        print(lines[-1], flush=True)
    (out / "linear.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "linear.md").write_text("\n".join(lines) + "\n")


def sizes(out: Path) -> None:
    """At other sizes: its own classes of 2,000 validation images of Tiny-ImageNet (which have 32 pixels), and a linear
    probe on one half of Flowers-17's training photos, scored on the other.
    """
    val = read_source(SHARED / "tiny_imagenet_32").splits["val"][::5]
    photos = read_source(SHARED / "flowers17").splits["train"]
    own, theirs = (np.array([sample.label for sample in samples]) for samples in (val, photos))
    half = np.zeros(len(photos), dtype=bool)
    for label in np.unique(theirs):
        half[np.flatnonzero(theirs == label)[::2]] = True
    lines = ["| pixels | patch | patches | Tiny-ImageNet, top-1 | Flowers-17, probe | images/s |", "|---" * 6 + "|"]
    for size in (16, 24, 32, 48, 64, 96, 128, 224):
        bundle = load_model("box", image_size=size)
        engine, record = EagerEngine(bundle.model, group=64), bundle.require_preprocess()
        began = time.perf_counter()
        logits = outputs_of(engine, record, val, QUIET, "sizes").logits
        rate = len(val) / (time.perf_counter() - began)
        x = features(bundle, photos)
        probe = fit_probe(x[half], torch.from_numpy(theirs[half]), 17, 0)
        found = (probe.logits(x[~half]).argmax(1).numpy() == theirs[~half]).mean()
        h, w = bundle.config.grid
        top1 = (logits.argmax(1) == own).mean()
        lines.append(
            f"| {size} | {bundle.config.patch_size[0]} | {h}x{w} | {100 * top1:.1f} | {100 * found:.1f} | {rate:.0f} |"
        )
        print(lines[-1], flush=True)
    (out / "sizes.md").write_text("\n".join(lines) + "\n")


def _open(sample: Sample) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(read_bytes(sample.source)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.linear or given.sizes:
        (linear if given.linear else sizes)(given.out)
        return
    path, tested = given.out / "table.json", dict[str, Tensor]()
    found = json.loads(path.read_text()) if path.exists() else []
    for name in given.tasks:
        for seed in range(given.draws):
            if any((row["task"], row["draw"]) == (name, seed) for row in found):
                continue
            began = time.perf_counter()
            found.append(measure(name, seed, given.out, tested))
            path.write_text(json.dumps(found, indent=2) + "\n")
            print(f"{found[-1]} {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    (given.out / "table.md").write_text(table(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
