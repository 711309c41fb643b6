"""Geometry of the report's charts: numbers to coordinates. The page draws them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

__all__ = ["confusion_chart", "interval_chart", "line_chart", "reliability_chart", "round_ticks"]

Points = Sequence[tuple[float, float]]
SMOOTHED = 40  # points from which a curve is drawn as a moving average over the faint raw one
DRAWN = 400  # points of a drawn path; more cannot be seen


def line_chart(
    points: Sequence[Sequence[float | None]], kept: float | None = None, width: int = 420, height: int = 210
) -> dict[str, Any] | None:
    """Geometry of a line chart over (x, y) points, x whole: paths, axis ticks, the point ``kept``; None without points.

    Many points become a moving average, ``path``, over the points themselves, ``raw``.
    """
    found = sorted((float(x), float(y)) for x, y in points if x is not None and y is not None)
    if not found:
        return None
    left, right, top, bottom = 50, 14, 12, 28
    xs, ys = [x for x, _ in found], [y for _, y in found]
    ticks_y = round_ticks(min(ys), max(ys))
    low, high = min(ticks_y[0], min(ys)), max(ticks_y[-1], max(ys))
    x0, x1 = (xs[0], xs[-1]) if xs[-1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)

    def px(x: float) -> float:
        return round(left + (x - x0) / (x1 - x0) * (width - left - right), 1)

    def py(y: float) -> float:
        return round(height - bottom - (y - low) / (high - low) * (height - top - bottom), 1)

    def path(drawn: Points) -> str:
        return "M" + " L".join(f"{px(x)},{py(y)}" for x, y in _thinned(drawn))

    smooth = len(found) >= SMOOTHED
    return {
        "width": width,
        "height": height,
        "path": path(list(zip(xs, _moving_average(ys, len(ys) // 25), strict=True)) if smooth else found),
        "raw": path(found) if smooth else None,
        "marks": [] if smooth else [(px(x), py(y)) for x, y in found],
        "kept": next(((px(x), py(y)) for x, y in found if x == kept), None),
        "y": [(py(t), f"{t:g}") for t in ticks_y],
        "x": [(px(t), f"{t:,g}") for t in round_ticks(x0, x1, whole=True) if x0 <= t <= x1],
        "left": left,
        "right": width - right,
        "bottom": height - bottom,
    }


def round_ticks(low: float, high: float, whole: bool = False, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high], or the way from 0 where the two are one number."""
    if math.isclose(low, high, rel_tol=1e-4):  # closer than a label's digits could tell
        low, high = min(low, 0.0), max(high, 0.0 if low else 1.0)
    raw = max((high - low) / about, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [m * power for m in (1, 2, 2.5, 5, 10)]
    step = next((s for s in steps if s >= raw and (s % 1 == 0 or not whole)), steps[-1])
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _moving_average(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with up to ``reach`` neighbours on either side."""
    sums = [0.0, *accumulate(values)]
    bounds = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in bounds]


def _thinned(points: Points) -> Points:
    """At most DRAWN points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= DRAWN:
        return points
    length = math.ceil(2 * len(points) / DRAWN)
    stretches = [points[i : i + length] for i in range(0, len(points), length)]
    return [p for s in stretches for p in sorted({min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1])})]


def interval_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates with their intervals on one axis, as percentages of its length."""
    ticks = round_ticks(100 * min(r["low"] for r in rows), 100 * max(r["high"] for r in rows))

    def at(rate: float) -> float:
        return round(100 * (100 * rate - ticks[0]) / (ticks[-1] - ticks[0]), 2)

    placed = [
        {**r, "from": at(r["low"]), "long": round(at(r["high"]) - at(r["low"]), 2), "at": at(r["value"])} for r in rows
    ]
    return {"rows": placed, "ticks": [(at(t / 100), f"{t:g}%") for t in ticks]}


def reliability_chart(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Confidence (x) against accuracy (y), both 0 to 1, of bins before and after calibration; dots grow with their images."""
    side, left, bottom = 230, 46, 34
    most = max((b["n"] for b in (*before, *after)), default=1)

    def placed(bins: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
        return [
            {
                "x": round(left + b["confidence"] * side, 1),
                "y": round(10 + (1 - b["accuracy"]) * side, 1),
                "r": round(2.5 + 7 * math.sqrt(b["n"] / most), 1),
                **b,
            }
            for b in bins
        ]

    ticks = [(t / 5, f"{20 * t}%") for t in range(6)]
    return {
        "width": left + side + 14,
        "height": 10 + side + bottom,
        "left": left,
        "right": left + side,
        "top": 10,
        "bottom": 10 + side,
        "x": [(round(left + t * side, 1), text) for t, text in ticks],
        "y": [(round(10 + (1 - t) * side, 1), text) for t, text in ticks],
        "before": placed(before),
        "after": placed(after),
    }


def confusion_chart(classes: Sequence[str], confusion: Sequence[Sequence[int]], size: int = 580) -> dict[str, Any]:
    """Geometry of a confusion matrix about ``size`` wide: cells that are not 0, names that fit, frequent confusions."""
    k = len(classes)
    cell = min(52.0, size / k)
    cells, labels = [], [_short(name) for name in classes]
    for true, row in enumerate(confusion):
        for guess, count in enumerate(row):
            if count:
                cells.append({"true": true, "guess": guess, "count": count, "of": sum(row), "share": count / sum(row)})
    room = math.ceil(6.8 * max(map(_columns, labels))) + 14
    every = math.ceil(13 / cell)  # a name needs 13 units
    wrong = [c for c in cells if c["true"] != c["guess"]]
    longest = max((len(str(c["count"])) for c in cells), default=1)
    return {
        "cell": round(cell, 3),
        "before": max(86, room),  # left of the matrix, where the axes are named, too
        "above": max(44, room),
        "side": round(cell * k, 1),
        "cells": cells,
        "counts": cell >= 16,
        "font": round(min(13.0, 0.5 * cell, 1.4 * cell / longest), 1),
        "faintest": 0.15 if cell >= 16 else 0.45,  # one wrong image must show, also in a cell of a few pixels
        "names": [(i, label) for i, label in enumerate(labels) if i % every == 0],
        "confusions": sorted(wrong, key=lambda c: (-c["count"], -c["share"]))[:12],
    }


def _short(name: str, most: int = 18) -> str:
    """A long name with its middle left out: names of one set often begin alike."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
