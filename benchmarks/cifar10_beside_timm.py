"""Whole runs of `vit pretrain cifar10_small` beside a plain float32 loop around timm's model, in turn.

    python benchmarks/cifar10_beside_timm.py CIFAR10 --out DIR [--seeds 2] [--epochs N]

CIFAR10 is a folder of Parquet tables. The loop is what one writes with timm and PyTorch alone: the same model, batch, epochs,
optimiser, schedule and clipping, images decoded by Pillow in a DataLoader with as many workers, cropped and mirrored by the same
function. Wall times are of whole processes, imports and scoring included. DIR gets table.json; a finished run is used again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


class Images(Dataset):
    """Rows of a Parquet table, as random views or as they are."""

    def __init__(self, path: Path, augment: object | None, seed: int) -> None:
        import pyarrow.parquet as pq

        from vitkit.data.pixels import Preprocess

        table = pq.read_table(path).to_pydict()
        self.images, self.labels = [row["bytes"] for row in table["image"]], table["label"]
        self.augment, self.record = augment, Preprocess((32, 32), fit="squash")
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import io

        from PIL import Image

        image = Image.open(io.BytesIO(self.images[index])).convert("RGB")
        pixels = np.asarray(image) if self.augment is None else self.augment(image, self.record, self.rng)
        return (torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5, self.labels[index]


def timm_run(data: Path, seed: int, epochs: float, out: Path) -> None:
    """Train and score; write the result."""
    from peers import peer
    from vitkit.recipes.book import find_recipe

    recipe = find_recipe("cifar10_small")
    c, o = recipe.model, recipe.optim
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peer("timm").models.VisionTransformer(
            img_size=32, patch_size=4, embed_dim=c.embed_dim, depth=c.depth, num_heads=c.num_heads, num_classes=10,
            mlp_ratio=c.mlp_dim / c.embed_dim, class_token=False, global_pool="avg", fc_norm=False,
        )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 683_050
    train = Images(next(data.glob("train*.parquet")), recipe.augment, seed)
    loader = DataLoader(train, recipe.batch_size, shuffle=True, num_workers=1, drop_last=True)
    steps = round(epochs * len(train) / recipe.batch_size)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=o.lr)
    warmup = round(o.warmup * steps)
    step = 0
    while step < steps:
        for images, labels in loader:
            rate = (
                min(1.0, step / max(1, warmup))
                * 0.5
                * (1 + math.cos(math.pi * max(0, step - warmup) / (steps - warmup)))
            )
            for group in optimiser.param_groups:
                group["lr"] = o.lr * rate
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), labels, label_smoothing=recipe.smoothing).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
            optimiser.step()
            step += 1
            if step == steps:
                break
    model.eval()
    hits, test = 0, DataLoader(Images(next(data.glob("test*.parquet")), None, 0), 256)
    with torch.no_grad():
        for images, labels in test:
            hits += int((model(images).argmax(1) == labels).sum())
    out.write_text(json.dumps({"top1": hits / 10_000}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--timm", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from vitkit.recipes.book import find_recipe

    epochs = given.epochs or find_recipe("cifar10_small").epochs
    if given.timm is not None:
        timm_run(given.data, given.timm, epochs, given.out)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    table = given.out / "table.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    vit = [
        sys.executable,
        "-c",
        "import sys; from vitkit.cli.main import main; sys.exit(main())",
        "pretrain",
        "cifar10_small",
    ]
    for seed in range(given.seeds):
        for name in ("timm", "vitkit"):
            if any((row["seed"], row["name"]) == (seed, name) for row in rows):
                continue
            place = given.out / f"{name}-{seed}"
            theirs = [sys.executable, __file__, str(given.data), "--timm", str(seed), "--epochs", str(epochs)]
            ours = [*vit, f"data={given.data}", f"seed={seed}", f"epochs={epochs:g}", "--workers", "1"]
            began = time.perf_counter()
            subprocess.run([*(ours if name == "vitkit" else theirs), "--out", str(place)], check=True)
            seconds = time.perf_counter() - began
            if name == "vitkit":
                rows_ = json.loads((place / "report.json").read_text())["rows"]
                (top1,) = (row["value"] for row in rows_ if row["metric"] == "top1")
            else:
                top1 = json.loads(place.read_text())["top1"]
            rows.append({"name": name, "seed": seed, "epochs": epochs, "top1": top1, "seconds": seconds})
            table.write_text(json.dumps(rows, indent=2) + "\n")
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
