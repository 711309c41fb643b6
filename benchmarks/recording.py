"""What seeing attention costs: time of recording one layer above the bare forward, and memory of one and of all layers.

    python benchmarks/recording.py [--rounds 40] [--processes 3] [--cpu-time]

Time: `recorded_weights(model, images, [-1])`, weights and all, beside `model.forward_features(images)` of the same preloaded
images, in turns in random order, fused attention, float32; medians of rounds and of the ratio of each round's two. With
--cpu-time the process's own processor time, for one thread on a machine that others use too.
Memory: peak resident set of a process of its own that builds the model, with random weights, and runs it once; medians of
processes, above that of the process that runs the bare forward.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vitkit.analysis.attention import attention_maps, recorded_weights
from vitkit.analysis.rollout import rollout
from vitkit.models.vit import VisionTransformer, ViTConfig

TIMES = (("Ti/16", 224, 1), ("Ti/16", 224, 8), ("B/16", 224, 1), ("B/16", 224, 8))
MEMORY = (("B/16", 224, 8), ("B/16", 384, 1))


@torch.no_grad()
def bare(model: VisionTransformer, images: Tensor) -> None:
    model.forward_features(images)


def one_layer(model: VisionTransformer, images: Tensor) -> None:
    for _ in recorded_weights(model, images, [-1]):
        pass


def all_kept(model: VisionTransformer, images: Tensor) -> None:
    list(recorded_weights(model, images))


WAYS: dict[str, Callable[[VisionTransformer, Tensor], object]] = {
    "bare forward": bare,
    "weights of one layer": one_layer,
    "weights of all layers, all kept": all_kept,
    "maps of all layers and heads": attention_maps,
    "rollout": rollout,
}


def made(size: str, pixels: int, batch: int) -> tuple[VisionTransformer, Tensor]:
    model = VisionTransformer(ViTConfig.named(size, image_size=(pixels, pixels)))
    model.init_weights(0)
    return model.eval(), torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))


def times(size: str, pixels: int, batch: int, rounds: int, clock: Callable[[], float]) -> None:
    model, images = made(size, pixels, batch)
    found: dict[Callable[..., None], list[float]] = {bare: [], one_layer: []}
    draw = random.Random(0)
    for number in range(rounds + 3):
        for way in draw.sample([bare, one_layer], 2):
            began = clock()
            way(model, images)
            if number >= 3:  # the first warm up
                found[way].append(clock() - began)
    plain, recorded = (statistics.median(found[way]) * 1e3 for way in (bare, one_layer))
    ratios = [b / a - 1 for a, b in zip(found[bare], found[one_layer], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    print(
        f"| {size} | {pixels} | {batch} | {plain:.1f} | {recorded:.1f} | {statistics.median(ratios):+.1%} "
        f"({low:+.1%} to {high:+.1%}) |",
        flush=True,
    )


def high_water() -> float:
    """Peak resident set of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def own_process(size: str, pixels: int, batch: int, way: str, count: int) -> float:
    command = [sys.executable, __file__, "--way", way, "--shape", size, str(pixels), str(batch)]
    peaks = []
    for _ in range(count):
        out = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout
        peaks.append(float(out))
    return statistics.median(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--shape", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way is not None:
        size, pixels, batch = given.shape
        WAYS[given.way](*made(size, int(pixels), int(batch)))
        print(high_water())
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {given.rounds} rounds\n")
    print("| model | size | images | bare forward, ms | one layer recorded, ms | median of ratios (quartiles) |")
    print("|---|---|---|---|---|---|")
    for shape in TIMES:
        times(*shape, given.rounds, time.process_time if given.cpu_time else time.perf_counter)
    print("\n| model | size | images | | peak, MiB | above the bare forward, MiB | own buffers, MiB |")
    print("|---|---|---|---|---|---|---|")
    for size, pixels, batch in MEMORY:
        config = ViTConfig.named(size, image_size=(pixels, pixels))
        N = config.prefix_tokens + config.grid[0] * config.grid[1]
        qkv = batch * N * 3 * config.embed_dim * 4 / 2**20
        weights = batch * config.num_heads * N * N * 4 / 2**20
        layers = config.depth
        own = {  # what must be there at once: recorded q, k and v, weights, and the logits that they are made of
            "weights of one layer": qkv + 2 * weights,
            "weights of all layers, all kept": layers * (qkv + weights) + weights,
            "maps of all layers and heads": layers * qkv + 3 * weights,
            "rollout": layers * qkv + 3 * weights,
        }
        base = own_process(size, pixels, batch, "bare forward", given.processes)
        print(f"| {size} | {pixels} | {batch} | bare forward | {base:.0f} | | |", flush=True)
        for way, buffers in own.items():
            peak = own_process(size, pixels, batch, way, given.processes)
            print(
                f"| {size} | {pixels} | {batch} | {way} | {peak:.0f} | {peak - base:+.0f} | {buffers:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
