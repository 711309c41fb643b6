"""Figure 11: attention distance of a plain Transformer beside a hybrid."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing
from vitkit.analysis.figures import draw_distance
from vitkit.analysis.findings import distance_finding
from vitkit.analysis.survey import Surveyed
from vitkit.console import Console
from vitkit.papers.distances import distance_facts, surveyed
from vitkit.papers.item import PAPER, Item, Outcome, Request
from vitkit.papers.opened import describe, open_models, title

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure11",
    title="attention distance of ViT and hybrid",
    shows="mean attention distance in pixels by head and depth over 128 images, of L/16 and R50x1+L/16: the hybrid attends less "
    "locally in its first layers",
    kind="given",
    needs=("models", "images"),
    most_models=0,
    takes=("max_images", "overrides", "max_pixels", "workers"),
    weights=("imagenet21k/ViT-L_16", "imagenet21k/R50+ViT-L_32"),
    lacking="the paper's L/16 and R50x1+L/16 of JFT-300M",
)


def run(request: Request, console: Console) -> Outcome:
    """One panel for each --model, over the same images."""
    opened = open_models(request, console)
    found = [surveyed(bundle, request, console, name) for name, bundle in opened]
    rows: list[dict[str, Any]] = []
    for (name, _), survey in zip(opened, found, strict=True):
        finding = distance_finding(survey)
        means = survey.distance.mean(axis=1)
        rows.append(
            {"model": name, "first_layer": float(means[0]), "last_layer": float(means[-1]), **distance_facts(survey),
             "seen": finding.text, "pattern_holds": finding.holds, "published": {}, "source": f"{PAPER}, Figure 11"}
        )  # fmt: skip
    table = [["model", "images", "first layer", "last layer", "uniform", "what is seen"]]
    table += [
        [r["model"], str(r["images"]), *(f"{r[k]:.1f} px" for k in ("first_layer", "last_layer", "uniform")), r["seen"]]
        for r in rows
    ]  # fmt: skip
    notes = (
        "rows and columns of tokens without a patch are dropped and weights left as they are, as public practice does; "
        "distance_renormalised in the data makes each patch's weights sum to 1 again.",
        "the paper publishes pictures and no numbers.",
    )
    return Outcome(
        rows,
        table,
        notes,
        setting={"models": [describe(*each) for each in opened]},
        figures={"figure11": partial(_draw, [name for name, _ in opened], found)},
    )


def _draw(names: list[str], found: list[Surveyed], stem: Path) -> tuple[Path, Path]:
    with drawing(3.8 * len(found), 3.4, 1, len(found), sharey=len(found) > 1) as page:
        for axes, name, survey in zip(page.axes.flat, names, found, strict=True):
            draw_distance(axes, survey.distance, survey.uniform_distance)
            if len(found) > 1:
                axes.set_title(title(name))
        top = max(max(float(s.distance.max()), s.uniform_distance) for s in found)
        page.axes.flat[0].set_ylim(0, 1.06 * top)
        return page.save(stem)
