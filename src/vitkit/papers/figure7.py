"""Figure 7: filters of the patch embedding, similarity of position embeddings, attention distance."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing
from vitkit.analysis.figures import draw_distance, draw_filters, draw_similarity
from vitkit.analysis.filters import Filters, filter_components
from vitkit.analysis.findings import distance_finding, filter_finding, position_finding
from vitkit.analysis.positions import Similarity, position_similarity, position_structure
from vitkit.analysis.survey import Surveyed
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.papers.distances import distance_facts, surveyed
from vitkit.papers.item import PAPER, Item, Outcome, Request
from vitkit.papers.opened import describe, open_models

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure7",
    title="filters, position embeddings, attention distance",
    shows="first 28 principal components of the embedding filters and similarity of position embeddings (L/32), mean attention "
    "distance by head and depth (L/16)",
    kind="given",
    needs=("models", "images"),
    most_models=2,
    takes=("max_images", "overrides", "max_pixels", "workers"),
    weights=("imagenet21k/ViT-L_32", "imagenet21k/ViT-L_16"),
    lacking="the paper's own L/32 and L/16 of JFT-300M",
)


def run(request: Request, console: Console) -> Outcome:
    """All three panels of one model; given two, the third panel is of the second, as the paper takes L/32 and L/16."""
    opened = open_models(request, console)
    (name, bundle), (far_name, far) = opened[0], opened[-1]
    filters, no_filters = _attempted(bundle, filter_components)
    positions, no_positions = _attempted(bundle, position_similarity)
    found = surveyed(far, request, console, "attention distance")
    rows: list[dict[str, Any]] = []
    for panel, model, finding, missing in (
        ("left: filters", name, None if filters is None else filter_finding(filters), no_filters),
        (
            "centre: positions",
            name,
            None if positions is None else position_finding(position_structure(positions)),
            no_positions,
        ),
        ("right: attention distance", far_name, distance_finding(found), ""),
    ):
        seen, holds = (missing, None) if finding is None else finding
        rows.append({"panel": panel, "model": model, "seen": seen, "pattern_holds": holds, "published": {},
                     "source": f"{PAPER}, Figure 7"})  # fmt: skip
    table = [["panel", "model", "as in the paper", "what is seen"]]
    table += [
        [r["panel"], r["model"], {True: "yes", False: "no", None: "–"}[r["pattern_holds"]], r["seen"]] for r in rows
    ]
    return Outcome(
        rows,
        table,
        ("the paper publishes pictures and no numbers.",),
        setting={"models": [describe(*each) for each in opened], "images": found.images},
        data=_data(filters, positions, found),
        figures={"figure7": partial(_draw, filters, positions, found)},
    )


def _attempted(bundle: Bundle, compute: Any) -> tuple[Any, str]:
    """What was computed, or why this model has no such thing."""
    try:
        return compute(bundle.model), ""
    except UserError as error:
        return None, str(error)


def _data(filters: Filters | None, positions: Similarity | None, found: Surveyed) -> dict[str, Any]:
    data: dict[str, Any] = {"attention_distance": distance_facts(found)}
    if filters is not None:
        data["filters"] = {"explained": filters.explained.tolist(), "frequency": filters.frequency.tolist(),
                           "components": filters.components.round(6).tolist()}  # fmt: skip
    if positions is not None:
        data["position_similarity"] = {"rows": positions.rows, "columns": positions.columns,
                                       "values": positions.values.round(5).tolist()}  # fmt: skip
    return data


def _draw(filters: Filters | None, positions: Similarity | None, found: Surveyed, stem: Path) -> tuple[Path, Path]:
    panels: list[tuple[Any, tuple[Any, ...]]] = []
    if filters is not None:
        panels.append((draw_filters, (filters,)))
    if positions is not None:
        panels.append((draw_similarity, (positions,)))
    panels.append((draw_distance, (found.distance, found.uniform_distance)))
    with drawing(3.6 * len(panels), 3.4, 1, len(panels)) as page:
        for axes, (draw, given) in zip(page.axes.flat, panels, strict=True):
            draw(axes, *given)
        return page.save(stem)
