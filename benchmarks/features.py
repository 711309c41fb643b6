"""What features of a data set cost above the bare forward of the same model, and what a second protocol costs.

    python benchmarks/features.py [--images 10000] [--large 600] [--rounds 3]

Two models: small, 32 px, on CIFAR-10's test images; DeiT-Tiny at 224 px on some of them ($VITKIT_SHARED/data). The bare forward is
`model.outputs(model.forward_features(images))` of preloaded float tensors in batches, in inference mode, by all processor threads,
the quickest of several batch sizes; features are everything `compute_features` does on an empty cache: reading, digests, decoding,
fitting, forward, writing. They take turns in random order; medians of rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vitkit.bundle import Bundle
from vitkit.console import Console
from vitkit.data.official import load_view
from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Sample
from vitkit.data.sources import read_source
from vitkit.evals.features import compute_features
from vitkit.jobs.load import load
from vitkit.models.vit import VisionTransformer, ViTConfig

BATCHES = (1, 8, 32, 128)
SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def small() -> Bundle:
    config = ViTConfig(
        embed_dim=192, depth=9, num_heads=3, mlp_dim=768, patch_size=(4, 4), image_size=(32, 32), num_classes=10
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    return Bundle(model.eval(), Preprocess((32, 32)))


@torch.inference_mode()
def bare(model: VisionTransformer, images: Tensor, batch: int) -> float:
    began = time.perf_counter()
    for start in range(0, len(images), batch):
        model.outputs(model.forward_features(images[start : start + batch]))
    return time.perf_counter() - began


def whole(bundle: Bundle, samples: Sequence[Sample], folder: str) -> float:
    os.environ["VITKIT_CACHE"] = folder
    quiet = Console(io.StringIO(), io.StringIO())
    began = time.perf_counter()
    compute_features(bundle, samples, quiet, "features")
    return time.perf_counter() - began


def measure(name: str, bundle: Bundle, samples: Sequence[Sample], rounds: int) -> None:
    record = bundle.require_preprocess()
    images = torch.stack([torch.from_numpy(load_view(s.source, record)).movedim(-1, 0) for s in samples]).contiguous()
    few = images[:256]
    batch = min(BATCHES, key=lambda b: min(bare(bundle.model, few, b) for _ in range(3)))
    found: dict[str, list[float]] = {"bare": [], "features": [], "again": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for what in random.Random(number).sample(["bare", "features"], 2):
                seconds = (
                    bare(bundle.model, images, batch) if what == "bare" else whole(bundle, samples, folder)
                )  # fmt: skip
                found[what].append(seconds)
            found["again"].append(whole(bundle, samples, folder))
    medians = {what: statistics.median(times) for what, times in found.items()}
    above = 100 * (medians["features"] / medians["bare"] - 1)
    print(
        f"{name}: {len(samples):,} images, bare forward {medians['bare']:.2f} s (batches of {batch}), features "
        f"{medians['features']:.2f} s ({above:+.1f} %), asked again {medians['again']:.2f} s; "
        f"rounds {[[round(s, 2) for s in pair] for pair in zip(found['bare'], found['features'], strict=True)]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    samples = read_source(SHARED / "cifar10_jpeg").splits["test"]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    measure("small, 32 px", small(), samples[: arguments.images], arguments.rounds)
    tiny = load(SHARED / "deit_tiny" / "deit_tiny_patch16_224.safetensors")
    measure("DeiT-Tiny, 224 px", tiny, samples[: arguments.large], arguments.rounds)


if __name__ == "__main__":
    main()
