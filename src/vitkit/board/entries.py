"""The results on the board: published values from the files of `published/`, the community's listing, and ours.

A published file keeps values as they were printed, with their unit. `Entry.value` is in its metric's unit on the board: rates
in percent. `percent` is the only conversion. Its date is that of publication; with ``"dated": "version"`` it is that of the version
of a page that is edited on and on, and says nothing of when a value on it was found.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from vitkit.board.catalogue import find_dataset, find_metric, find_task, plain
from vitkit.config import UserError, from_dict, override, read_json

__all__ = [
    "COMMUNITY",
    "OURS",
    "PUBLISHED",
    "Entry",
    "all_entries",
    "beside",
    "board_folder",
    "ours",
    "percent",
    "published",
]

PUBLISHED, COMMUNITY, OURS = "published", "community", "ours"
FORMAT, VERSION = "vitkit-board-result", 1


@dataclass(frozen=True)
class Entry:
    """One number on the board."""

    kind: str  # published, community or ours
    task: str  # names of `catalogue.TASKS`, `DATASETS` and `METRICS`
    dataset: str
    metric: str
    value: float  # in `unit`
    unit: str  # the metric's: "%" for rates
    model: str  # as printed; empty where none was
    date: str  # YYYY-MM-DD or YYYY-MM: of the publication, or when our result was added; empty where no date is known
    source: str  # address, or for ours the command
    source_title: str = ""
    source_short: str = ""  # as a table names it: ViT paper
    licence: str = ""
    attribution: str = ""
    as_of: str = ""  # of what has no date: that of the version of the source that was read
    paper: str = ""  # name of `catalogue.PAPERS`; empty for ours
    table: str = ""  # Table 2
    metric_title: str = ""  # as printed, where the source has its own word
    pretraining: str = ""  # data that the model was pre-trained on
    spread: float | None = None  # plus or minus, as printed (standard deviation over runs)
    low: float | None = None  # of `interval`
    high: float | None = None
    interval: str = ""  # what low to high is: 95 %, range of 5 runs
    n: int = 0  # images scored; 0 where the source does not say
    part: bool = False  # fewer images than the published split: not comparable
    command: str = ""
    code: str = ""  # fingerprint of vitkit's source
    data: str = ""  # fingerprint of the images
    fingerprint: str = ""  # of the model's weights
    plausible: bool = True
    reason: str = ""  # why it is not
    extra: Mapping[str, Any] = field(default_factory=dict)  # epochs, exaFLOPs, resolution, hours, ...

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)


def all_entries() -> list[Entry]:
    """Every result: published, the community's, ours.

    Raises:
        UserError: a file of our results that cannot be read.
    """
    return [*published(), *ours()]


@cache
def published() -> tuple[Entry, ...]:
    """The results shipped with vitkit: published ones and the community's."""
    files = sorted(resources.files("vitkit").joinpath("board/published").iterdir(), key=lambda file: file.name)
    return tuple(
        entry
        for file in files
        if file.name.endswith(".json")
        for entry in _read_published(json.loads(file.read_text(encoding="utf-8")))
    )


def board_folder() -> Path:
    """Where our results are kept: $VITKIT_BOARD, else ./results-board."""
    return Path(os.environ.get("VITKIT_BOARD") or "results-board")


def ours(folder: Path | None = None) -> list[Entry]:
    """Our own results, in the order in which they were added.

    Raises:
        UserError: a file that is none of the board's, or holds a result that `vit results add` would refuse.
    """
    folder = folder or board_folder()
    found = []
    for path in sorted(folder.glob("*.json")):
        stored = read_json(path)
        if not isinstance(stored, dict) or stored.get("kind") != FORMAT:
            raise UserError(f"{path} is no result of the board (no kind {FORMAT!r}); move it out of {folder}.")
        if stored.get("version") != VERSION:
            raise UserError(f"{path} is of version {stored.get('version')}; this vitkit reads version {VERSION}.")
        entries = stored.get("entries")
        if not isinstance(entries, list) or not all(isinstance(values, dict) for values in entries):
            raise UserError(f"{path}: entries must be a list of objects; make it again with vit results add RUN.")
        found += [_checked(from_dict(Entry, values, str(path)), str(path)) for values in entries]
    return found


