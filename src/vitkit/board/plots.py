"""Geometry of values over time: dates and values to coordinates. The page draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from vitkit.charts import round_ticks

__all__ = ["timeline"]

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
RADIUS = 5.0
LETTER = 7.2  # width of a letter of 13 units, about


def timeline(points: Sequence[Mapping[str, Any]], higher: bool, width: int, height: int) -> dict[str, Any] | None:
    """Geometry of values over time; None without points.

    A point has ``date`` (ISO), ``value``, ``name`` and whatever else, which is passed on. Dots that would hide each other stand
    side by side; ``best`` is the path of the best value so far, and its points carry ``label`` where a name has room.
    """
    if not points:
        return None
    left, right, top, bottom = 46, 16, 22, 30
    placed = sorted(points, key=lambda p: (p["date"], p["value"] if higher else -p["value"], p["name"]))
    days = [date.fromisoformat(p["date"]).toordinal() for p in placed]
    values = [p["value"] for p in placed]
    marks_y = round_ticks(min(values), max(values))
    low, high = min(marks_y[0], *values), max(marks_y[-1], *values)
    pad = max(45, (days[-1] - days[0]) // 10)
    day0, day1 = days[0] - pad, days[-1] + pad

    def px(day: float) -> float:
        return round(left + (day - day0) / (day1 - day0) * (width - left - right), 1)

    def py(value: float) -> float:
        return round(height - bottom - (value - low) / (high - low) * (height - top - bottom), 1)

    dots: list[dict[str, Any]] = []
    for point, day in zip(placed, days, strict=True):
        dots.append(
            {**point, "x": _beside(dots, px(day), py(point["value"]), left, width - right), "y": py(point["value"])}
        )
    best = _best(list(zip(days, dots, strict=True)), higher)
    path = f"M{px(best[0][0])},{best[0][1]['y']}"
    for day, dot in best[1:]:
        path += f" H{px(day)} V{dot['y']}"
    _label([dot for _, dot in best], dots, left, width - right)
    return {
        "width": width, "height": height, "left": left, "right": width - right, "bottom": height - bottom, "top": top,
        "dots": dots, "best": f"{path} H{width - right}",
        "y": [(py(t), f"{t:g}") for t in marks_y],
        "x": [(px(day), text) for day, text in _dates(day0, day1, width)],
    }  # fmt: skip


def _beside(dots: Sequence[Mapping[str, Any]], x: float, y: float, left: int, right: int) -> float:
    """The place nearest to ``x`` where no earlier dot is hidden; ``x`` itself where there is none near."""
    for step in range(13):
        for sign in (1, -1):
            at = x + sign * step * RADIUS
            free = all((at - d["x"]) ** 2 + (y - d["y"]) ** 2 >= (1.7 * RADIUS) ** 2 for d in dots)
            if free and left + RADIUS <= at <= right - RADIUS:
                return round(at, 1)
    return x


def _best(dots: Sequence[tuple[int, dict[str, Any]]], higher: bool) -> list[tuple[int, dict[str, Any]]]:
    """The dots that were better than all of earlier days, one a day."""
    found: list[tuple[int, dict[str, Any]]] = []
    for day, dot in dots:
        if found and (dot["value"] <= found[-1][1]["value"] if higher else dot["value"] >= found[-1][1]["value"]):
            continue
        if found and found[-1][0] == day:
            found.pop()
        found.append((day, dot))
    return found


def _label(best: Sequence[dict[str, Any]], dots: Sequence[Mapping[str, Any]], left: int, right: int) -> None:
    """Name the dots of the best line, the latest first, where the name covers no dot and no other name."""
    taken: list[tuple[float, float, float, float]] = []
    for dot in reversed(best):
        wide = LETTER * len(dot["name"])
        for anchor, start, rise in (
            ("end", dot["x"] - 9 - wide, 4), ("middle", dot["x"] - wide / 2, -10), ("end", dot["x"] + 4 - wide, -10),
            ("start", dot["x"] + 9, 4), ("start", dot["x"] - 4, -10),
        ):  # fmt: skip
            box = (start, dot["y"] + rise - 11, start + wide, dot["y"] + rise + 3)
            hit = any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
            hidden = any(
                box[0] - RADIUS < d["x"] < box[2] + RADIUS and box[1] - 3 < d["y"] < box[3] + 3
                for d in dots
                if d is not dot
            )
            if not hit and not hidden and start >= left and start + wide <= right + 12:
                taken.append(box)
                x = {"end": start + wide, "middle": start + wide / 2, "start": start}[anchor]
                dot["label"] = {"x": round(x, 1), "y": round(dot["y"] + rise, 1), "anchor": anchor}
                break


def _dates(first: int, last: int, width: int) -> list[tuple[int, str]]:
    """Round dates between two days (proleptic ordinals), as many as have room: months, quarters, half years or years."""
    begin, end = date.fromordinal(first), date.fromordinal(last)
    for months in (1, 3, 6, 12, 24, 60, 120, 240):
        found = []
        for month in range(12 * begin.year // months * months, 12 * end.year + 12, months):
            day = date(month // 12, month % 12 + 1, 1)
            if begin <= day <= end:
                found.append(
                    (day.toordinal(), str(day.year) if months >= 12 else f"{MONTHS[day.month - 1]} {day.year}")
                )
        if len(found) * (50 if months >= 12 else 92) <= width - 62:
            return found
    return []
