"""Peak memory and time of a training step: microbatches, recomputed activations, and parts of the model on two ranks (FSDP2).

    python benchmarks/memory.py [--size S] [--batch 32] [--steps 3]

Each row is a process of its own (two for ranks), of a model of the given size with patches of 16 at 224 x 224 and AdamW in
float32; peak is the resident set of the process above that before the model was made. Without a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

ROWS = (
    ("one process, whole batch", 1, None, False, False),
    ("one process, microbatches of a quarter", 1, 4, False, False),
    ("one process, microbatches of an eighth", 1, 8, False, False),
    ("one process, activations recomputed", 1, None, True, False),
    ("one process, a quarter, recomputed", 1, 4, True, False),
    ("two ranks, whole model each", 2, 4, False, False),
    ("two ranks, FSDP2", 2, 4, False, True),
    ("two ranks, FSDP2, recomputed", 2, 4, True, True),
)


def measure(given: argparse.Namespace) -> None:
    """One row: print this rank's figures."""
    importlib.import_module("torch.distributed.fsdp")  # of every row, so that it is in what is subtracted

    from vitkit.data.loader import Batch
    from vitkit.models.vit import VisionTransformer, ViTConfig
    from vitkit.objectives.classify import Classify
    from vitkit.optim import OptimConfig
    from vitkit.parallel.world import session
    from vitkit.train import TrainConfig, start, step_once

    _, ranks, parts, recomputed, sharded = ROWS[given.row]
    torch.set_num_threads(max(1, 2 // ranks))
    with session(600, print) as world:
        before = psutil.Process().memory_info().rss
        model = VisionTransformer(ViTConfig.named(f"{given.size}/16", num_classes=1000))
        model.init_weights(0)
        micro = given.batch // (parts or 1)
        config = TrainConfig(
            1000, given.batch, micro, 0, 1000, 0, "fp32", True, OptimConfig(), activation_checkpointing=recomputed
        )
        state = start(model, config, world, sharded=sharded)
        own = world.part(given.batch, micro)
        batch = Batch(torch.randn(len(own), 3, 224, 224), torch.arange(len(own)), torch.tensor(own))
        times = []
        for _ in range(given.steps + 1):
            begin = time.perf_counter()
            step_once(state, config, Classify(), batch, world)
            state.step += 1
            times.append(time.perf_counter() - begin)
        high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(
            "ROW", json.dumps({"mib": int(high.split()[1]) / 1024 - before / 2**20, "s": statistics.median(times[1:])})
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="S")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row is not None:
        measure(given)
        return
    print(
        f"{given.size}/16 at 224, batch {given.batch}, float32\n\n| | peak of a rank, MiB | s a step |\n|---|---|---|"
    )
    for number, (name, ranks, *_) in enumerate(ROWS):
        same = [__file__, *sys.argv[1:], "--row", str(number)]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        out = subprocess.run(
            [sys.executable, *launcher, *same], env=os.environ, capture_output=True, text=True, check=True
        )
        rows = [json.loads(line.split("ROW ")[1]) for line in out.stdout.splitlines() if "ROW" in line]
        print(f"| {name} | {max(row['mib'] for row in rows):.0f} | {max(row['s'] for row in rows):.2f} |", flush=True)


if __name__ == "__main__":
    main()
