"""Images per second of vitkit's engines beside timm, transformers, torchvision, torch.compile, OpenVINO, ONNX Runtime and JAX.

    python benchmarks/inference.py [--quick] [--rounds 15] [--seconds 0.15] [--others-seconds S] [--sizes Ti,S,B]
                                   [--batches 1,8,32] [--sides 'timm-*,vitkit-*'] [--jax PYTHON] [-o runs/inference]
    python benchmarks/inference.py --prepare        write the models and fill the caches, before the time of a measurement
    python benchmarks/inference.py --markdown runs/inference/rounds.csv ...

Nine cells: ViT-Ti/16, S/16, B/16 at 224 pixels, random weights, batches of 1, 8 and 32. Each side is a process of its own, told to
compute for ``--seconds`` in turn, in an order drawn anew each round, after a short warm-up where a batch is short. The base is timm
in eager mode in fp32; a ratio is of one round's two rates, and its median over rounds is told. The matrix peak is that of the best
oneDNN product, measured between the same rounds. Wherever --others-seconds is given, sides that only document (not `MAIN`) get as
many rounds of each cell as fit into so many seconds, and are left out where that is fewer than three.
OpenVINO and ONNX Runtime by hand run a batch of several images the faster of two ways, found before the first round.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from turns import Side, SideError, available_mb, machine, spread

BASE = "timm-fp32"
MAIN = (
    BASE, "openvino-fp32", "openvino-bf16", "onnxruntime-fp32", "vitkit-tuned-fp32", "vitkit-tuned-bf16", "vitkit-tuned-int8",
)  # fmt: skip
OTHERS = (
    "timm-autocast-bf16", "timm-bf16", "timm-compiled-fp32", "transformers-fp32", "torchvision-fp32", "onnxruntime-int8",
    "jax-fp32", "vitkit-eager-fp32", "vitkit-eager-bf16", "vitkit-openvino-fp32", "vitkit-openvino-bf16",
    "vitkit-openvino-int8", "vitkit-onnxruntime-fp32", "vitkit-onnxruntime-int8", "vitkit-cuda-fp32", "vitkit-cuda-bf16",
)  # fmt: skip
PEAKS = ("peak-fp32", "peak-bf16", "peak-int8")
FIELDS = (
    "size", "batch", "round", "side", "precision", "kind", "library", "rate", "seconds", "difference", "mb", "notes",
)  # fmt: skip
GFLOP = {"Ti": 2.5074, "S": 9.1978, "B": 35.1277}  # of one image: twice `vitkit.analysis.flops.forward_macs` at 224
REST, WARM, SHORT = 0.02, 0.05, 0.1  # seconds between sides; of warm-up, where a batch takes less than SHORT
SPARE_MB = 2500  # memory below which no side is started any more
Row = Mapping[str, Any]


def precision_of(side: str) -> str:
    return side.rpartition("-")[2]


def chosen(names: Sequence[str], patterns: str) -> list[str]:
    """The base, and what matches a pattern and none that begins with ``!``."""
    every = patterns.split(",")
    without = [pattern[1:] for pattern in every if pattern.startswith("!")]
    only = [pattern for pattern in every if not pattern.startswith("!")] or ["*"]
    return [
        name
        for name in names
        if name == BASE or (any(fnmatch(name, p) for p in only) and not any(fnmatch(name, p) for p in without))
    ]


def start(name: str, work: Path, jax: str | None) -> Side:
    python = jax if name.startswith("jax") and jax else sys.executable
    script = str(Path(__file__).with_name("sides.py"))
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"), "VITKIT_CACHE": str(work / "cache")}
    return Side(name, [python, script, name], work / "logs", **caches)


def prepare(work: Path, sizes: Sequence[str]) -> None:
    for size in sizes:
        if not (work / size / "ready").exists():
            script = Path(__file__).with_name("sides.py")
            subprocess.run([sys.executable, script, "--prepare", work / size, size], check=True)


def load_all(sides: Mapping[str, Side], size: str, batch: int, work: Path, out: dict[str, str]) -> dict[str, Any]:
    """What each side that can compute this cell says of itself; why the others cannot goes to ``out``."""
    ready: dict[str, Any] = {}
    for name, side in sides.items():
        if available_mb() < SPARE_MB:
            out[name] = f"less than {SPARE_MB} MB of memory are free"
            continue
        try:
            told = side.ask(folder=str(work / size), size=size, batch=batch)
        except SideError as error:
            out[name] = str(error)
            continue
        logits = np.load(work / size / "logits" / f"{name}-{batch}.npy")
        base = logits if name == BASE else np.load(work / size / "logits" / f"{BASE}-{batch}.npy")
        told["difference"] = float(np.abs(logits - base).max())
        ready[name] = told
    return ready


def shares(ready: Mapping[str, Any], rounds: int, seconds: float, budget: float | None) -> dict[str, set[int]]:
    """In which rounds each side computes."""
    others = [name for name in ready if name not in MAIN]
    cost = sum(REST + WARM + max(seconds, ready[name]["call"]) for name in others)
    count = rounds if budget is None or not others else min(rounds, int(budget / cost))
    part = spread(count if count >= min(3, rounds) else 0, rounds)
    return {name: part if name in others else set(range(rounds)) for name in ready}


def measure(
    sides: Mapping[str, Side], peaks: Mapping[str, Side], size: str, batch: int, ready: Mapping[str, Any], given: Any
) -> Iterable[dict[str, Any]]:
    """Rows of one cell."""
    turns = shares(ready, given.rounds, given.seconds, given.others_seconds)
    draw = random.Random(f"{size} {batch}")
    for number in range(given.rounds):
        names = [name for name in ready if number in turns[name]]
        if number % 3 == 0:
            names += peaks
        for name in draw.sample(names, len(names)):
            time.sleep(REST)
            cell = {"size": size, "batch": batch, "round": number, "side": name, "precision": precision_of(name)}
            if name in peaks:
                yield {**cell, "kind": "peak", "library": "oneDNN", **peaks[name].ask(seconds=given.seconds)}
                continue
            told = ready[name]
            warm = WARM if told["call"] < SHORT else 0.0
            kind = "peer" if told["ours"] is None else "ours" if told["ours"] else "wrapped"
            found = sides[name].ask(seconds=given.seconds, warm=warm)
            yield {
                **cell, "kind": kind, "library": told["library"], **found, "difference": told["difference"],
                "notes": "; ".join(told["notes"]),
            }  # fmt: skip


def run(given: argparse.Namespace) -> Path:
    """Measure every cell; each row is in the file as soon as it is known."""
    work, out = Path(given.work), Path(given.out)
    prepare(work, given.sizes)
    out.mkdir(parents=True, exist_ok=True)
    wanted = chosen((*MAIN, *OTHERS), given.sides)
    sides = {name: start(name, work, given.jax) for name in wanted}
    peaks = {name: start(name, work, None) for name in PEAKS}
    left_out: dict[str, dict[str, str]] = {}
    path = out / "rounds.csv"
    try:
        for name in list(peaks):
            try:
                peaks[name].ask(seconds=0.01)
            except SideError as error:
                left_out.setdefault("every cell", {})[name] = str(error)
                peaks.pop(name).close()
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
            writer.writeheader()
            for size, batch in given.cells:
                began, refused = time.perf_counter(), left_out.setdefault(f"{size} b{batch}", {})
                ready = load_all(sides, size, batch, work, refused)
                if BASE not in ready:
                    raise SystemExit(f"the base cannot be measured: {refused[BASE]}")
                loaded = time.perf_counter()
                for row in measure(sides, peaks, size, batch, ready, given):
                    writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
                    file.flush()
                end = time.perf_counter()
                print(
                    f"{size}/16 batch {batch}: {len(ready)} sides loaded in {loaded - began:.0f} s, "
                    f"{given.rounds} rounds in {end - loaded:.0f} s",
                    flush=True,
                )
    finally:
        for side in (*sides.values(), *peaks.values()):
            side.close()
    facts = {**machine(), "rounds": given.rounds, "seconds": given.seconds, "left_out": left_out}
    (out / "machine.json").write_text(json.dumps(facts, indent=2) + "\n")
    cells: dict[tuple[str, str], list[str]] = {}
    for cell, reasons in left_out.items():
        for pair in reasons.items():
            cells.setdefault(pair, []).append(cell)
    for (name, reason), where in cells.items():
        print(f"left out of {', '.join(where)}: {name}: {reason}")
    return path


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in paths:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                rows.append(
                    {**row, "batch": int(row["batch"]), "round": (str(path), row["round"]), "rate": float(row["rate"])}
                )
    return rows


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row per cell and side: median rate, median ratio to the base of the same round with its quartiles, share of the peak."""
    rates: dict[tuple[str, int, str], dict[Any, float]] = {}
    last: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        key = row["size"], row["batch"], row["side"]
        rates.setdefault(key, {})[row["round"]] = row["rate"]
        last[key] = row
    found = []
    for (size, batch, side), rounds in rates.items():
        if side in PEAKS:
            continue
        base = rates[size, batch, BASE]
        ratios = [rate / base[number] for number, rate in rounds.items()]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [ratios[0]] * 3
        peak = rates.get((size, batch, f"peak-{precision_of(side)}"))
        rate = statistics.median(rounds.values())
        row = last[size, batch, side]
        found.append({
            "size": size, "batch": batch, "side": side, "precision": precision_of(side), "kind": row["kind"],
            "rounds": len(ratios), "rate": rate, "ratio": ratio, "low": low, "high": high,
            "peak": rate * GFLOP[size] / statistics.median(peak.values()) if peak else None,
            "difference": float(row["difference"] or 0), "mb": float(row["mb"] or 0), "library": row["library"],
        })  # fmt: skip
    return found


