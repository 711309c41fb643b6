"""Steps of `vit pretrain cifar10_small` beside those of a plain fp32 loop around timm's model, in turn.

    python benchmarks/recipe_speed.py CIFAR10_FOLDER [--tensors] [--microbatch 128 64 ...]

Both read the same files. Ours makes its views as the recipe says, in the best precision; timm's loop has images already decoded
and mirrors them as tensors, so that its data cost next to nothing. With --tensors ours takes such tensors too: the step alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from peers import peer
from vitkit.console import Console
from vitkit.data.loader import Batch
from vitkit.data.pixels import open_image
from vitkit.pretraining.data import batches_of, read_recipe_data
from vitkit.pretraining.model import first_model, with_objective
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import steps_of
from vitkit.train import TrainConfig, best_blocks, best_precision, start, step_once

ROUNDS, STEPS = 7, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="CIFAR-10 in any form that vit finetune reads")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tensors", action="store_true")
    parser.add_argument("--microbatch", type=int, nargs="+", default=[128])
    given = parser.parse_args()
    recipe = find_recipe("cifar10_small")
    data = read_recipe_data(given.data, Console())
    precision, fused = best_precision()
    size = recipe.batch_size
    total = steps_of(recipe, len(data.train))
    runs = {}
    for micro in given.microbatch:
        module, objective = with_objective(
            recipe, first_model(recipe, len(data.source.classes), Console()), data.source.classes, Console()
        )
        compiled = best_blocks(precision)
        plan = TrainConfig(total, size, micro, 0, total, 0, precision, fused, recipe.optim, compiled_blocks=compiled)
        ours = None if given.tensors else batches_of(recipe, data, size, range(total), given.workers)
        runs[f"vitkit, {micro} at a time"] = (start(module, plan), plan, objective, ours)

    c = recipe.model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer("timm").models.VisionTransformer(
            img_size=32, patch_size=4, embed_dim=c.embed_dim, depth=c.depth, num_heads=c.num_heads, num_classes=10,
            mlp_ratio=c.mlp_dim / c.embed_dim, class_token=False, global_pool="avg",
        )  # fmt: skip
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay)
    few = data.train[: 8 * size]
    pixels = torch.from_numpy(np.stack([np.asarray(open_image(sample.source)) for sample in few])).permute(0, 3, 1, 2)
    labels = torch.tensor([sample.label for sample in few])

    def drawn() -> Batch:
        at = torch.randint(0, len(pixels), (size,))
        images = (pixels[at].float() / 255 - 0.5) / 0.5
        return Batch(torch.where(torch.rand(size, 1, 1, 1) < 0.5, images.flip(-1), images), labels[at])

    def our_step(name: str) -> None:
        state, plan, objective, ours = runs[name]
        step_once(state, plan, objective, drawn() if ours is None else next(ours))
        state.step += 1

    def their_step(_: str) -> None:
        images, wanted = drawn()[:2]
        optimiser.zero_grad()
        nn.functional.cross_entropy(theirs(images), wanted).backward()
        optimiser.step()

    steps = {**dict.fromkeys(runs, our_step), "timm": their_step}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begin = time.perf_counter()
            for _ in range(STEPS):
                step(name)
            times[name].append((time.perf_counter() - begin) / STEPS)
    print(f"{precision}, fused attention {fused}, {torch.get_num_threads()} threads, batches of {size}")
    base = statistics.median(times["timm"][1:])  # the first round warms up
    for name, (_, *values) in times.items():
        median = statistics.median(values)
        print(
            f"{name:22} median {1000 * median:6.0f} ms  least {1000 * min(values):6.0f} ms  ratio {median / base:.2f}"
        )


if __name__ == "__main__":
    main()
