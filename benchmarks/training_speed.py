"""A training step of ours beside timm's in fp32 and under bf16 autocast, in turn; and 200 losses on real images beside fp32's.

    python benchmarks/training_speed.py [--cells Ti,S,patch4] [--sides ours,...] [--rounds 15] [--csv FILE]
    python benchmarks/training_speed.py --losses DATA [--cells patch4] [--steps 200]

Each side is a process of its own, so that its memory is its own, and waits while the others run. A step is forward, backward
and AdamW; ours is `train.step_once` as every command calls it, with clipping and its checks. Ratios are medians of paired rounds
to timm in fp32. The matrix peak is that of bf16 products in the same run; a step is counted as three forward passes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from vitkit.analysis.flops import forward_macs
from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.train import TrainConfig, best_blocks, best_precision, start, step_once


class Cell(NamedTuple):
    """A model, and how many images a step takes."""

    config: ViTConfig
    batch: int


CELLS = {
    "Ti": Cell(ViTConfig.named("Ti/16"), 32),
    "S": Cell(ViTConfig.named("S/16"), 16),
    "patch4": Cell(
        ViTConfig(
            embed_dim=192, depth=12, num_heads=3, mlp_dim=768, patch_size=(4, 4), image_size=(32, 32), num_classes=10
        ),
        256,
    ),
}
BASE = "timm fp32"
SIDES = (BASE, "timm bf16", "ours")
MORE = ("ours fp32", "ours bf16 fused", "ours uncompiled")  # on request


def random_batch(cell: Cell) -> Batch:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(cell.batch, 3, *cell.config.image_size, generator=rng)
    labels = torch.randint(0, cell.config.num_classes, (cell.batch,), generator=rng)
    return Batch(images, labels, torch.arange(cell.batch))


def plan(cell: Cell, precision: str, fused: bool, steps: int = 1000, *, compiled: bool = True) -> TrainConfig:
    compiled = compiled and best_blocks(precision)
    return TrainConfig(steps, cell.batch, cell.batch, 0, steps, 0, precision, fused, compiled_blocks=compiled)


def our_step(cell: Cell, side: str) -> Callable[[], float]:
    kinds = {"ours fp32": ("fp32", True), "ours bf16 fused": ("bf16", True)}
    precision, fused = kinds.get(side, best_precision())
    model = VisionTransformer(cell.config)
    model.init_weights(0)
    config, batch = plan(cell, precision, fused, compiled=side == "ours"), random_batch(cell)
    state = start(model, config)

    def step() -> float:
        loss, _ = step_once(state, config, Classify(), batch)
        state.step += 1
        return loss

    return step


def timm_step(cell: Cell, side: str) -> Callable[[], float]:
    from peers import peer

    c = cell.config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peer("timm").models.VisionTransformer(
            img_size=c.image_size, patch_size=c.patch_size[0], embed_dim=c.embed_dim, depth=c.depth,
            num_heads=c.num_heads, mlp_ratio=c.mlp_dim / c.embed_dim, num_classes=c.num_classes,
        )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    images, labels, _ = random_batch(cell)

    def step() -> float:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=side.endswith("bf16")):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def peak_step() -> Callable[[], float]:
    """Products of 2048 x 2048 matrices; what is returned is GFLOP/s."""
    n = 2048
    left, right = torch.randn(n, n).bfloat16(), torch.randn(n, n).bfloat16()

    def step() -> float:
        began = time.perf_counter()
        for _ in range(10):
            left @ right
        return 20 * n**3 / (time.perf_counter() - began) / 1e9

    return step


def serve(cell: Cell, side: str) -> None:
    """A side's process: for every line a step; its seconds, what it returned, and the memory it ever held."""
    step = peak_step() if side == "peak" else (our_step if side.startswith("ours") else timm_step)(cell, side)
    for _ in sys.stdin:
        began = time.perf_counter()
        value = step()
        seconds = time.perf_counter() - began
        high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(json.dumps({"seconds": seconds, "value": value, "mib": int(high.split()[1]) / 1024}), flush=True)