def geometric_mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values)


def markdown(found: Sequence[Row]) -> str:
    """Tables of the ratios, of the shares of the matrix peak, and of differences and memory."""
    cells = list(dict.fromkeys((row["size"], row["batch"]) for row in found))
    order = (*MAIN, *OTHERS)
    by = {(row["size"], row["batch"], row["side"]): row for row in found}
    head = "| side | is | " + " | ".join(f"{size} b{batch}" for size, batch in cells) + " | mean |"
    lines = [head, "|---|---|" + "---|" * (len(cells) + 1)]
    base = [by[size, batch, BASE] for size, batch in cells]
    lines.append(f"| {BASE}, images/s | peer | " + " | ".join(f"{row['rate']:.1f}" for row in base) + " | |")
    for precision in ("fp32", "bf16", "int8"):
        for side in order:
            there = [by.get((*cell, side)) for cell in cells]
            known = [row for row in there if row]
            if side == BASE or precision_of(side) != precision or not known:
                continue
            entries = [f"{row['ratio']:.2f}" if row else "" for row in there]
            mean = f"{geometric_mean([row['ratio'] for row in known]):.2f}" if len(known) == len(cells) else ""
            bold = "**" * (known[0]["kind"] == "ours")
            lines.append(f"| {bold}{side}{bold} | {known[0]['kind']} | " + " | ".join(entries) + f" | {mean} |")
    lines += ["", "Share of the matrix peak of the same precision, measured between the same rounds:", ""]
    lines += [
        "| side | " + " | ".join(f"{size} b{batch}" for size, batch in cells) + " |",
        "|---|" + "---|" * len(cells),
    ]
    for side in order:
        there = [by.get((*cell, side)) for cell in cells]
        if any(row and row["peak"] for row in there):
            entries = [f"{row['peak']:.0%}" if row and row["peak"] else "" for row in there]
            lines.append(f"| {side} | " + " | ".join(entries) + " |")
    lines += ["", "| side | library | rounds | largest difference of a logit to timm fp32 | peak memory, MB |"]
    lines += ["|---|---|---|---|---|"]
    for side in order:
        known = [row for row in found if row["side"] == side]
        if known:
            counts = sorted({row["rounds"] for row in known})
            rounds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            most = max(row["difference"] for row in known)
            lines.append(
                f"| {side} | {known[0]['library']} | {rounds} | {most:.1e} | {max(r['mb'] for r in known):.0f} |"
            )
    return "\n".join(lines)


