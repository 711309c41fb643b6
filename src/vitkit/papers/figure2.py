"""Figure 2: VTAB by groups of tasks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing
from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.printed import accuracies, beside_printed, figure
from vitkit.papers.table9 import ITEM as TABLE9

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure2",
    title="VTAB by groups of tasks",
    shows="bars of all, natural, specialized and structured tasks for H/14, BiT-L R152x4, VIVI-Ex and S4L",
    kind="published",
    weights=TABLE9.weights,
    sets=TABLE9.sets,
    hardware=TABLE9.hardware,
    lacking=f"{TABLE9.lacking}; the bars of BiT-L's groups, VIVI-Ex and S4L, whose values the paper does not give in text",
    commands=TABLE9.commands,
)
GROUPS = {
    "vtab": "all 19",
    "vtab-natural": "natural (7)",
    "vtab-specialized": "specialized (4)",
    "vtab-structured": "structured (8)",
}
FILLS = ("#00204d", "#7f8fb8", "#d8c690", "#888888")
HATCHES = ("", "//", "..", "xx")


def run(_request: Request, _console: Console) -> Outcome:
    """The means that table 9 prints or gives, and BiT-L's of table 2."""
    groups = {(row["model"], row["pretraining"]): row for row in accuracies("Table 9, group means")}
    rows: list[dict[str, Any]] = []
    for row in accuracies("Table 9"):
        means = groups[row["model"], row["pretraining"]]["published"]
        rows.append({**row, "spread": {}, "published": {"vtab": row["published"]["vtab"], **means}})
    bit = next(row for row in accuracies("Table 2") if row["model"].startswith("BiT"))
    rows.append({**bit, "spread": {}, "published": {"vtab": bit["published"]["vtab"]}})
    placed = beside_printed(rows)
    table = [["model", "pre-trained on", *GROUPS.values()]]
    for row in rows:
        table.append([row["model"], row["pretraining"], *(figure(row["published"].get(name)) for name in GROUPS)])
        if row["ours"]:
            table.append(["  ours", "", *(figure(row["ours"].get(name, {}).get("value")) for name in GROUPS)])
    notes = (
        "group means are computed from table 9, which prints the tasks; all 19 is printed in table 9, BiT-L's in table 2.",
        *placed,
    )
    return Outcome(rows, table, notes, figures={"figure2": partial(_draw, rows)})


def _draw(rows: list[dict[str, Any]], stem: Path) -> tuple[Path, Path]:
    with drawing(7.0, 3.2) as page:
        axes = page.one
        width = 0.8 / len(rows)
        for index, row in enumerate(rows):
            known = [(place, row["published"][name]) for place, name in enumerate(GROUPS) if name in row["published"]]
            places = [place + (index - (len(rows) - 1) / 2) * width for place, _ in known]
            label = f"{row['model']}, {row['pretraining']}"
            axes.bar(places, [value for _, value in known], width * 0.92, label=label, hatch=HATCHES[index],
                     edgecolor="white", linewidth=0.5, color=FILLS[index])  # fmt: skip
        axes.set_xticks(range(len(GROUPS)), list(GROUPS.values()))
        axes.set(ylabel="top-1, % (published)", ylim=(50, 98), title="VTAB-1k (the axis begins at 50)")
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper center", ncols=2)
        return page.save(stem)