def ask(process: subprocess.Popen[str], count: int) -> dict[str, float]:
    """So many steps of a side; the fastest speaks for the turn, after one that warms up."""
    assert process.stdin is not None
    assert process.stdout is not None
    rows = []
    for _ in range(count):
        process.stdin.write("step\n")
        process.stdin.flush()
        rows.append(json.loads(process.stdout.readline()))
    timed = rows[1:] or rows
    return {**rows[-1], "seconds": statistics.median(row["seconds"] for row in timed)}


def compare(name: str, sides: list[str], rounds: int, steps: int) -> list[dict[str, object]]:
    cell = CELLS[name]
    same = [sys.executable, __file__, "--cells", name, "--serve"]
    running = {
        side: subprocess.Popen([*same, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side in [*sides, "peak"]
    }
    found: dict[str, list[dict[str, float]]] = {side: [] for side in running}
    try:
        for round_ in range(rounds + 1):
            for side, process in running.items():
                row = ask(process, steps + 1)
                if round_:  # the first round warms up
                    found[side].append(row)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    peak = max(row["value"] for row in found["peak"])
    flops = 6 * forward_macs(cell.config)
    out: list[dict[str, object]] = []
    for side in sides:
        rates = [cell.batch / row["seconds"] for row in found[side]]
        ratios = [base["seconds"] / row["seconds"] for base, row in zip(found[sides[0]], found[side], strict=True)]
        rate = statistics.median(rates)
        out.append(
            {
                "cell": name, "side": side, "images_per_s": round(rate, 2), "ratio": round(statistics.median(ratios), 3),
                "low": round(sorted(ratios)[len(ratios) // 4], 3), "high": round(sorted(ratios)[-1 - len(ratios) // 4], 3),
                "peak_mib": round(found[side][-1]["mib"]), "share_of_bf16_peak": round(rate * flops / peak / 1e9, 3),
            }
        )  # fmt: skip
    return out


def losses(data: str, name: str, steps: int, batch: int | None) -> dict[str, object]:
    """Mean loss of the same steps in fp32 and in what trains fastest here, on views of the data's training images."""
    from vitkit.data.augment import Augment
    from vitkit.data.loader import training_batches
    from vitkit.data.pixels import Preprocess
    from vitkit.datasets.book import read_data

    cell = CELLS[name]._replace(batch=batch or CELLS[name].batch)
    source = read_data(data, partial=True)
    samples = source.splits.get("train") or source.splits["all"]
    cell = cell._replace(config=dataclasses.replace(cell.config, num_classes=len(source.classes)))
    batches = training_batches(
        samples, Preprocess(cell.config.image_size), Augment(crop_area=0.35), batch_size=cell.batch, steps=range(steps),
        seed=0, workers=0,
    )  # fmt: skip
    states = []
    for precision, fused in (("fp32", True), best_precision()):
        model = VisionTransformer(cell.config)
        model.init_weights(0)
        config = plan(cell, precision, fused, steps)
        states.append((start(model, config), config))
    rows = []
    for batch in batches:
        found = []
        for state, config in states:
            found.append(step_once(state, config, Classify(), batch)[0])
            state.step += 1
        rows.append(found)
        if len(rows) % 20 == 0:
            print(f"step {len(rows)}: fp32 {found[0]:.4f}, ours {found[1]:.4f}", file=sys.stderr, flush=True)
    full, ours = (statistics.fmean(row[i] for row in rows) for i in (0, 1))
    worst = max(abs(a - b) for a, b in rows)
    return {
        "cell": name,
        "batch": cell.batch,
        "steps": steps,
        "fp32": full,
        "ours": ours,
        "difference": ours - full,
        "worst step": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--sides", default=",".join(SIDES), help=f"also {', '.join(MORE)}; the first one is the base")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, help="of a turn, beside one that warms up; of --losses: 200")
    parser.add_argument("--batch", type=int, help="images of a step of --losses, if fewer than the cell's")
    parser.add_argument("--losses", metavar="DATA", help="images of classes, as vit finetune takes them")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.cells.split(",")
    if given.serve:
        serve(CELLS[names[0]], given.serve)
        return
    if given.losses:
        rows = [losses(given.losses, name, given.steps or 200, given.batch) for name in names]
    else:
        rows = [row for name in names for row in compare(name, given.sides.split(","), given.rounds, given.steps or 1)]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(
            "| "
            + " | ".join(f"{v:.4f}" if isinstance(v, float) and given.losses else str(v) for v in row.values())
            + " |"
        )
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