def goals(found: Sequence[Row]) -> str:
    """The figures that the issue of speed asks for, in words."""
    lines = []
    by = {(row["size"], row["batch"], row["side"]): row for row in found}
    for precision in ("fp32", "bf16", "int8"):
        own = [row for row in found if row["side"] == f"vitkit-tuned-{precision}"]
        if not own:
            continue
        least, large = min(own, key=lambda row: row["ratio"]), [row["ratio"] for row in own if row["size"] == "B"]
        text = f"tuned {precision}: geometric mean {geometric_mean([row['ratio'] for row in own]):.2f} over {len(own)} cells"
        text += f", least {least['ratio']:.2f} ({least['size']} b{least['batch']})"
        lines.append(text + (f", B/16 {min(large):.2f} to {max(large):.2f}" if large else ""))
        rivals = [name for name in (*MAIN, *OTHERS) if name.endswith(f"-{precision}") and not name.startswith("vitkit")]
        for row in own:
            there = [by[row["size"], row["batch"], name] for name in rivals if (row["size"], row["batch"], name) in by]
            best = max(there, key=lambda other: other["ratio"], default=None)
            if best and best["ratio"] > row["ratio"]:
                cell = f"{row['size']} b{row['batch']}"
                lines.append(
                    f"  {cell}: {row['ratio'] / best['ratio'] - 1:+.0%} against {best['side']} ({best['ratio']:.2f})"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds of 3 cells, to steer by")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--others-seconds", type=float, help="of each cell, for sides that only document")
    parser.add_argument("--sizes", default="Ti,S,B")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--sides", default="*", help="patterns, comma-separated; !PATTERN leaves out")
    parser.add_argument("--jax", metavar="PYTHON", help="an interpreter with jax and numpy; default: this one")
    parser.add_argument("--work", default="runs/inference-models", help="models in every format; kept")
    parser.add_argument("-o", "--out", default="runs/inference")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--markdown", nargs="+", metavar="CSV", type=Path, help="measure nothing, print the tables")
    given = parser.parse_args()
    given.sizes = given.sizes.split(",")
    given.cells = [(size, int(batch)) for size in given.sizes for batch in given.batches.split(",")]
    if given.quick:
        given.rounds, given.sizes, given.cells = 3, ["Ti", "B"], [("Ti", 1), ("Ti", 8), ("B", 8)]
    if given.prepare:
        given.rounds, given.out = 0, f"{given.out}-prepare"
        run(given)
        return
    found = summarise(read(given.markdown or [run(given)]))
    print(markdown(found), goals(found), sep="\n\n")


if __name__ == "__main__":
    main()
