"""Figure 3: what the size of the pre-training set is worth on ImageNet."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing, line_style
from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.printed import accuracies, beside_printed, figure
from vitkit.papers.table5 import ITEM as TABLE5

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure3",
    title="ImageNet accuracy by pre-training set",
    shows="ImageNet top-1 after pre-training on ImageNet, ImageNet-21k and JFT-300M: large models need large sets",
    kind="published",
    weights=TABLE5.weights,
    sets=("imagenet",),
    hardware=TABLE5.hardware,
    lacking=f"{TABLE5.lacking}; the shaded band of BiT models, whose values the paper does not give in text",
    commands=(
        "vit pretrain paper_finetune_imagenet start=imagenet21k/ViT-B_16 data=FOLDER --out RUN",
        "vit results add RUN --model-name 'ViT-B/16 ImageNet-21k'",
    ),
)
SETS = ("ImageNet", "ImageNet-21k", "JFT-300M")  # 1.3, 14 and 303 million images


def run(_request: Request, _console: Console) -> Outcome:
    """The ImageNet values of table 5, a line for each model."""
    rows = [
        {**row, "published": {"imagenet": row["published"]["imagenet"]}}
        for row in accuracies("Table 5")
        if "imagenet" in row["published"]
    ]
    placed = beside_printed(rows)
    lines = _lines(rows)
    table = [["model", *SETS]]
    for model, points in lines.items():
        table.append([model, *(figure(points.get(name)) for name in SETS)])
    for row in rows:
        if row["ours"]:
            table.append(
                [f"  ours: {row['model']} {row['pretraining']}", figure(row["ours"]["imagenet"]["value"]), "", ""]
            )
    return Outcome(rows, table, placed, data={"lines": lines}, figures={"figure3": partial(_draw, lines)})


def _lines(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Model -> pre-training set -> percent, small models first."""
    order = ("ViT-B/32", "ViT-B/16", "ViT-L/32", "ViT-L/16", "ViT-H/14")
    return {
        model: {row["pretraining"]: row["published"]["imagenet"] for row in rows if row["model"] == model}
        for model in order
    }


def _draw(lines: dict[str, dict[str, float]], stem: Path) -> tuple[Path, Path]:
    with drawing(4.6, 3.4) as page:
        axes = page.one
        for index, (model, points) in enumerate(lines.items()):
            known = [(place, points[name]) for place, name in enumerate(SETS) if name in points]
            axes.plot([place for place, _ in known], [value for _, value in known], label=model, **line_style(index))
        axes.set_xticks(range(len(SETS)), list(SETS))
        axes.set(ylabel="ImageNet top-1, % (published)", xlabel="pre-training set", ylim=(70, 90))
        axes.legend(loc="lower right")
        return page.save(stem)
