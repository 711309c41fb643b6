"""Figure 9: a class token against mean pooling, each at three learning rates, scaled down."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing, line_style
from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request, settled
from vitkit.papers.queue import run_queue
from vitkit.papers.spread import difference, summary
from vitkit.papers.study import BASE_RATE, SETTINGS, Cell, Study
from vitkit.papers.table8 import study_folder

__all__ = ["CELLS", "ITEM", "RATES", "best", "draw", "findings", "outcome", "run"]

# The paper's two rates, 8e-4 and 3e-4, lie as far apart as neighbours here.
RATES = (7.5e-4, BASE_RATE, 5.3e-3)
POOLS = {"cls": "class token", "mean": "mean pooling"}
CELLS = tuple(Cell(pool=pool, rate=rate) for pool in POOLS for rate in RATES)

ITEM = Item(
    name="figure9",
    title="class token and mean pooling",
    shows="mean pooling works as well as a class token, but at a learning rate of its own: 3e-4 in place of 8e-4",
    kind="scaled down",
    needs=("data",),
    settings=SETTINGS,
    lacking="the values of the curves, which the paper only draws",
)


def run(request: Request, console: Console) -> Outcome:
    """Train what is not trained yet, and compare.

    Raises:
        UserError: as `run_queue`; no folder for the runs.
    """
    return outcome(run_queue(study_folder(request), request.data, CELLS, settled(ITEM, request), console))


def outcome(study: Study) -> Outcome:
    """The figure of a finished study, in numbers and drawn."""
    found, lines = [], [["pooling", "learning rate", "top-1, %", "by seed"]]
    curves = {cell: study.curve(cell) for cell in CELLS}
    values = {cell: study.values(cell) for cell in CELLS}
    for cell in CELLS:
        own = summary(values[cell])
        row = {"pool": cell.pool, "rate": cell.rate, "top1": own.mean, "sd": own.sd, "values": list(own.values)}
        found.append({**row, "curve": [list(point) for point in curves[cell]]})
        each = ", ".join(f"{100 * value:.1f}" for value in own.values)
        lines.append([POOLS[cell.pool], f"{cell.rate:g}", own.shown(), each])
    return Outcome(
        rows=found,
        table=lines,
        notes=(study.sentence(), *findings(values)),
        label="scaled down",
        setting={
            **study.facts(),
            "published": {"cls": {"rate": 8e-4}, "mean": {"rate": 3e-4, "clearly_worse_at": 8e-4}},
        },
        figures={"figure9": partial(draw, curves, values)},
    )


def best(values: Mapping[Cell, Mapping[int, float]], pool: str) -> Cell:
    """The cell of a pooling whose mean over seeds is highest; of equal ones that of the lower rate."""
    own = [cell for cell in CELLS if cell.pool == pool]
    return max(own, key=lambda cell: (summary(values[cell]).mean, -cell.rate))


def findings(values: Mapping[Cell, Mapping[int, float]]) -> tuple[str, ...]:
    """What of the paper's finding these values by seed confirm, one sentence each."""
    cls, mean = best(values, "cls"), best(values, "mean")
    edges = [f"{cell.pool} at {cell.rate:g}" for cell in (cls, mean) if cell.rate in (RATES[0], RATES[-1])]
    order = "lower" if mean.rate < cls.rate else "higher" if mean.rate > cls.rate else "same"
    rates = f"cls is best at {cls.rate:g}, mean pooling at {mean.rate:g}"
    if order == "same":
        first = f"Mean pooling wants a lower rate than cls: not seen, both are best at {cls.rate:g} of the three rates."
        effect = None
    else:
        effect = difference(values[mean], values[Cell(pool="mean", rate=cls.rate)])
        verdict = "not confirmed" if order == "higher" else "confirmed" if effect.side > 0 else "not decided"
        first = (
            f"Mean pooling wants a lower rate than cls: {verdict}; {rates}. Mean pooling at its own rate less at that of cls, "
            f"seed by seed with 95 % interval: {effect.shown()} points."
        )
    gap = difference(values[mean], values[cls])
    ahead = {
        1: "not confirmed, mean pooling is ahead",
        -1: "not confirmed, cls is ahead",
        0: "no difference beyond the spread",
    }
    second = f"Each at its best rate they are alike: {ahead[gap.side]}. Mean pooling less cls: {gap.shown()} points."
    hint = (
        f" The best of the rates tried is the last one ({', '.join(edges)}): a further one may be better."
        if edges
        else ""
    )
    third = f"Rates are compared on the test images themselves, so each best of three is a little optimistic.{hint}"
    return first, second, third


def draw(
    curves: Mapping[Cell, list[tuple[int, float]]], values: Mapping[Cell, Mapping[int, float]], stem: Path
) -> tuple[Path, Path]:
    """Curves over training on the left; on the right the end of each against its learning rate, with every seed."""
    with drawing(7.2, 3.6, 1, 2, width_ratios=(3, 2)) as made:
        left, right = made.axes.flat
        for cell in CELLS:  # the colour says the pooling, in both panels; dash and marker say the rate
            colour = line_style(list(POOLS).index(cell.pool))["color"]
            style = {**line_style(RATES.index(cell.rate)), "color": colour}
            steps, tops = zip(*curves[cell], strict=True)
            left.plot(steps, [100 * top for top in tops], label=f"{POOLS[cell.pool]}, {cell.rate:g}", **style)
        left.set(xlabel="step", ylabel="top-1, % (mean over seeds)", title="over training")
        left.legend(title="pooling, learning rate", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        for number, pool in enumerate(POOLS):
            own: dict[str, Any] = line_style(number)
            cells = [cell for cell in CELLS if cell.pool == pool]
            means = [100 * summary(values[cell]).mean for cell in cells]
            right.plot([cell.rate for cell in cells], means, label=POOLS[pool], **own)
            for cell in cells:
                seeds = [100 * value for value in values[cell].values()]
                right.plot([cell.rate] * len(seeds), seeds, linestyle="", marker=".", color=own["color"], markersize=3)
        right.set(xscale="log", xlabel="learning rate", title="at the end (dots: seeds)")
        right.set_xticks(RATES, [f"{rate:g}" for rate in RATES], minor=False)
        right.set_xticks([], minor=True)
        right.margins(x=0.12)
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
        return made.save(stem)
