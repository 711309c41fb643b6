"""ViT-B/16 from a file of timm's layout into a model: time and peak memory of our loading against a bare load.

    python benchmarks/load_weights.py [--model B/16] [--rounds 7] [--suffix .safetensors]

load: `load_model(file)` as `vitkit.load` calls it, recognising the file. read: `open_weights(...).read()` into a model made on
the meta device. bare: the module made as usual, and `safetensors.torch.load_file` (or `torch.load`, or NumPy) with
`load_state_dict`. Each in a process of its own, in turn; medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from vitkit.converters import timm
from vitkit.converters.engine import decode, encode
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.files import open_weights, write_weights
from vitkit.weights.fill import fill
from vitkit.zoo.load import load_model


def load(_config: ViTConfig, path: Path) -> VisionTransformer:
    return load_model(path).model


def read(config: ViTConfig, path: Path) -> VisionTransformer:
    with torch.device("meta"):
        model = VisionTransformer(config)
    fill(model, decode(open_weights(path).read(), timm.rules(config), str(path)), str(path))
    return model


def bare(config: ViTConfig, path: Path) -> VisionTransformer:
    model = VisionTransformer(config)
    if path.suffix == ".safetensors":
        model.load_state_dict(decode(load_file(path), timm.rules(config), str(path)))
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            model.load_state_dict(decode(state, timm.rules(config), str(path)))
    else:
        model.load_state_dict(decode(torch.load(path, weights_only=True), timm.rules(config), str(path)))
    return model


def measure(which: str, name: str, path: Path) -> None:
    """In a process of its own: seconds, and MiB at the peak and at the start."""
    import psutil  # noqa: F401 - imported by ours when it reads; imports are not what is measured

    config = ViTConfig.named(name)
    start = peak_rss()
    begin = time.perf_counter()
    model = {"load": load, "read": read, "bare": bare}[which](config, path)
    seconds = time.perf_counter() - begin
    peak = peak_rss()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    print(json.dumps({"seconds": seconds, "peak": peak, "start": start}))


def peak_rss() -> float:
    """MiB so far, pages of mapped files included; getrusage would count those of the parent before this process began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="B/16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--suffix", default=".safetensors")
    parser.add_argument("--measure", nargs=2, metavar=("WHICH", "PATH"))
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], arguments.model, Path(arguments.measure[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"model{arguments.suffix}")
        model = VisionTransformer(ViTConfig.named(arguments.model))
        model.init_weights(0)
        write_weights(path, encode(model.state_dict(), timm.rules(model.config)))
        print(f"{arguments.model}, {path.stat().st_size / 1e6:.0f} MB {arguments.suffix}, {arguments.rounds} rounds")
        found: dict[str, list[dict[str, float]]] = {"load": [], "read": [], "bare": []}
        for round_ in range(arguments.rounds + 1):
            for which in found:
                command = [sys.executable, __file__, "--model", arguments.model, "--measure", which, str(path)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                if round_:  # the first reads the file into the system's cache
                    found[which].append(json.loads(done.stdout))
    medians = {
        which: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for which, rows in found.items()
    }
    for which, row in medians.items():
        print(
            f"{which}  {row['seconds']:.3f} s  peak {row['peak']:.0f} MiB, {row['peak'] - row['start']:.0f} above imports"
        )
    b = medians["bare"]
    for which, a in medians.items():
        print(
            f"{which} / bare: time {a['seconds'] / b['seconds']:.2f}, peak {a['peak'] / b['peak']:.2f}, "
            f"peak above imports {(a['peak'] - a['start']) / (b['peak'] - b['start']):.2f}"
        )


if __name__ == "__main__":
    main()
