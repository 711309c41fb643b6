"""Figures of what the other programs measured.

python benchmarks/plots.py [--inference runs/inference/rounds.csv ...] [--tokens runs/tokens/tokens.csv] [-o docs/results/figures]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import inference
import tokens
from vitkit.analysis.draw import drawing, line_style

__all__ = ["draw_inference", "draw_tokens"]

KINDS = {"ours": ("#00204d", "o"), "wrapped": ("#5b6fa8", "^"), "peer": ("#b8860b", "s")}


def draw_inference(found: Sequence[Mapping[str, Any]], stem: Path) -> tuple[Path, Path]:
    """Ratio to timm's eager fp32: a panel for each cell, a line for each side, the quartiles of rounds as a bar."""
    sizes = list(dict.fromkeys(row["size"] for row in found))
    batches = sorted({row["batch"] for row in found})
    there = {row["side"] for row in found}
    sides = [name for name in (*inference.MAIN, *inference.OTHERS) if name in there and name != inference.BASE]
    ranks = {"fp32": 0, "bf16": 1, "int8": 2}
    sides.sort(key=lambda name: ranks[inference.precision_of(name)], reverse=True)  # fp32 at the top
    width, height = 2.2 + 2.3 * len(batches), 0.6 + len(sizes) * (0.17 * len(sides) + 0.5)
    with drawing(width, height, len(sizes), len(batches), sharex=True, sharey=True) as figure:
        for size, line in zip(sizes, figure.axes, strict=True):
            for batch, axes in zip(batches, line, strict=True):
                rows = {row["side"]: row for row in found if (row["size"], row["batch"]) == (size, batch)}
                axes.axvline(1.0, color="#888888", linewidth=0.8)
                for place, name in enumerate(sides):
                    if name not in rows:
                        continue
                    row = rows[name]
                    colour, marker = KINDS[row["kind"]]
                    axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.2)
                    axes.plot([row["ratio"]], [place], color=colour, marker=marker, linestyle="none")
                axes.set_title(f"{size}/16, batch {batch}")
                axes.set_yticks(range(len(sides)), sides, fontsize=6)
                axes.set_xlim(left=0)
        for axes in figure.axes[-1]:
            axes.set_xlabel("times timm eager fp32")
        for kind, (colour, marker) in KINDS.items():
            figure.axes[0, -1].plot([], [], color=colour, marker=marker, linestyle="none", label=kind)
        figure.axes[0, -1].legend(loc="upper right")
        return figure.save(stem)


def draw_tokens(found: Sequence[Mapping[str, Any]], stem: Path) -> tuple[Path, Path]:
    """Time of one image, and attention's share of it, against pixels."""
    sizes = list(dict.fromkeys(row["size"] for row in found))
    with drawing(7.0, 3.0, 1, 2) as figure:
        times, shares = figure.axes[0]
        for number, size in enumerate(sizes):
            rows = [row for row in found if row["size"] == size]
            pixels = [row["pixels"] for row in rows]
            for kind, offset in ((tokens.FUSED, 0), (tokens.PLAIN, 1)):
                style = line_style(2 * number + offset)
                times.plot(pixels, [row["ms"][kind] / 1000 for row in rows], label=f"{size}/16, {kind}", **style)
                shares.plot(pixels, [100 * row["share"][kind] for row in rows], label=f"{size}/16, {kind}", **style)
            counted = [100 * row["counted"] for row in rows]
            shares.plot(
                pixels,
                counted,
                label=f"{size}/16, counted",
                color="#888888",
                linewidth=0.9,
                linestyle=(0, (1, 1 + number)),
            )
        shares.axhline(50, color="#888888", linewidth=0.8)
        times.set(yscale="log", xlabel="pixels a side", ylabel="seconds an image")
        shares.set(xlabel="pixels a side", ylabel="attention's share, %", ylim=(0, 100))
        times.legend()
        shares.legend()
        return figure.save(stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inference", nargs="+", type=Path, default=[Path("runs/inference/rounds.csv")])
    parser.add_argument("--tokens", type=Path, default=Path("runs/tokens/tokens.csv"))
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/figures"))
    given = parser.parse_args()
    if all(path.exists() for path in given.inference):
        print(*draw_inference(inference.summarise(inference.read(given.inference)), given.out / "inference"))
    if given.tokens.exists():
        with open(given.tokens, newline="") as file:
            print(*draw_tokens(tokens.summarise(list(csv.DictReader(file))), given.out / "tokens"))


if __name__ == "__main__":
    main()
