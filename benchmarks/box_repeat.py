"""Does the recipe `box` repeat itself? Its first 200 losses, computed again, beside those that the released bundle keeps.

    python benchmarks/box_repeat.py TINY_IMAGENET [--out DIR]

The first run of the two, box_16, is begun and ended after 200 steps. Losses are equal bit for bit on a machine like the one that
made the bundle (plan and library versions are in its training.json); elsewhere sums are rounded in another order, and the script
says from which step on.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitkit.zoo.box import PLACE

LIMIT = 1_800  # seconds


def losses_of(run: Path, steps: int) -> list[float]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()[: steps + 20] if path.exists() else []
    try:
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line][:steps]
    except ValueError:  # a line under way
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, help="where the run is kept; else it is thrown away")
    given = parser.parse_args()
    wanted = json.loads((PLACE / "training.json").read_text())["first_losses"]
    with tempfile.TemporaryDirectory() as folder:
        run = (given.out or Path(folder)) / "run"
        command = [sys.executable, "-m", "vitkit", "pretrain", "box_16", f"data={given.data}", "--out", str(run)]
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        while len(losses_of(run, len(wanted))) < len(wanted) and job.poll() is None:
            if time.monotonic() - began > LIMIT:
                break
            time.sleep(1)
        if job.poll() is None:
            job.send_signal(signal.SIGINT)
            job.wait(60)
        found = losses_of(run, len(wanted))
    equal = [a == b for a, b in zip(found, wanted, strict=False)]
    if len(found) == len(wanted) and all(equal):
        print(f"{len(found)} losses, equal bit for bit: {found[0]!r} ... {found[-1]!r}")
        return
    first = equal.index(False) if False in equal else len(equal)
    apart = max((abs(a - b) for a, b in zip(found, wanted, strict=False)), default=0.0)
    print(f"{len(found)} of {len(wanted)} losses; equal to step {first}, then by up to {apart:.2e} apart")
    sys.exit(1)


if __name__ == "__main__":
    main()
