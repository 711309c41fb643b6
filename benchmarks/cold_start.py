"""The first prediction of a cold process: whole processes, sides in turn, medians.

    python benchmarks/cold_start.py MODEL.safetensors PHOTO --rounds 15 --csv cold.csv

The peers are what their users run: transformers' image-classification pipeline on a converted folder, and a script on timm.
An engine's first process writes its graph and is listed apart; the rounds after it find the graph.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitkit.engines.book import missing
from vitkit.jobs.convert import convert

MEND = """
import torch
operators = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms", "qnms"):
    operators.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
TRANSFORMERS = """
import sys
from transformers import pipeline
print(pipeline("image-classification", model=sys.argv[1])(sys.argv[2])[0])
"""
TIMM = """
import sys
import timm, torch
from PIL import Image
model = timm.create_model("deit_tiny_patch16_224", checkpoint_path=sys.argv[1]).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    print(model(prepare(Image.open(sys.argv[2]).convert("RGB"))[None]).softmax(1).max(1))
"""
VIT = "import sys; from vitkit.cli.main import main; sys.exit(main(sys.argv[1:]))"


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Wall time of a process from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path, help="a timm checkpoint of DeiT-Tiny")
    arguments.add_argument("photo", type=Path)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument(
        "--engines", default="eager,tuned,openvino,onnxruntime", help="those that are missing are left out"
    )
    arguments.add_argument("--csv", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert(given.model, folder / "huggingface", to="huggingface")
        shutil.copytree(given.model.parent, folder / "model")
        run = [sys.executable, "-c"]
        model = folder / "model" / given.model.name
        photo = str(given.photo)
        # A torchvision beside a torch of another build fails at import for want of two operators, and these peers with it.
        whole = subprocess.run([*run, "import torchvision"], capture_output=True, check=False).returncode == 0
        mend = "" if whole else MEND
        sides = {
            "transformers pipeline": [*run, mend + TRANSFORMERS, str(folder / "huggingface"), photo],
            "timm script": [*run, mend + TIMM, str(model), photo],
            "vit predict": [*run, VIT, "predict", str(model), photo],
        }
        for engine in given.engines.split(","):
            if engine and not missing(engine):
                sides[f"vit predict --engine {engine}"] = [*sides["vit predict"], "--engine", engine]
        environment = {**os.environ, "VITKIT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path[1:])
        first = {side: seconds(command, environment) for side, command in sides.items()}
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(given.rounds):
            for side, command in sides.items():
                taken[side].append(seconds(command, environment))
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
        base = statistics.median(taken["transformers pipeline"])
        rows = [
            (side, first[side], median := statistics.median(each), min(each), max(each), median / base)
            for side, each in taken.items()
        ]
    head = ("side", "first", "median", "least", "most", "of transformers")
    print(f"{head[0]:36}" + "".join(f"{word:>16}" for word in head[1:]))
    for side, *values in rows:
        print(f"{side:36}" + "".join(f"{value:16.3f}" for value in values))
    if given.csv:
        with given.csv.open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])


if __name__ == "__main__":
    main()
