"""Table 3: hyper-parameters of pre-training, beside those of our recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from vitkit.console import Console
from vitkit.papers.item import PAPER, Item, Outcome, Request

__all__ = ["ITEM", "PUBLISHED", "Printed", "run"]

ITEM = Item(
    name="table3",
    title="hyper-parameters of pre-training",
    shows="epochs, learning rate, decay, weight decay and dropout of every pre-training run; batch 4096, 10,000 steps of "
    "warm-up, 224 pixels",
    kind="computed",
    commands=("vit recipes paper_", "vit pretrain paper_b16_imagenet21k data=FOLDER --out RUN"),
)


class Printed(NamedTuple):
    """One row as printed."""

    models: str  # and the models that it stands for
    names: tuple[str, ...]
    dataset: str  # of the recipes
    epochs: tuple[int, ...]
    lr: float
    decay: str
    weight_decay: float
    dropout: float


# Source: arXiv 2010.11929, table 3 (VIT_SPEC 4.1).
PUBLISHED = (
    Printed("ViT-B/{16,32}", ("B/16", "B/32"), "jft300m", (7,), 8e-4, "linear", 0.1, 0.0),
    Printed("ViT-L/32", ("L/32",), "jft300m", (7,), 6e-4, "linear", 0.1, 0.0),
    Printed("ViT-L/16", ("L/16",), "jft300m", (7, 14), 4e-4, "linear", 0.1, 0.0),
    Printed("ViT-H/14", ("H/14",), "jft300m", (14,), 3e-4, "linear", 0.1, 0.0),
    Printed("R50x{1,2}", (), "jft300m", (7,), 1e-3, "linear", 0.1, 0.0),
    Printed("R101x1", (), "jft300m", (7,), 8e-4, "linear", 0.1, 0.0),
    Printed("R152x{1,2}", (), "jft300m", (7,), 6e-4, "linear", 0.1, 0.0),
    Printed("R50+ViT-B/{16,32}", ("R50+B/16", "R50+B/32"), "jft300m", (7,), 8e-4, "linear", 0.1, 0.0),
    Printed("R50+ViT-L/32", ("R50+L/32",), "jft300m", (7,), 2e-4, "linear", 0.1, 0.0),
    Printed("R50+ViT-L/16", ("R50+L/16",), "jft300m", (7, 14), 4e-4, "linear", 0.1, 0.0),
    Printed("ViT-B/{16,32}", ("B/16", "B/32"), "imagenet21k", (90,), 1e-3, "linear", 0.03, 0.1),
    Printed("ViT-L/{16,32}", ("L/16", "L/32"), "imagenet21k", (30, 90), 1e-3, "linear", 0.03, 0.1),
    Printed("ViT-*", ("B/16", "B/32", "L/16", "L/32"), "imagenet", (300,), 3e-3, "cosine", 0.3, 0.1),
)
SETS = {"jft300m": "JFT-300M", "imagenet21k": "ImageNet-21k", "imagenet": "ImageNet"}
COLUMNS = ("lr", "decay", "weight_decay", "dropout")


def run(_request: Request, _console: Console) -> Outcome:
    """Each printed row with the recipes that are made of it."""
    rows = [_row(printed) for printed in PUBLISHED]
    table = [["model", "pre-trained on", "epochs", "base rate", "decay", "weight decay", "dropout", "recipes", "agree"]]
    for row in rows:
        p = row["published"]
        epochs = "/".join(map(str, p["epochs"]))
        table.append(
            [row["model"], row["pretraining"], epochs, f"{p['lr']:g}", p["decay"], f"{p['weight_decay']:g}",
             f"{p['dropout']:g}", ", ".join(r["recipe"] for r in row["ours"]) or "none: vitkit trains no ResNets",
             {True: "yes", False: "NO", None: ""}[row["agrees"]]]
        )  # fmt: skip
    notes = (
        "the loss of pre-training and the views are not in the paper; what the recipes take is said in each.",
        "R152x2 and R200x3 with 14 epochs stand in table 6 and not in this table.",
    )
    return Outcome(rows, table, notes, setting={"batch_size": 4096, "warmup_steps": 10_000, "image_size": 224})


def _row(printed: Printed) -> dict[str, Any]:
    ours = _recipes(printed)
    wanted = {"epochs": list(printed.epochs), **{name: getattr(printed, name) for name in COLUMNS}}
    same = all(all(recipe[name] == wanted[name] for name in COLUMNS) for recipe in ours)
    whole = {(r["model"], r["epochs"]) for r in ours} == {(m, e) for m in printed.names for e in printed.epochs}
    return {
        "model": printed.models,
        "pretraining": SETS[printed.dataset],
        "ours": ours,
        "agrees": same and whole if printed.names else None,
        "published": wanted,
        "source": f"{PAPER}, Table 3",
    }


def _recipes(printed: Printed) -> Sequence[dict[str, Any]]:
    """What the recipes of a row say, read from the recipes themselves."""
    from vitkit.recipes.paper_pretraining import RECIPES, ROWS

    found = []
    for row, recipe in zip(ROWS, RECIPES, strict=True):
        if row.model in printed.names and row.data == printed.dataset and recipe.epochs in printed.epochs:
            found.append(
                {"recipe": recipe.name, "model": row.model, "epochs": int(recipe.epochs or 0), "lr": recipe.optim.lr,
                 "decay": recipe.optim.decay, "weight_decay": recipe.optim.weight_decay, "dropout": recipe.model.dropout,
                 "batch_size": recipe.batch_size, "warmup_steps": recipe.optim.warmup_steps}
            )  # fmt: skip
    return found
