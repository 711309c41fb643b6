"""Do the patches that maps mark matter to the model? Deletion and insertion of each kind of map against random orders.

    python benchmarks/faithfulness.py MODEL DATA [--images 200] [--steps 14] [--randoms 2] [--seed 0] [--json FILE]

Explained is the class that the model predicts. Each kind of map is judged image by image against random orders of the same image;
intervals are 95 %, Student's, over images. "constant" marks nothing and must come out at no difference. The rank correlation is
with the maps of a copy whose blocks are drawn anew. "side by side" squeezes two photographs that the model knows into the halves of
one image: how often most of the map of a class lies in the half of that class; 50 % is chance, and what a map of no class gives.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.analysis.attention import attention_maps
from vitkit.analysis.relevance import relevance
from vitkit.analysis.rollout import rollout
from vitkit.bundle import Bundle
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import load_input
from vitkit.data.sources import read_source
from vitkit.evals.evidence import Evidence, evidence_of
from vitkit.evals.faithfulness import RANDOMS, STEPS
from vitkit.evals.intervals import Mean, mean_of
from vitkit.jobs.load import load
from vitkit.models.vit import VisionTransformer

Maps = Callable[[VisionTransformer, Tensor, Tensor], Tensor]
BATCH = 8
METHODS: dict[str, Maps] = {
    "gradient": relevance,
    "rollout": lambda model, images, _: rollout(model, images),
    "last layer": lambda model, images, _: attention_maps(model, images, [-1]).mean((1, 2)),
    "constant": lambda model, images, _: torch.ones(len(images), *model.config.grid),
}


def side_by_side(bundle: Bundle, maps_of: Maps, images: Tensor, classes: Tensor) -> Mean:
    """How often most of the map lies in the half of its class, over pairs of neighbouring photographs."""
    H, W = bundle.config.image_size
    halves = F.interpolate(images, (H, W // 2), mode="area")
    middle = bundle.config.grid[1] // 2
    found = []
    for start in range(0, len(images) - 1, BATCH):
        left = halves[start : start + BATCH]
        right = halves[start + 1 : start + 1 + BATCH]
        left = left[: len(right)]
        pairs = torch.cat([left, right], dim=-1)
        for side, targets in ((0, classes[start:][: len(left)]), (1, classes[start + 1 :][: len(left)])):
            maps = maps_of(bundle.model, pairs, targets).sum(1)  # (B, w)
            parts = torch.stack([maps[:, :middle].sum(1), maps[:, -middle:].sum(1)], dim=1)
            found.append((parts[:, side] > parts[:, 1 - side]).double() + 0.5 * (parts[:, 0] == parts[:, 1]).double())
    return mean_of(torch.cat(found).numpy())


def shown(mean: Mean | None, signed: bool = True) -> str:
    if mean is None:
        return "-"
    sign = "+" if signed else ""
    if mean.low is None or mean.high is None:
        return f"{mean.value:{sign}.3f}"
    return f"{mean.value:{sign}.3f} ({mean.low:{sign}.3f} .. {mean.high:{sign}.3f})"


def line(name: str, found: Evidence, beside: Mean) -> str:
    cells = [
        name, f"{found.deletion:.3f}", f"{found.random_deletion:.3f}", shown(found.deletion_gain),
        f"{found.insertion:.3f}", f"{found.random_insertion:.3f}", shown(found.insertion_gain),
        shown(found.correlation), shown(beside, signed=False),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--randoms", type=int, default=RANDOMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundle = load(arguments.model)
    bundle.require_classes()
    record = bundle.require_preprocess()
    splits = read_source(arguments.data).splits
    samples = (splits.get("test") or next(iter(splits.values())))[: arguments.images]
    images = torch.stack([to_tensor(load_input(sample.source, record)) for sample in samples])
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    with torch.inference_mode():
        predicted = torch.cat([bundle.model(batch).argmax(1) for batch in batches]).clone()
    right = [index for index, sample in enumerate(samples) if sample.label == predicted[index]]
    print(
        f"{len(images)} images, {len(right)} predicted right; {arguments.steps} steps, {arguments.randoms} random orders an "
        f"image, seed {arguments.seed}; {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print("| maps | deletion | random | gain | insertion | random | gain | rank correlation | side by side |")
    print("|---|---|---|---|---|---|---|---|---|")
    records: dict[str, Any] = {}
    names = arguments.methods.split(",")
    began = time.perf_counter()
    evidences = evidence_of(
        bundle.model, zip(batches, predicted.split(BATCH), strict=True), [METHODS[name] for name in names],
        bundle.probabilities, steps=arguments.steps, randoms=arguments.randoms, seed=arguments.seed,
    )  # fmt: skip
    for name, found in zip(names, evidences, strict=True):
        beside = side_by_side(bundle, METHODS[name], images[right], predicted[right])
        print(line(name, found, beside), flush=True)
        records[name] = {**found.to_dict(), "side_by_side": beside._asdict()}
    for name, facts in records.items():
        print(f"{name}: {facts['verdict']}")
    print(f"{time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
