"""Figure 10: similarity of position embeddings of models trained with different hyper-parameters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing
from vitkit.analysis.figures import draw_similarity
from vitkit.analysis.findings import position_finding
from vitkit.analysis.positions import Similarity, position_similarity, position_structure
from vitkit.console import Console
from vitkit.papers.item import PAPER, Item, Outcome, Request
from vitkit.papers.opened import describe, open_models, title

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure10",
    title="position embeddings by hyper-parameters",
    shows="similarity of position embeddings of three L/16 (7 epochs, rate 2e-4, decay 0.01; 7, 4e-4, 0.1; 14, 4e-4, 0.1): the "
    "pattern depends on the hyper-parameters",
    kind="given",
    needs=("models",),
    most_models=0,
    takes=("overrides",),
    weights=("imagenet21k/ViT-L_16",),
    lacking="the paper's three L/16 of JFT-300M",
)


def run(request: Request, console: Console) -> Outcome:
    """One panel for each --model.

    Raises:
        UserError: as `position_similarity`: a model without position embeddings of its patches.
    """
    opened = open_models(request, console)
    found = [position_similarity(bundle.model) for _, bundle in opened]
    rows: list[dict[str, Any]] = []
    for (name, bundle), similarity in zip(opened, found, strict=True):
        structure = position_structure(similarity)
        finding = position_finding(structure)
        rows.append(
            {"model": name, **structure._asdict(), "seen": finding.text, "pattern_holds": finding.holds, "published": {},
             "grid": list(bundle.config.grid), "source": f"{PAPER}, Figure 10"}
        )  # fmt: skip
    table = [["model", "grid", "as in the paper", "what is seen"]]
    table += [
        [
            r["model"],
            " x ".join(map(str, r["grid"])),
            {True: "yes", False: "no", None: "–"}[r["pattern_holds"]],
            r["seen"],
        ]
        for r in rows
    ]
    data = {
        "similarity": [
            {"model": name, "rows": s.rows, "columns": s.columns, "values": s.values.round(5).tolist()}
            for (name, _), s in zip(opened, found, strict=True)
        ]
    }
    return Outcome(
        rows,
        table,
        ("the paper publishes pictures and no numbers.",),
        setting={"models": [describe(*each) for each in opened]},
        data=data,
        figures={"figure10": partial(_draw, [name for name, _ in opened], found)},
    )


def _draw(names: list[str], found: list[Similarity], stem: Path) -> tuple[Path, Path]:
    with drawing(4.0 * len(found), 3.7, 1, len(found)) as page:
        for axes, name, similarity in zip(page.axes.flat, names, found, strict=True):
            draw_similarity(axes, similarity)
            if len(found) > 1:
                axes.set_title(title(name))
        return page.save(stem)
