"""Result rows and run facts, as JSON and as one self-contained page with inline pictures."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from vitkit.config import write_file, write_json

__all__ = ["Row", "line_chart", "versions", "write_report"]


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
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("vitkit", "torch", "numpy", "pillow", "safetensors"):
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
    write_json(run / "report.json", _finite(facts))
    write_file(run / "report.html", _render(_finite(facts)).encode())
    return run / "report.html", run / "report.json"


def _finite(value: Any) -> Any:
    """JSON has no nan: a number that does not exist (the precision of a class never predicted) becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _render(facts: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f} %"
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4g}"
    page = resources.files("vitkit").joinpath("report.html.j2").read_text(encoding="utf-8")
    curves = facts["curves"]
    return environment.from_string(page).render(
        **facts,
        loss_chart=line_chart(curves["loss"]),
        top1_chart=line_chart([(e["step"], 100 * e["top1"]) for e in curves["evaluations"]]),
        confusion_cells=_confusion_cells(facts["confusion"]),
    )


def line_chart(points: Sequence[Sequence[float]], width: int = 520, height: int = 200) -> dict[str, Any] | None:
    """Geometry of a line chart over (x, y) points: an SVG path, axis ticks and the last point; None without points."""
    if not points:
        return None
    left, right, top, bottom = 46, 12, 10, 26
    xs, ys = [float(p[0]) for p in points], [float(p[1]) for p in points]
    ticks_y = _ticks(min(ys), max(ys))
    low, high = min(ticks_y[0], min(ys)), max(ticks_y[-1], max(ys))
    x0, x1 = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def px(x: float) -> float:
        return round(left + (x - x0) / (x1 - x0) * (width - left - right), 1)

    def py(y: float) -> float:
        return round(height - bottom - (y - low) / ((high - low) or 1) * (height - top - bottom), 1)

    marks = list(zip([px(x) for x in xs], [py(y) for y in ys], strict=True))
    return {
        "width": width,
        "height": height,
        "path": "M" + " L".join(f"{x},{y}" for x, y in marks),
        "marks": marks if len(marks) <= 40 else [],
        "y": [(py(t), f"{t:g}") for t in ticks_y],
        "x": [(px(t), f"{t:g}") for t in _ticks(x0, x1) if x0 <= t <= x1],
        "left": left,
        "right": width - right,
        "bottom": height - bottom,
    }


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high]."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _confusion_cells(confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Cells of the confusion matrix with a share of their row, for shading."""
    cells = []
    for r, row in enumerate(confusion):
        total = sum(row)
        for c, count in enumerate(row):
            share = count / total if total else 0.0
            cells.append({"row": r, "column": c, "count": count, "share": round(share, 3)})
    return cells
