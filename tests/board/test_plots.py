"""Values over time as coordinates."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from vitkit.board.plots import timeline


def points(*values: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"date": day, "value": value, "name": f"M{i}"} for i, (day, value) in enumerate(values)]


def drawn(given: list[dict[str, Any]], higher: bool = True, width: int = 800) -> dict[str, Any]:
    chart = timeline(given, higher, width, 330)
    assert chart is not None
    return chart


def test_nothing_is_no_plot() -> None:
    assert timeline([], True, 800, 330) is None


@pytest.mark.parametrize("width", [340, 800])
@pytest.mark.parametrize("higher", [True, False])
def test_dots_lie_within_the_axes_later_to_the_right_greater_above(width: int, higher: bool) -> None:
    chart = drawn(
        points(("2019-06-01", 70.0), ("2020-10-22", 88.55), ("2021-06-18", 85.0), ("2024-01-01", 90.5)), higher, width
    )
    xs, ys = [d["x"] for d in chart["dots"]], [d["y"] for d in chart["dots"]]
    assert xs == sorted(xs)
    assert sorted(range(4), key=lambda i: -ys[i]) == [0, 2, 1, 3]
    assert all(chart["left"] < x < chart["right"] for x in xs)
    assert all(chart["top"] <= y <= chart["bottom"] for y in ys)
    assert 2 <= len(chart["y"]) <= 9
    assert len(chart["x"]) >= 2
    assert all(chart["left"] <= x <= chart["right"] for x, _ in chart["x"])
    assert sum(len(text) * 7 + 10 for _, text in chart["x"]) < width  # the dates have room


@pytest.mark.parametrize(("higher", "names"), [(True, ["M0", "M1", "M3"]), (False, ["M0", "M2"])])
def test_the_line_follows_the_best_so_far(higher: bool, names: list[str]) -> None:
    chart = drawn(
        points(("2019-06-01", 70.0), ("2020-10-22", 88.0), ("2021-06-18", 60.0), ("2024-01-01", 90.0)), higher
    )
    at = {d["name"]: d for d in chart["dots"]}
    first, *rest = names
    path = f"M{at[first]['x']},{at[first]['y']}" + "".join(f" H{at[n]['x']} V{at[n]['y']}" for n in rest)
    assert chart["best"] == f"{path} H{chart['right']}"


def test_of_one_day_only_the_best_counts() -> None:
    chart = drawn(points(("2020-10-22", 70.0), ("2020-10-22", 90.0), ("2020-10-22", 80.0)))
    best = max(chart["dots"], key=lambda d: d["value"])
    assert chart["best"].count("V") == 0
    assert chart["best"].startswith("M")
    assert chart["best"].split(",")[1].split()[0] == str(best["y"])


def test_dots_of_one_day_do_not_hide_each_other() -> None:
    chart = drawn(points(*(("2020-10-22", 80 + i / 50) for i in range(12)), ("2020-10-22", 70.0)))
    for a, b in combinations(chart["dots"], 2):
        assert (a["x"] - b["x"]) ** 2 + (a["y"] - b["y"]) ** 2 >= 8**2
    spread = {d["x"] for d in chart["dots"]}
    assert max(spread) - min(spread) < 130  # still near their day


def test_names_of_the_best_line_cover_no_dot_and_no_other_name() -> None:
    given = [
        {**p, "name": f"ViT-{i}/16 at 384"}
        for i, p in enumerate(points(*((f"2020-{m:02}-01", 80.0 + m) for m in range(1, 13))))
    ]
    for width in (340, 800):
        chart = drawn(given, width=width)
        named = [d for d in chart["dots"] if "label" in d]
        assert named
        boxes = []
        for dot in named:
            wide, label = 7.2 * len(dot["name"]), dot["label"]
            start = label["x"] - {"start": 0, "middle": wide / 2, "end": wide}[label["anchor"]]
            boxes.append((start, label["y"] - 11, start + wide, label["y"] + 3))
            assert start >= chart["left"] - 0.1
            assert not any(
                start < d["x"] < start + wide and label["y"] - 11 < d["y"] < label["y"]
                for d in chart["dots"]
                if d is not dot
            )
        for a, b in combinations(boxes, 2):
            assert a[2] <= b[0] + 0.2 or b[2] <= a[0] + 0.2 or a[3] <= b[1] + 0.2 or b[3] <= a[1] + 0.2


@pytest.mark.parametrize(
    ("last", "texts"),
    [("2020-10-22", "Oct 2020"), ("2021-06-01", "Jan 2021"), ("2026-01-01", "2024"), ("2095-01-01", "2060")],
)
def test_dates_are_round(last: str, texts: str) -> None:
    chart = drawn(points(("2020-10-22", 1.0), (last, 2.0)))
    assert any(texts in text for _, text in chart["x"])
