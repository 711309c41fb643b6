"""Result rows and run facts, as JSON and as one self-contained page with inline pictures."""

from __future__ import annotations

import dataclasses
import math
import platform
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from itertools import accumulate
from pathlib import Path
from typing import Any

from vitkit import __version__
from vitkit.config import write_file, write_json

__all__ = ["Row", "confusion_chart", "interval_chart", "line_chart", "versions", "write_audit", "write_report"]

Points = Sequence[tuple[float, float]]
RATES = {
    "top1": "top-1 accuracy", "top5": "top-5 accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1",
    "ece": "calibration error",
}  # fmt: skip  # fractions, shown in percent
MEASURES = {**RATES, "nll": "negative log-likelihood"}
SMOOTHED = 40  # points from which a curve is drawn as a moving average over the faint raw one
DRAWN = 400  # points of a drawn path; more cannot be seen


@dataclass(frozen=True)
class Row:
    """One number: what was measured, on what, with which model."""

    task: str
    dataset: str
    metric: str
    value: float
    low: float | None = None  # 95 % interval, where there is one
    high: float | None = None
    n: int = 0
    model: str = ""
    source: str = "measured"
    label: str = ""  # "selection, optimistic" where the data chose something about the model

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"vitkit": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "numpy", "pillow", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_report(run: Path, facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` of a run; the keys of ``facts`` are those of the JSON.

    Raises:
        UserError: the files cannot be written.
    """
    write_file(run / "report.html", _render(_finite(facts)).encode("utf-8", "replace"))
    write_json(run / "report.json", _finite(facts))  # last: it marks a finished run
    return run / "report.html", run / "report.json"


def write_audit(folder: Path, facts: Mapping[str, Any], galleries: Sequence[Mapping[str, Any]]) -> tuple[Path, Path]:
    """Write ``audit.json`` and ``audit.html``; ``galleries`` are the page's pictures, which the JSON does not hold.

    Raises:
        UserError: the files cannot be written.
    """
    finite = _finite(facts)
    page = _page("audit.html.j2").render(**finite, galleries=galleries)
    write_file(folder / "audit.html", page.encode("utf-8", "replace"))
    write_json(folder / "audit.json", finite)
    return folder / "audit.html", folder / "audit.json"


def _finite(value: Any) -> Any:
    """JSON has no nan: a number that does not exist (the precision of a class never predicted) becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _page(name: str) -> Any:
    """A page's template; pages share their head and sections by name."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda part: resources.files("vitkit").joinpath(part).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "plain": _plain}
    environment.filters["measure"] = lambda metric: MEASURES.get(metric, metric)
    environment.filters["figure"] = lambda value, metric: _percent(value) if metric in RATES else _number(value)
    return environment.get_template(name)


def _render(facts: Mapping[str, Any]) -> str:
    curves = facts["curves"]
    train = facts["data"]["per_class"]["train"]
    classes = [{**found, "train": train[i]} for i, found in enumerate(facts["per_class"])]
    return _page("report.html.j2").render(
        **facts,
        loss_chart=line_chart(curves["loss"]),
        top1_chart=line_chart(
            [(e["step"], 100 * e["top1"]) for e in curves["evaluations"]], kept=facts["finetune"]["best_step"]
        ),
        intervals=interval_chart(facts["comparison"]),
        matrix=confusion_chart(facts["classes"], facts["confusion"]),
        weakest_first=sorted(classes, key=lambda c: math.inf if c["recall"] is None else c["recall"]),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _plain(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " x ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


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
    ticks_y = _ticks(min(ys), max(ys))
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
        "x": [(px(t), f"{t:,g}") for t in _ticks(x0, x1, whole=True) if x0 <= t <= x1],
        "left": left,
        "right": width - right,
        "bottom": height - bottom,
    }


def _ticks(low: float, high: float, whole: bool = False, about: int = 5) -> list[float]:
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
    ticks = _ticks(100 * min(r["low"] for r in rows), 100 * max(r["high"] for r in rows))

    def at(rate: float) -> float:
        return round(100 * (100 * rate - ticks[0]) / (ticks[-1] - ticks[0]), 2)

    placed = [
        {**r, "from": at(r["low"]), "long": round(at(r["high"]) - at(r["low"]), 2), "at": at(r["value"])} for r in rows
    ]
    return {"rows": placed, "ticks": [(at(t / 100), f"{t:g}%") for t in ticks]}


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
