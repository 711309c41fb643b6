"""Figure 9 scaled down: which rate suits which pooling, told from values by seed; its curves and its drawing."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from vitkit.console import Console
from vitkit.papers import figure9, table8
from vitkit.papers.figure9 import CELLS, RATES, best, draw, findings
from vitkit.papers.item import Request
from vitkit.papers.study import Cell

SMALL = {"steps": 16, "seeds": 2, "batch_size": 8, "width": 12, "depth": 1}


def values(cls: tuple[float, ...], mean: tuple[float, ...]) -> dict[Cell, dict[int, float]]:
    """Three seeds around the means at the three rates."""
    shifts = {"cls": (0.0, 0.002, -0.002), "mean": (0.002, -0.002, 0.0)}
    return {
        Cell(pool=pool, rate=rate): {seed: top1 + shift for seed, shift in enumerate(shifts[pool])}
        for pool, tops in (("cls", cls), ("mean", mean))
        for rate, top1 in zip(RATES, tops, strict=True)
    }


def test_rates_lie_as_far_apart_as_the_paper_s() -> None:
    assert [round(b / a, 1) for a, b in itertools.pairwise(RATES)] == [2.7, 2.6]
    assert round(8e-4 / 3e-4, 1) == 2.7
    assert Cell() in CELLS  # shared with table 8
    assert set(CELLS) & set(table8.cells(True)) == {Cell()}


def test_the_paper_s_finding_is_confirmed_by_values_like_its_own() -> None:
    rate, alike, note = findings(values(cls=(0.50, 0.55, 0.50), mean=(0.55, 0.45, 0.30)))
    assert rate == (
        "Mean pooling wants a lower rate than cls: confirmed; cls is best at 0.002, mean pooling at 0.00075. Mean pooling at its "
        "own rate less at that of cls, seed by seed with 95 % interval: +10.0 [+10.0, +10.0] points."
    )
    assert alike.startswith(
        "Each at its best rate they are alike: no difference beyond the spread. Mean pooling less cls: +0.0 ["
    )
    assert note.endswith("The best of the rates tried is the last one (mean at 0.00075): a further one may be better.")


@pytest.mark.parametrize(
    ("cls", "mean", "rate", "alike"),
    [
        ((0.5, 0.6, 0.5), (0.5, 0.7, 0.5), "not seen, both are best at 0.002 of the three", "not confirmed, mean pooling is ahead"),
        ((0.5, 0.6, 0.5), (0.4, 0.4, 0.5), "not confirmed; cls is best at 0.002, mean pooling at 0.0053", "not confirmed, cls is"),
        ((0.5, 0.6, 0.5), (0.6001, 0.6, 0.5), "not decided; cls is best at 0.002", "no difference beyond the spread"),
    ],
)  # fmt: skip
def test_other_values_are_told_apart(cls: tuple[float, ...], mean: tuple[float, ...], rate: str, alike: str) -> None:
    known = values(cls, mean)
    if rate.startswith("not decided"):
        known[Cell(pool="mean", rate=RATES[0])] = {0: 0.61, 1: 0.5902, 2: 0.6001}
    first, second, _ = findings(known)
    assert first.startswith(f"Mean pooling wants a lower rate than cls: {rate}")
    assert second.startswith(f"Each at its best rate they are alike: {alike}")


def test_of_equal_rates_the_lower_is_best_and_no_edge_no_warning() -> None:
    known = values(cls=(0.5, 0.6, 0.6), mean=(0.5, 0.6, 0.5))
    assert best(known, "cls").rate == RATES[1]
    assert findings(known)[2].endswith("a little optimistic.")


def test_the_study_on_small_data(photos: Path, tmp_path: Path) -> None:
    quiet = Console(io.StringIO(), io.StringIO())
    request = Request(out=tmp_path, data=str(photos), settings=SMALL)
    table8.run(request, quiet)
    found = figure9.run(request, quiet)
    assert len((tmp_path / "study" / "runs.jsonl").read_text().splitlines()) == 2 * (4 + 6 - 1)
    assert [(row["pool"], row["rate"]) for row in found.rows] == [
        (pool, rate) for pool in ("cls", "mean") for rate in RATES
    ]
    for row in found.rows:
        assert [step for step, _ in row["curve"]] == [3, 6, 9, 12, 15, 16]
        assert row["curve"][-1][1] == pytest.approx(row["top1"])
    json.dumps({"rows": found.rows, "setting": found.setting})
    assert found.label == "scaled down"
    svg, png = found.figures["figure9"](tmp_path / "figure9")
    with Image.open(png) as picture:
        assert picture.width > 1000
    assert svg.read_text().startswith("<?xml")


def test_the_drawing_holds_every_curve_and_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = values(cls=(0.50, 0.55, 0.50), mean=(0.55, 0.45, 0.30))
    curves = {cell: [(10, 0.2), (20, sum(tops.values()) / 3)] for cell, tops in known.items()}
    kept = []
    monkeypatch.setattr(
        figure9.drawing.__wrapped__.__globals__["Drawing"], "save", lambda self, stem: kept.append(self)
    )
    draw(curves, known, tmp_path / "x")
    left, right = kept[0].axes.flat
    assert [line.get_label() for line in left.lines] == [
        f"{pool}, {rate:g}" for pool in ("class token", "mean pooling") for rate in RATES
    ]
    assert [tuple(line.get_ydata()) for line in left.lines] == [
        tuple(100 * top for _, top in curves[cell]) for cell in CELLS
    ]
    assert len({(line.get_color(), line.get_marker()) for line in left.lines}) == 6
    means = [line for line in right.lines if not line.get_label().startswith("_")]
    assert [list(line.get_xdata()) for line in means] == [list(RATES)] * 2
    dots = [line for line in right.lines if line.get_label().startswith("_")]
    assert sorted(y for line in dots for y in line.get_ydata()) == pytest.approx(
        sorted(100 * top for tops in known.values() for top in tops.values())
    )
