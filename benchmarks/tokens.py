"""Time of one image and attention's share of it for 64 to 1,024 pixels: where attention begins to dominate.

    python benchmarks/tokens.py [--quick] [--sizes Ti,B] [--pixels 64,...,1024] [--rounds 5] [-o runs/tokens]
    python benchmarks/tokens.py --markdown runs/tokens/tokens.csv

Patches of 16, one image, random weights, fp32. Counted: of the multiply-adds of one forward, those of the products of queries with
keys and of weights with values. Measured: the forward of plain PyTorch, with its fused attention and with plain products, less that
of the same model whose attention gives back its values, in turns; and the time of each engine named by --engines.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np

from turns import machine

FIELDS = ("size", "pixels", "tokens", "counted", "round", "way", "seconds")
PIXELS = (64, 128, 224, 256, 320, 384, 512, 640, 768, 896, 1024)
NONE, FUSED, PLAIN = "no attention", "fused attention", "plain products"


def counted_share(config: Any) -> float:
    """Attention's part of the multiply-adds of one forward."""
    from vitkit.analysis.flops import forward_macs

    tokens = config.prefix_tokens + config.grid[0] * config.grid[1]
    return float(config.depth * 2 * tokens**2 * config.embed_dim / forward_macs(config))


def without_attention(self: Any, x: Any) -> Any:
    """What `Attention.forward` does but for the products of tokens with tokens: every token reads itself."""
    B, N, D = x.shape
    _, _, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    return self.proj(v.transpose(1, 2).reshape(B, N, D))


def ways(size: str, pixels: int, engines: Sequence[str]) -> tuple[Any, dict[str, Callable[[], Any]]]:
    """The configuration, and each way to compute one image."""
    import torch

    from vitkit.bundle import Bundle
    from vitkit.data.pixels import Preprocess
    from vitkit.engines.book import make_engine
    from vitkit.models.vit import Attention, VisionTransformer, ViTConfig

    config = ViTConfig.named(f"{size}/16", image_size=(pixels, pixels))
    model = VisionTransformer(config)
    model.init_weights(0)
    model.eval()
    image = np.random.default_rng(0).standard_normal((1, 3, pixels, pixels), np.float32)
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    whole = [module.forward for module in attentions]

    def way(kind: str) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> None:
            for module, forward in zip(attentions, whole, strict=True):
                module.forward = MethodType(without_attention, module) if kind == NONE else forward
                module.fused = kind == FUSED
            model(torch.from_numpy(image))

        return run

    found = {kind: way(kind) for kind in (NONE, FUSED, PLAIN)}
    bundle = Bundle(model, Preprocess((pixels, pixels)), source=f"random weights, {size}/16, {pixels} px")
    for name in engines:
        if name != "eager":  # that is this very model, fused
            engine = make_engine(bundle, name, "fp32")
            found[f"engine {name}"] = lambda engine=engine: engine(image)
    return config, found


def timed(run: Callable[[], Any], least: float = 0.05) -> float:
    """Seconds of one call: the mean of as many as take ``least`` seconds."""
    count, began = 0, time.perf_counter()
    while not count or time.perf_counter() - began < least:
        run()
        count += 1
    return (time.perf_counter() - began) / count


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    for size in given.sizes:
        for pixels in given.pixels:
            config, runs = ways(size, pixels, given.engines)
            tokens = config.prefix_tokens + config.grid[0] * config.grid[1]
            cell = {"size": size, "pixels": pixels, "tokens": tokens, "counted": round(counted_share(config), 5)}
            for run in runs.values():
                run()
            for number in range(given.rounds):
                for name in draw.sample(list(runs), len(runs)):
                    yield {**cell, "round": number, "way": name, "seconds": round(timed(runs[name]), 6)}
            print(f"{size}/16 at {pixels} pixels done", flush=True)


