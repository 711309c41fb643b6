"""Table 8 and figure 9 of the paper, scaled down, in one queue: positions, and a class token against mean pooling.

    python benchmarks/paper_studies.py DATA --out DIR [--all] [--set steps=1100 ...]

What `vit paper table8 --data DATA -o DIR` and `vit paper figure9 --data DATA -o DIR` do one after the other, but seed by seed over
both, so that a queue stopped early holds whole comparisons of fewer seeds. The same command goes on where it was stopped; the
two commands above then find their runs made. DIR gets table8.json, figure9.json and the figure.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from vitkit.config import parse_value, write_json
from vitkit.console import Console, duration
from vitkit.papers import figure9, table8
from vitkit.papers.item import Outcome, Request, settled
from vitkit.papers.queue import run_queue


def told(name: str, outcome: Outcome, out: Path) -> None:
    """Print a table and write its numbers and figures."""
    print(f"\n{name}")
    for row in outcome.table:
        print("| " + " | ".join(row) + " |")
    for note in outcome.notes:
        print(note)
    whole = {
        "item": name,
        "label": outcome.label,
        "setting": outcome.setting,
        "rows": outcome.rows,
        "notes": outcome.notes,
    }
    write_json(out / f"{name}.json", whole)
    for stem, draw in outcome.figures.items():
        draw(out / stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="positions at every layer too")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="as of vit paper")
    given = parser.parse_args()
    changes = {name: parse_value(value) for name, _, value in (pair.partition("=") for pair in given.set)}
    request = Request(out=given.out, data=given.data, everything=given.all, settings=changes)
    rows, began = table8.cells(given.all), time.perf_counter()
    study = run_queue(
        table8.study_folder(request), given.data, (*rows, *figure9.CELLS), settled(table8.ITEM, request), Console()
    )
    told("table8", table8.outcome(study, rows), given.out)
    told("figure9", figure9.outcome(study), given.out)
    print(f"\nthis call took {duration(time.perf_counter() - began)}")


if __name__ == "__main__":
    main()
