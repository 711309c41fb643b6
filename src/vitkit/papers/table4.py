"""Table 4: hyper-parameters of fine-tuning, beside those of our recipes."""

from __future__ import annotations

from typing import Any

from vitkit.console import Console
from vitkit.papers.item import PAPER, Item, Outcome, Request

__all__ = ["ITEM", "PUBLISHED", "run"]

ITEM = Item(
    name="table4",
    title="hyper-parameters of fine-tuning",
    shows="steps and learning rates of every data set; SGD with momentum 0.9, cosine, batch 512, no weight decay, clipping at "
    "norm 1, 384 pixels",
    kind="computed",
    commands=(
        "vit recipes paper_finetune",
        "vit pretrain paper_finetune_cifar10 start=imagenet21k/ViT-B_16 data=FOLDER --out RUN",
    ),
)
SMALL = (0.001, 0.003, 0.01, 0.03)
# data set -> recipe, steps, rates to choose from. Source: arXiv 2010.11929, table 4 (VIT_SPEC 5.1).
PUBLISHED = {
    "ImageNet": ("paper_finetune_imagenet", 20_000, (0.003, 0.01, 0.03, 0.06)),
    "CIFAR-100": ("paper_finetune_cifar100", 10_000, SMALL),
    "CIFAR-10": ("paper_finetune_cifar10", 10_000, SMALL),
    "Oxford-IIIT Pets": ("paper_finetune_pets", 500, SMALL),
    "Oxford Flowers-102": ("paper_finetune_flowers102", 500, SMALL),
    "VTAB (19 tasks)": ("paper_finetune_vtab", 2_500, (0.01,)),
}
# What the paper's table and text say of all rows.
COMMON = {
    "optimiser": "sgd", "beta1": 0.9, "decay": "cosine", "batch_size": 512, "weight_decay": 0.0, "clip_norm": 1.0,
    "image_size": 384,
}  # fmt: skip


def run(_request: Request, _console: Console) -> Outcome:
    """Each printed row with its recipe."""
    rows = [_row(dataset, *printed) for dataset, printed in PUBLISHED.items()]
    table = [["data set", "steps", "rates", "recipe", "its steps", "its rates", "its rate", "agree"]]
    for row in rows:
        printed, own = row["published"], row["ours"]
        table.append(
            [row["dataset"], f"{printed['steps']:,}", _numbers(printed["rates"]), own["recipe"], f"{own['steps']:,}",
             _numbers(own["rates"]), f"{own['lr']:g}", "yes" if row["agrees"] else "NO"]
        )  # fmt: skip
    notes = (
        "the paper chooses the rate on a part of the training set; a recipe has one of them, optim.lr sets another.",
        "ImageNet in table 2 alone: 512 pixels (H/14: 518) and averaged weights, image_size=512 optim.polyak=0.9999.",
    )
    return Outcome(rows, table, notes, setting=COMMON)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _row(dataset: str, name: str, steps: int, rates: tuple[float, ...]) -> dict[str, Any]:
    from vitkit.recipes.book import find_recipe

    recipe = find_recipe(name)
    optim = recipe.optim
    ours: dict[str, Any] = {
        "recipe": name, "steps": recipe.steps, "rates": recipe.rates, "lr": optim.lr, "optimiser": optim.optimiser,
        "beta1": optim.beta1, "decay": optim.decay, "batch_size": recipe.batch_size, "weight_decay": optim.weight_decay,
        "clip_norm": optim.clip_norm, "image_size": recipe.model.image_size[0],
    }  # fmt: skip
    wanted = {"steps": steps, "rates": rates, **COMMON}
    return {
        "dataset": dataset,
        "ours": ours,
        "agrees": all(ours[key] == value for key, value in wanted.items()),
        "published": wanted,
        "source": f"{PAPER}, Table 4",
    }
