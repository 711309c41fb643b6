"""Table 8: position embeddings, scaled down: none, 1-D, 2-D and relative, trained from random weights on a small data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitkit.board.entries import published
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.papers.item import PAPER, Item, Outcome, Request, settled
from vitkit.papers.queue import run_queue
from vitkit.papers.spread import difference, summary
from vitkit.papers.study import SETTINGS, Cell, Study

__all__ = ["ITEM", "LATER", "STEM", "cells", "findings", "outcome", "run"]

# Our word for a kind -> the table's.
KINDS = {"none": "none", "learned": "1-D", "learned2d": "2-D", "relative": "relative"}
PLACES = {"stem": "at the stem", "layers": "in every layer", "shared": "in every layer, shared"}
STEM = tuple(Cell(position=kind) for kind in KINDS)
LATER = tuple(Cell(position=kind, at=at) for kind in ("learned", "learned2d") for at in ("layers", "shared"))
SHARE = 2  # two cells are alike that differ by less than this part of what positions bring

ITEM = Item(
    name="table8",
    title="position embeddings",
    shows="a model without positions is clearly worse; which kind they are of, and where they are added, hardly matters",
    kind="scaled down",
    needs=("data",),
    takes=("everything",),
    settings=SETTINGS,
    lacking="ViT-B/16 with each kind of positions, and its pre-training data",
)


def cells(everything: bool) -> tuple[Cell, ...]:
    """The rows: at the stem, and with ``everything`` also in every layer."""
    return (*STEM, *LATER) if everything else STEM


def run(request: Request, console: Console) -> Outcome:
    """Train what is not trained yet, and compare.

    Raises:
        UserError: as `run_queue`; no folder for the runs.
    """
    folder = study_folder(request)
    study = run_queue(folder, request.data, cells(request.everything), settled(ITEM, request), console)
    return outcome(study, cells(request.everything))


def study_folder(request: Request) -> Path:
    """Where the runs of both studies are kept.

    Raises:
        UserError: no folder was named.
    """
    if request.out is None:
        raise UserError("the runs are kept, so that a stopped study can go on: say where with -o DIR.")
    return request.out / "study"


def outcome(study: Study, rows: Sequence[Cell]) -> Outcome:
    """The table of a finished study."""
    stated = _published()
    found, lines = [], [["positions", "where", "top-1, % (ours)", "by seed", "ImageNet 5-shot, % (paper)"]]
    for cell in rows:
        own, theirs = summary(study.values(cell)), stated[KINDS[cell.position], PLACES[cell.at]]
        found.append(
            {
                "position": KINDS[cell.position],
                "where": PLACES[cell.at],
                "top1": own.mean,
                "sd": own.sd,
                "values": list(own.values),
                "parameters": next(run.parameters for (other, _), run in study.runs.items() if other == cell),
                "published": {"imagenet_5shot": theirs},
                "source": f"{PAPER}, table 8",
            }
        )
        each = ", ".join(f"{100 * value:.1f}" for value in own.values)
        lines.append([KINDS[cell.position], PLACES[cell.at], own.shown(), each, f"{100 * theirs:.2f}"])
    return Outcome(
        rows=found,
        table=lines,
        notes=(study.sentence(), *findings({cell: study.values(cell) for cell in rows})),
        label="scaled down",
        setting=study.facts(),
    )


def _published() -> dict[tuple[str, str], float]:
    """(kind, where) -> the paper's value, a fraction as printed."""
    table = [entry for entry in published() if entry.paper == "vit" and entry.table == "Table 8"]
    return {(e.extra["position_embedding"], e.extra["where"]): round(e.value / 100, 5) for e in table}


def findings(values: Mapping[Cell, Mapping[int, float]]) -> tuple[str, ...]:
    """What of the paper's finding these values by seed confirm, one sentence each."""
    none, plain = STEM[0], STEM[1]
    gains = {cell: difference(values[cell], values[none]) for cell in STEM[1:]}
    told = ", ".join(f"{KINDS[cell.position]} {gain.shown()}" for cell, gain in gains.items())
    sides = [gain.side for gain in gains.values()]
    verdict = (
        "confirmed" if min(sides) > 0 else "not confirmed" if min(sides) < 0 or not max(sides) else "confirmed in part"
    )
    first = f"Positions help: {verdict}. Points above none, seed by seed with 95 % interval: {told}."
    margin = gains[plain].mean / SHARE
    second = _alike("Which kind matters little", "1-D at the stem", margin, dict.fromkeys(STEM[2:], plain), values)
    later = {cell: Cell(position=cell.position) for cell in values if cell.at != "stem"}
    third = _alike("Where they are added matters little", "the same kind at the stem", margin, later, values)
    return (first, second, *((third,) if later else ()))


def _alike(
    claim: str,
    rival: str,
    margin: float,
    pairs: Mapping[Cell, Cell],
    values: Mapping[Cell, Mapping[int, float]],
) -> str:
    """Is every pair's difference less than the margin, interval included?"""
    gaps: dict[Cell, Any] = {cell: difference(values[cell], values[other]) for cell, other in pairs.items()}
    told = ", ".join(
        f"{KINDS[cell.position]}{'' if cell.at == 'stem' else ' ' + PLACES[cell.at]} {gap.shown()}"
        for cell, gap in gaps.items()
    )
    if margin <= 0:
        verdict = "not decided, since 1-D positions brought nothing to compare with"
    elif all(gap.within(margin) for gap in gaps.values()):
        verdict = f"confirmed: every interval is within half of what 1-D positions bring ({100 * margin:.1f} points)"
    elif apart := [KINDS[cell.position] for cell, gap in gaps.items() if gap.beyond(margin)]:
        verdict = f"not confirmed: {', '.join(apart)} differs by more than half of what 1-D positions bring"
    elif real := [KINDS[cell.position] for cell, gap in gaps.items() if gap.side]:
        verdict = f"in part: {', '.join(real)} differs beyond its spread, though not surely by half of what 1-D positions bring"
    else:
        verdict = f"not decided: the spread over seeds is too wide for half of what 1-D positions bring ({100 * margin:.1f} points)"
    return f"{claim}: {verdict}. Points above {rival}: {told}."