def _checked(entry: Entry, where: str) -> Entry:
    """An entry of ours that a page can show: files can be edited, and come without `vit results add`."""
    override(
        entry, {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}, where
    )  # kinds of values
    for name, find in (("task", find_task), ("dataset", find_dataset), ("metric", find_metric)):
        try:
            known = find(getattr(entry, name)).name
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if known != getattr(entry, name):
            raise UserError(f"{where}: {name} {getattr(entry, name)!r} is {known!r} on the board.")
    metric, low, high = find_metric(entry.metric), entry.low, entry.high
    ends = [entry.value] if low is None and high is None else [low, entry.value, high]
    numbers = [end for end in ends if isinstance(end, int | float) and math.isfinite(end)]
    most = math.inf if metric.high is None else metric.high
    if len(numbers) < len(ends) or [metric.low, *numbers, most] != sorted([metric.low, *numbers, most]):
        raise UserError(
            f"{where}: {metric.title} of {entry.value:g} {entry.unit}, interval {low} to {high}, is not possible; expected "
            f"{metric.low:g} to {most:g} {metric.unit}, the value within its interval."
        )
    extra = entry.extra if isinstance(entry.extra, Mapping) else {}
    for name, right in (
        ("kind", entry.kind == OURS),
        ("unit", entry.unit == metric.unit),
        ("date", _is_date(entry.date)),
        ("n", entry.n > 0),
        *((name, bool(getattr(entry, name))) for name in ("command", "code", "data")),
        ("extra", extra is entry.extra),
        *((f"extra.{key}", isinstance(extra.get(key, ""), str)) for key in ("label", "protocol")),
        *((f"extra.{key}", isinstance(extra.get(key, {}), Mapping)) for key in ("settings", "versions")),
    ):  # fmt: skip
        if not right:
            raise UserError(
                f"{where}: {name} is not what vit results add writes; make it again with vit results add RUN."
            )
    return entry


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def beside(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """The published value that one of ours stands beside: of the same model where there is one, else the best; None without any."""
    rivals = [
        other for other in entries if other.kind == PUBLISHED and other.plausible and _table(other) == _table(entry)
    ]
    same = [other for other in rivals if plain(other.model) == plain(entry.model)]
    return max(same or rivals, key=quality, default=None)


def quality(entry: Entry) -> float:
    """Sorts better values higher."""
    return entry.value if find_metric(entry.metric).better == "higher" else -entry.value


def _table(entry: Entry) -> tuple[str, str, str]:
    return entry.task, entry.dataset, entry.metric


def _read_published(file: Mapping[str, Any]) -> Iterator[Entry]:
    source = file["source"]
    common = {
        "kind": source["kind"], "paper": source["paper"], "date": source["date"], "source": source["address"],
        "source_title": source["title"], "source_short": source["short"],
        "licence": source["licence"], "attribution": source["attribution"],
    }  # fmt: skip
    if source.get("dated") == "version":
        common |= {"date": "", "as_of": source["date"]}
    for table in file["tables"]:
        for row in table["rows"]:
            values = {"task": "image-classification", "metric": "top1", **common, **table.get("all", {}), **row}
            values["extra"] = {**table.get("all", {}).get("extra", {}), **row.get("extra", {})}
            if values["date"]:
                values["as_of"] = ""  # a row or table with a date of its own
            metric = find_metric(values["metric"])
            unit = values.pop("unit", metric.unit)
            for key in ("value", "spread", "low", "high"):
                if values.get(key) is not None:
                    values[key] = percent(values[key], unit)
            find_dataset(values["dataset"])
            yield Entry(unit=metric.unit, table=table["table"], **values)


def percent(value: float, unit: str) -> float:
    """A value in the board's unit: a fraction becomes percent, without the dust of binary arithmetic, others stay."""
    return round(100 * value, 10) if unit == "fraction" else value
