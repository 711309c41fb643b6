"""The whole `vit finetune` beside a plain fp32 loop around timm with the same recipe, in turn: wall time and test accuracy.

    python benchmarks/finetune_speed.py TRAIN TEST WEIGHTS [--epochs 20] [--seeds 0,1,2] [--csv FILE]

TRAIN and TEST are class folders, or tar files of them; WEIGHTS is DeiT-Tiny/16 as published. Both sides: AdamW 5e-4, weight decay
0.05, layer decay 0.75, a tenth of the steps warm-up, cosine, drop path 0.1, random resized crops of 0.25 to 1, mirrored views,
smoothing 0.1, clipping at 1, batches of 32 at 224 pixels, equally many steps, and one process that prepares images. Ours holds a
tenth of the training images out and does all that the command does: audit, probe, evaluations, calibration, bundle and report.
Each run is a process of its own, its imports among its time; lines that `vit finetune` says are stamped, so that it can be seen
where its time goes. A run that is alone on the machine is what is meant.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path

BATCH, SIZE, WORKERS = 32, 224, 1


def timm_loop(train: str, test: str, weights: str, steps: int, seed: int) -> None:
    """The other side, in this process."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch

    from peers import peer

    warnings.simplefilter("ignore")
    timm = peer("timm")
    from safetensors.torch import load_file
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    from vitkit.schedules import schedule

    torch.manual_seed(seed)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    data = create_dataset("", train)
    same = {
        "input_size": (3, SIZE, SIZE), "batch_size": BATCH, "use_prefetcher": False, "mean": mean, "std": std,
        "interpolation": "bicubic", "num_workers": WORKERS, "persistent_workers": False,
    }  # fmt: skip
    batches = create_loader(data, is_training=True, scale=(0.25, 1.0), color_jitter=0.0, **same)
    model = timm.create_model("deit_tiny_patch16_224", num_classes=len(data.reader.class_to_idx), drop_path_rate=0.1)
    state = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("head.")}
    model.load_state_dict(state, strict=False)
    torch.nn.init.zeros_(model.head.weight)
    optimiser = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05, layer_decay=0.75)
    objective = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    step = 0
    while step < steps:
        for images, labels in batches:
            if step == steps:
                break
            for group in optimiser.param_groups:
                group["lr"] = schedule(step, steps, 5e-4, warmup=steps // 10) * group.get("lr_scale", 1.0)
            model.train()
            optimiser.zero_grad()
            objective(model(images), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
    model.eval()
    right = count = 0
    with torch.inference_mode():
        for images, labels in create_loader(create_dataset("", test), is_training=False, crop_pct=0.9, **same):
            right += int((model(images).argmax(1) == labels).sum())
            count += len(labels)
    print(json.dumps({"top1": right / count, "n": count}))


def timed(command: list[str]) -> tuple[float, list[tuple[float, str]]]:
    """(seconds of the process, its lines with the second each came)."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    lines = [(time.perf_counter() - began, line.rstrip()) for line in process.stdout]
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - began, lines


def folder_of(name: str, root: Path) -> Path:
    """Class folders, unpacked below ``root`` where they are in a tar file."""
    if Path(name).is_dir():
        return Path(name)
    with tarfile.open(name) as archive:
        archive.extractall(root, filter="data")
    (only,) = [path for path in root.iterdir() if path.is_dir()] if len(list(root.iterdir())) == 1 else [root]
    return only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("weights")
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sides", default="ours,timm")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--timm", nargs=2, type=int, metavar=("STEPS", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.timm:
        timm_loop(given.train, given.test, given.weights, *given.timm)
        return
    root = Path(tempfile.mkdtemp(prefix="finetune-speed-"))
    data = root / "data"
    data.mkdir()
    train, test = (folder_of(name, root / part) for name, part in ((given.train, "train"), (given.test, "test")))
    (data / "train").symlink_to(train.resolve())
    (data / "test").symlink_to(test.resolve())
    held_in = 0.9 * sum(1 for path in train.rglob("*") if path.is_file())  # ours trains on
    steps = round(given.epochs * held_in / 0.9 / BATCH)
    rows: list[dict[str, object]] = []
    for seed in map(int, given.seeds.split(",")):
        for side in given.sides.split(","):
            if side == "timm":
                same = [given.weights, "--timm", str(steps), str(seed)]
                seconds, lines = timed([sys.executable, __file__, str(train), str(test), *same])
                rows.append(
                    {"side": "timm fp32", "seed": seed, "wall_s": round(seconds, 1), **json.loads(lines[-1][1])}
                )
            else:
                run = root / f"run-{seed}"
                command = [
                    *(sys.executable, "-m", "vitkit", "finetune", str(data), "--model", given.weights, "-o", str(run)),
                    *("--seed", str(seed), "--epochs", str(steps * BATCH / held_in), "--workers", str(WORKERS)),
                    *("--image-size", str(SIZE), "--set", f"train_size={SIZE}"),
                ]
                seconds, lines = timed(command)
                for at, line in lines:
                    print(f"{at:7.1f} s  {line}")
                headline = json.loads((run / "report.json").read_text())["headline"]
                found = {"top1": headline["value"], "n": headline["n"]}
                rows.append({"side": "vit finetune", "seed": seed, "wall_s": round(seconds, 1), **found})
            print(rows[-1], flush=True)
    for side in dict.fromkeys(row["side"] for row in rows):
        own = [row for row in rows if row["side"] == side]
        walls, scores = ([float(str(row[key])) for row in own] for key in ("wall_s", "top1"))
        print(
            f"{side:13} median wall {statistics.median(walls):6.1f} s, mean top-1 {statistics.fmean(scores):.4f}, {steps} steps"
        )
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
