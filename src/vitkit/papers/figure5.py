"""Figure 5: accuracy against compute, with the compute by our own count."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing, line_style
from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.printed import figure
from vitkit.papers.scaling import FIVE, scaling_rows

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure5",
    title="accuracy against pre-training compute",
    shows="mean accuracy of five data sets and that of ImageNet, against exaFLOPs: Vision Transformers need 2 to 4 times less "
    "than ResNets, hybrids help the small ones",
    kind="computed",
    hardware="thousands of TPUv3-core-days for the accuracies",
    lacking="the accuracies: JFT-300M is not public",
    commands=("vit pretrain paper_b32_jft300m data=FOLDER --out RUN  # of each recipe that `vit recipes jft` lists",),
)
PANELS = (("average_five", "mean of five data sets"), ("imagenet", "ImageNet"))
FAMILIES = ("ViT", "ResNet", "hybrid")


def run(_request: Request, _console: Console) -> Outcome:
    """The points of both panels: exaFLOPs ours, accuracies the paper's table 6."""
    rows = scaling_rows()
    table = [["model", "epochs", "exaFLOPs", "published", *(title for _, title in PANELS)]]
    table += [
        [row["model"], str(row["epochs"]), f"{row['exaflops']:.1f}", f"{row['published']['exaflops']}",
         *(figure(_value(row, name)) for name, _ in PANELS)]
        for row in rows
    ]  # fmt: skip
    notes = (
        "exaFLOPs are our count (see table6), accuracies those of the paper's table 6.",
        f"the mean is over {', '.join(FIVE)}: the five whose mean table 7 prints; the paper does not name them.",
        _cheaper(rows),
    )
    return Outcome(rows, table, notes, data=_series(rows), figures={"figure5": partial(_draw, rows)})


def _value(row: dict[str, Any], name: str) -> float:
    return float(row["average_five"] if name == "average_five" else row["published"][name])


def _series(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Panel -> family -> points (exaFLOPs, percent, model, epochs), in the order of compute."""
    return {
        name: {
            kind: sorted(
                [row["exaflops"], _value(row, name), row["model"], row["epochs"]]
                for row in rows
                if row["family"] == kind
            )
            for kind in FAMILIES
        }
        for name, _ in PANELS
    }


def _cheaper(rows: list[dict[str, Any]]) -> str:
    """What each ResNet took of the compute of the cheapest ViT that is at least as accurate in the mean of five."""
    resnets, vits = ([row for row in rows if row["family"] == kind] for kind in ("ResNet", "ViT"))
    ratios = []
    for resnet in resnets:
        least = resnet["average_five"]
        enough = [row["exaflops"] for row in vits if row["average_five"] >= least]
        if enough:
            ratios.append((resnet["exaflops"] / min(enough), resnet["model"], resnet["epochs"]))
    (low, *small), (high, *large) = min(ratios), max(ratios)
    return (
        f"{len(ratios)} of {len(resnets)} ResNets are reached in the mean of five by a Vision Transformer; they took "
        f"{low:.1f} ({small[0]}, {small[1]} epochs) to {high:.1f} ({large[0]}, {large[1]} epochs) times the compute of the "
        "cheapest that does."
    )


def _draw(rows: list[dict[str, Any]], stem: Path) -> tuple[Path, Path]:
    with drawing(7.2, 3.4, 1, 2) as picture:
        for axes, (name, title) in zip(picture.axes.flat, PANELS, strict=True):
            for index, (kind, points) in enumerate(_series(rows)[name].items()):
                style = {**line_style(index), "linewidth": 0.8}
                axes.plot([p[0] for p in points], [p[1] for p in points], label=kind, **style)
            axes.set(
                xscale="log", title=title, xlabel="exaFLOPs of pre-training, our count", ylabel="top-1, % (published)"
            )
        picture.axes.flat[0].legend(loc="lower right")
        return picture.save(stem)
