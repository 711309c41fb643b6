"""Result rows and run facts, as JSON and as one self-contained page with inline pictures."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vitkit import __version__
from vitkit.charts import confusion_chart, interval_chart, line_chart, reliability_chart
from vitkit.config import write_file, write_json
from vitkit.json_list import without_nan

__all__ = [
    "Row",
    "code_fingerprint",
    "versions",
    "write_analysis",
    "write_audit",
    "write_compare",
    "write_explain",
    "write_report",
    "write_training_report",
]

RATES = {
    "top1": "top-1 accuracy", "top5": "top-5 accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1",
    "ece": "calibration error", "unknown_rate": "flagged as unknown", "map": "mAP", "micro_f1": "micro F1",
    "exact_match": "exact match", "macro_auroc": "macro AUROC", "ce": "corruption error", "mce": "mean corruption error",
}  # fmt: skip  # fractions, shown in percent
MEASURES = {**RATES, "nll": "negative log-likelihood"}


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


def code_fingerprint() -> str:
    """A short sign of vitkit's own source."""
    signed = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        signed.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__} ({signed.hexdigest()[:12]})"


def write_report(
    run: Path,
    facts: Mapping[str, Any],
    pictures: Mapping[str, str] | None = None,
    maps: Mapping[str, str] | None = None,
) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` of a run; the keys of ``facts`` are those of the JSON.

    ``pictures`` are thumbnails of images by name, and ``maps`` of what the model looked at, as data: addresses, for the page only.

    Raises:
        UserError: the files cannot be written.
    """
    write_file(run / "report.html", _render(without_nan(facts), pictures or {}, maps or {}).encode("utf-8", "replace"))
    write_json(run / "report.json", without_nan(facts))  # last: it marks a finished run
    return run / "report.html", run / "report.json"


def write_training_report(run: Path, facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` of a run from a recipe.

    Raises:
        UserError: the files cannot be written.
    """
    finite = without_nan(facts)
    curves = finite["curves"]
    page = _page("pretrain.html.j2").render(
        **finite,
        loss_chart=line_chart(curves["loss"]),
        top1_chart=line_chart([(e["step"], 100 * e["top1"]) for e in curves["evaluations"]]),
    )
    write_file(run / "report.html", page.encode("utf-8", "replace"))
    write_json(run / "report.json", finite)  # last: it marks a finished run
    return run / "report.html", run / "report.json"


def write_audit(folder: Path, facts: Mapping[str, Any], galleries: Sequence[Mapping[str, Any]]) -> tuple[Path, Path]:
    """Write ``audit.json`` and ``audit.html``; ``galleries`` are the page's pictures, which the JSON does not hold.

    Raises:
        UserError: the files cannot be written.
    """
    finite = without_nan(facts)
    page = _page("audit.html.j2").render(**finite, galleries=galleries)
    write_file(folder / "audit.html", page.encode("utf-8", "replace"))
    write_json(folder / "audit.json", finite)
    return folder / "audit.html", folder / "audit.json"


def write_compare(folder: Path, facts: Mapping[str, Any], galleries: Sequence[Mapping[str, Any]]) -> tuple[Path, Path]:
    """Write ``compare.json`` and ``compare.html``; ``galleries`` are the page's pictures, which the JSON does not hold.

    Raises:
        UserError: the files cannot be written.
    """
    finite = without_nan(facts)
    page = _page("compare.html.j2").render(**finite, galleries=galleries, intervals=interval_chart(finite["models"]))
    write_file(folder / "compare.html", page.encode("utf-8", "replace"))
    write_json(folder / "compare.json", finite)
    return folder / "compare.html", folder / "compare.json"


def write_analysis(
    folder: Path, facts: Mapping[str, Any], plates: Sequence[Any], pictures: Mapping[str, Path]
) -> tuple[Path, Path]:
    """Write ``index.html`` and ``analysis.json``; the page holds the SVG ``pictures`` of ``plates``, by their stems.

    The JSON has a line for each of its parts, since some hold a hundred thousand numbers.

    Raises:
        UserError: the files cannot be written.
    """
    finite = without_nan(facts)
    shown = [
        {
            "part": plate.part,
            "text": plate.finding.text,
            "holds": plate.finding.holds,
            "how": plate.how,
            "wide": len(plate.draws) > 1,
            "picture": "data:image/svg+xml;base64," + base64.b64encode(pictures[plate.stem].read_bytes()).decode(),
        }
        for plate in plates
    ]
    page = _page("analyze.html.j2").render(**finite, plates=shown)
    write_file(folder / "index.html", page.encode("utf-8", "replace"))
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}" for key, value in finite.items()
    )
    write_file(folder / "analysis.json", ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "surrogateescape"))
    return folder / "index.html", folder / "analysis.json"


def write_explain(folder: Path, facts: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page ``index.html`` of explained images; ``items`` are those with pictures.

    Raises:
        UserError: the file cannot be written.
    """
    page = _page("explain.html.j2").render(**without_nan(facts), items=without_nan(items))
    write_file(folder / "index.html", page.encode("utf-8", "replace"))
    return folder / "index.html"


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
    environment.filters["address"] = lambda name: quote(name, errors="surrogateescape")
    environment.filters["measure"] = lambda metric: MEASURES.get(metric, metric)
    environment.filters["figure"] = lambda value, metric: _percent(value) if metric in RATES else _number(value)
    return environment.get_template(name)


def _render(facts: Mapping[str, Any], pictures: Mapping[str, str], maps: Mapping[str, str]) -> str:
    curves = facts["curves"]
    train = facts["data"]["per_class"]["train"]
    classes = [{**found, "train": train[i]} for i, found in enumerate(facts["per_class"])]
    multilabel, metric = facts.get("task") == "multi-label", facts["headline"]["metric"]
    rank = "average_precision" if multilabel else "recall"
    return _page("report.html.j2").render(
        **facts,
        loss_chart=line_chart(curves["loss"]),
        top1_chart=line_chart(
            [(e["step"], 100 * e[metric]) for e in curves["evaluations"]], kept=facts["finetune"]["best_step"]
        ),
        intervals=interval_chart(facts["comparison"]),
        pictures=pictures,
        maps=maps,
        reliability=None
        if multilabel
        else reliability_chart(*(facts["calibration"][s]["bins"] for s in ("before", "after"))),
        multilabel=multilabel,
        matrix=None if multilabel else confusion_chart(facts["classes"], facts["confusion"]),
        weakest_first=sorted(classes, key=lambda c: math.inf if c[rank] is None else c[rank]),
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
