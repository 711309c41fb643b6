"""Table 9: VTAB-1k task by task."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.printed import accuracies, beside_printed, figure, titles

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="table9",
    title="VTAB-1k by task",
    shows="the nineteen tasks of VTAB-1k for H/14 and L/16 pre-trained on JFT-300M, and L/16 on ImageNet-21k",
    kind="published",
    weights=("imagenet21k/ViT-L_16",),
    sets=("caltech101", "cifar100", "dtd", "flowers102", "pets", "svhn", "eurosat", "resisc45"),
    hardware="a GPU to fine-tune nineteen times at 384 pixels",
    lacking="the two models pre-trained on JFT-300M, which were never published",
    commands=(
        "vit evaluate imagenet21k/ViT-L_16 vtab --protocol vtab --data-root FOLDER --out RUN",
        "vit results add RUN --model-name 'ViT-L/16 ImageNet-21k'",
    ),
)


def run(_request: Request, _console: Console) -> Outcome:
    """The printed values; people read tasks down and models across."""
    rows = accuracies("Table 9")
    placed = beside_printed(rows)
    table = [["task", *(f"{row['model']} {row['pretraining']}" for row in rows)]]
    for name, title in zip(rows[0]["published"], titles(rows[0]["published"]), strict=True):
        cells = []
        for row in rows:
            own = row["ours"].get(name)
            beside = "" if own is None else f" (ours {figure(own['value'])}{' of a part' if own['part'] else ''})"
            cells.append(f"{row['published'][name]:.1f}{beside}")
        table.append([title, *cells])
    return Outcome(rows, table, placed)
