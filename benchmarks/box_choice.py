"""How well backbones transfer, measured on training images alone: what the box's size, objective and views were chosen by.

    python benchmarks/box_choice.py RUN/model [MODEL ...] [-o choice.jsonl]

A linear probe on frozen features, three draws each; no test or validation split is read. CIFAR-10 with 10 and 100 training images
of each class, scored on others of the training split (600 of each class in all); digits with 5 of each class, scored on the other
training digits; PneumoniaMNIST with 5 % of the training images, scored on the others; Flowers-17 with half of the training photos,
scored on the other half, at 64 pixels. Accuracies are means over classes. Data: $VITKIT_SHARED/data.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitkit.bundle import Bundle
from vitkit.console import Console
from vitkit.data.samples import Sample
from vitkit.data.sources import read_source
from vitkit.engines.eager import EagerEngine
from vitkit.evals.linear import fit_probe
from vitkit.evals.scoring import outputs_of
from vitkit.jobs.load import load

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
QUIET = Console(io.StringIO(), io.StringIO())
DRAWS = 3
# name -> (data, training images of each class or their share, image size)
SETS = {
    "cifar10 x10": ("cifar10_jpeg", 10, None),
    "cifar10 x100": ("cifar10_jpeg", 100, None),
    "digits x5": ("digits", 5, None),
    "pneumonia 5 %": ("pneumoniamnist", 0.05, None),
    "flowers17 x10": ("flowers17", 10, 64),
}


def training_images(data: str) -> list[Sample]:
    """Those of the training split, 600 of each class at most: what is drawn from, and what is scored."""
    samples = read_source(data if data == "digits" else SHARED / data).splits["train"]
    rng = np.random.default_rng(0)
    labels = np.array([sample.label for sample in samples])
    places = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:600] for c in np.unique(labels)])
    return [samples[place] for place in places]


def features(bundle: Bundle, samples: Sequence[Sample]) -> Tensor:
    found = outputs_of(EagerEngine(bundle.model, group=64), bundle.require_preprocess(), samples, QUIET, "features")
    return torch.from_numpy(found.features)


def draw(labels: np.ndarray, count: float, seed: int) -> np.ndarray:
    """A mask of the images that are learnt from."""
    rng, mask = np.random.default_rng([seed, 7]), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        mask[own[: count if count >= 1 else max(2, round(count * len(own)))]] = True
    return mask


def measure(name: str, own: int | None) -> dict[str, list[float]]:
    """Accuracies of each set's draws, fractions."""
    found, kept = {}, {}
    for title, (data, count, size) in SETS.items():
        size = size or own
        bundle = load(name) if size is None else load(name, image_size=size)
        if data not in kept:
            samples = training_images(data)
            kept[data] = features(bundle, samples), np.array([sample.label for sample in samples])
        x, labels = kept[data]
        found[title] = []
        for seed in range(DRAWS):
            mask = draw(labels, count, seed)
            classes = int(labels.max()) + 1
            probe = fit_probe(x[mask], torch.from_numpy(labels[mask]), classes, seed)
            hits = probe.logits(x[~mask]).argmax(1).numpy() == labels[~mask]
            found[title].append(float(np.mean([hits[labels[~mask] == c].mean() for c in range(classes)])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("-o", "--out", type=Path, help="a file that gets a line for each model")
    parser.add_argument("--image-size", type=int, help="of all but Flowers-17, in place of the model's own")
    given = parser.parse_args()
    print("| model | " + " | ".join(SETS) + " | mean |\n" + "|---" * (2 + len(SETS)) + "|")
    for name in given.models:
        found = measure(name, given.image_size)
        means = [100 * statistics.mean(values) for values in found.values()]
        print(f"| {name} | " + " | ".join(f"{m:.1f}" for m in means) + f" | {statistics.mean(means):.1f} |", flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"model": name, "accuracy": found}) + "\n")


if __name__ == "__main__":
    main()