def run(given: argparse.Namespace) -> Path:
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "tokens.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in measure(given):
            writer.writerow(row)
            file.flush()
    (out / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")
    return path


def summarise(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Per size and pixels: median times, and attention's share of the time with each kernel, the median of rounds."""
    times: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    facts: dict[tuple[str, int], Mapping[str, str]] = {}
    for row in rows:
        key = row["size"], int(row["pixels"])
        times.setdefault(key, {}).setdefault(row["way"], {})[row["round"]] = float(row["seconds"])
        facts[key] = row
    found = []
    for (size, pixels), each in times.items():
        share = {
            kind: max(0.0, statistics.median(1 - each[NONE][number] / whole for number, whole in each[kind].items()))
            for kind in (FUSED, PLAIN)
        }
        found.append({
            "size": size, "pixels": pixels, "tokens": int(facts[size, pixels]["tokens"]),
            "counted": float(facts[size, pixels]["counted"]), "share": share,
            "ms": {name: 1000 * statistics.median(numbers.values()) for name, numbers in each.items()},
        })  # fmt: skip
    return found


def crossover(points: Sequence[tuple[float, float]], half: float = 0.5) -> float | None:
    """The pixels at which a share, given as (pixels, share), first passes a half, between the two around it in proportion."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if y0 < half <= y1:
            return x0 + (half - y0) / (y1 - y0) * (x1 - x0)
    return None


def dominates(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where attention is half of the work, of each size, in words."""
    from vitkit.models.vit import SIZES

    lines = []
    for size in dict.fromkeys(row["size"] for row in found):
        rows = [row for row in found if row["size"] == size]
        parts = [("multiply-adds", [(row["pixels"], row["counted"]) for row in rows])]
        parts += [(f"time, {kind}", [(row["pixels"], row["share"][kind]) for row in rows]) for kind in (FUSED, PLAIN)]
        told = []
        for what, points in parts:
            at = crossover(points)
            told.append(f"{what} at {at:.0f} pixels" if at else f"{what} not up to {points[-1][0]} pixels")
        D, M = SIZES[size][0], SIZES[size][2]
        tokens = (4 * D * D + 2 * D * M) / (2 * D)  # as many multiply-adds in both parts of a block
        told.append(
            f"a block's multiply-adds in equal parts at {tokens:.0f} tokens, {16 * math.sqrt(tokens - 1):.0f} pixels"
        )
        lines.append(f"{size}/16: attention is half of the {'; '.join(told)}.")
    return lines


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    engines = list(dict.fromkeys(name for row in found for name in row["ms"] if name.startswith("engine ")))
    heads = ["model", "pixels", "tokens", "fused, ms", "plain, ms", *(f"{name}, ms" for name in engines)]
    heads += ["attention's share: counted", "of time, fused", "of time, plain"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found:
        ms = [f"{row['ms'][name]:.1f}" if name in row["ms"] else "" for name in (FUSED, PLAIN, *engines)]
        shares = [f"{row['counted']:.0%}", f"{row['share'][FUSED]:.0%}", f"{row['share'][PLAIN]:.0%}"]
        entries = [f"{row['size']}/16", f"{row['pixels']:,}", f"{row['tokens']:,}", *ms, *shares]
        lines.append(f"| {' | '.join(entries)} |")
    return "\n".join([*lines, "", *dominates(found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 rounds of Ti at 4 sizes")
    parser.add_argument("--sizes", default="Ti,B")
    parser.add_argument("--pixels", default=",".join(map(str, PIXELS)))
    parser.add_argument("--engines", default="eager", help="also timed, comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--out", default="runs/tokens")
    parser.add_argument("--markdown", metavar="CSV", type=Path, help="measure nothing, print the table")
    given = parser.parse_args()
    given.sizes, given.engines = given.sizes.split(","), given.engines.split(",")
    given.pixels = [int(number) for number in given.pixels.split(",")]
    if given.quick:
        given.rounds, given.sizes, given.pixels = 2, ["Ti"], [64, 224, 512, 1024]
    with open(given.markdown or run(given), newline="") as file:
        print(markdown(summarise(list(csv.DictReader(file)))))


if __name__ == "__main__":
    main()
