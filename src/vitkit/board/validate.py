"""Checks a submitted result before it reaches the board. Whatever is wrong is named with its field; nothing is repaired."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitkit.board.catalogue import Dataset, Metric, find_dataset, find_metric, find_task, metrics_of
from vitkit.board.entries import OURS, Entry, percent
from vitkit.board.submission import Submission
from vitkit.config import UserError

__all__ = ["Checked", "validate"]

OPTIMISTIC = "optimistic"  # in the label of a row whose images took part in making the model
ASIDE = (  # metrics of our own rows that are no figure of a table
    (re.compile("unknown_rate"), "it says how often the model asks for help, not how often it is right"),
    (re.compile(r"\d+shot-seed-\d+"), "one of the draws whose mean is a figure of the board"),
    (re.compile("ce"), "a part of the mean that is a figure of the board"),
)
UNIT_OF_ROWS = "fraction"
SHOWN = 6  # faults in a message


class _FaultError(Exception):
    """One field and what is wrong with it."""


@dataclass(frozen=True)
class Checked:
    """What reaches the board, and what was left out of it, each line rows and a reason."""

    entries: list[Entry]
    left_out: list[str]


@dataclass(frozen=True)
class Named:
    """What the user says a run's own names are on the board; empty: as the rows name it."""

    dataset: str = ""
    task: str = ""
    model: str = ""


def validate(
    submission: Submission,
    existing: Sequence[Entry],
    *,
    date: str,
    dataset: str = "",
    task: str = "",
    model: str = "",
    part: bool = False,
) -> Checked:
    """Check every row of a submission.

    Args:
        existing: entries on the board, for duplicates.
        date: when it is added, YYYY-MM-DD.
        dataset, task, model: what the run's are on the board, in place of its own names.
        part: fewer images than published were scored, and the result may be marked so.

    Raises:
        UserError: anything wrong with any row, each with its field and reason; or no row that belongs on the board.
    """
    named = Named(dataset, task, model)
    faults, left_out = _Reasons(), _Reasons()
    entries: list[Entry] = []
    try:
        _check_rows(submission, named)
        common = _common(submission, named, date)
    except _FaultError as fault:
        faults.add("", str(fault))
    else:
        for row in submission.rows:
            try:
                found = _entry(row, submission, named, common, part)
            except _FaultError as fault:
                faults.add(_shown(row), str(fault))
                continue
            if isinstance(found, str):
                left_out.add(_shown(row), found)
            elif twin := next((other for other in [*existing, *entries] if _same(found, other)), None):
                faults.add(_shown(row), _duplicate(twin))
            else:
                entries.append(found)
    if wrong := faults.lines() or ([] if entries else left_out.lines()):
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(f"{submission.where} is not added to the board: {'; '.join(wrong[:SHOWN])}{more}.")
    return Checked(entries, left_out.lines())


class _Reasons:
    """Rows by what is to be said of them, so that it is said once."""

    def __init__(self) -> None:
        self._rows: dict[str, list[str]] = {}

    def add(self, row: str, reason: str) -> None:
        self._rows.setdefault(reason.rstrip("."), []).append(row)

    def lines(self) -> list[str]:
        found = []
        for reason, rows in self._rows.items():
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            found.append(f"{rows[0]}{more}: {reason}" if rows[0] else reason)
        return found


def _check_rows(submission: Submission, named: Named) -> None:
    if not submission.rows:
        raise _FaultError("rows: there is none")
    datasets = sorted({str(row.get("dataset")).partition("/")[0] for row in submission.rows})
    if named.dataset and len(datasets) > 1:
        raise _FaultError(f"dataset: the rows are of {', '.join(datasets)}, so one --dataset cannot name them all")


def _common(submission: Submission, named: Named, date: str) -> Entry:
    """The fields that all entries of a submission share; its table's are filled in for each row."""
    for field, value, what in (
        ("command", submission.command, "the command that made it"),
        ("code", submission.code, "the fingerprint of vitkit's source, which newer versions write"),
        ("model", named.model or submission.model, "a name for the model; give --model-name"),
        ("data", any(submission.data.values()), "the fingerprint of the images that were scored"),
    ):
        if not value:
            raise _FaultError(f"{field}: missing; expected {what}")
    facts = {"protocol": submission.protocol, "settings": submission.settings, "versions": submission.versions}
    try:
        json.dumps(facts, allow_nan=False)
    except ValueError:
        raise _FaultError("settings, versions: they hold a number that is not finite") from None
    return Entry(
        kind=OURS,
        task="",
        dataset="",
        metric="",
        value=math.nan,
        unit="",
        model=named.model or submission.model,
        date=date,
        source=submission.command,
        command=submission.command,
        code=submission.code,
        fingerprint=submission.model_fingerprint,
        extra={key: value for key, value in facts.items() if value},
    )


def _entry(row: Mapping[str, Any], submission: Submission, named: Named, common: Entry, part: bool) -> Entry | str:
    """The entry of a row, or why it does not belong on the board though nothing is wrong with it."""
    if not isinstance(row.get("label") or "", str):
        raise _FaultError(f"label: {row['label']!r} is no text")
    if OPTIMISTIC in str(row.get("label", "")):
        return f"label: {row['label']}, so it is no figure of new images"
    dataset, split = _dataset(row, named)
    task = _known(find_task, named.task or row.get("task"), "task", dataset)
    name = row.get("metric")
    for pattern, why in ASIDE:
        if pattern.fullmatch(str(name)):
            return f"metric: {why}"
    metric = _known(find_metric, name, "metric")
    metric, whole = _of_split(dataset, split, metric)
    if metric is None:
        return f"dataset: the board's figures are of {dataset.title}'s {dataset.split} split, this one is of {split!r}"
    if metric.name not in metrics_of(task, dataset):
        return (
            f"metric: {metric.title} is none of those of {task.title} on {dataset.title}: "
            f"{', '.join(metrics_of(task, dataset))}"
        )
    unit = _unit(row, metric)
    value = _value(row, "value", metric, unit)
    low, high = _interval(row, value, metric, unit)
    _check_direction(row, metric)
    n = _count(row, dataset, whole, part)
    sign = _sign(submission.data, split, str(row.get("dataset")))
    if not sign:
        raise _FaultError(
            f"data: no fingerprint of the {split or 'scored'} images; there are some of {', '.join(submission.data)}"
        )
    label = {"label": row["label"]} if row.get("label") else {}
    return replace(
        common,
        task=task.name,
        dataset=dataset.name,
        metric=metric.name,
        unit=metric.unit,
        value=value,
        low=low,
        high=high,
        interval="95 %" if low is not None else "",
        n=n,
        part=whole is not None and n != whole,
        data=sign,
        extra={**common.extra, "split": split, **label},
    )


def _sign(data: Mapping[str, str], split: str, dataset: str) -> str:
    """The fingerprint of a row's images: of its split, else of its data set, else of all that was scored."""
    return next((data[key] for key in (split or dataset, dataset, dataset.partition("/")[0], "") if data.get(key)), "")


def _dataset(row: Mapping[str, Any], named: Named) -> tuple[Dataset, str]:
    """The data set of a row and the split of it, empty where the row says none."""
    text = row.get("dataset")
    if not isinstance(text, str) or not text:
        raise _FaultError(f"dataset: {text!r} is no name of a data set")
    try:
        return find_dataset(named.dataset or text), "" if not named.dataset else text.partition("/")[2]
    except UserError as unknown:
        if named.dataset:
            raise _FaultError(f"{unknown} It is what --dataset says") from None
        name, _, split = text.partition("/")
        try:
            return find_dataset(name), split
        except UserError:
            pass
        name, _, split = text.rpartition("/")
        try:
            return find_dataset(name), split
        except UserError as error:
            hint = " If the images are those of a known data set, say so: --dataset NAME"
            raise _FaultError(f"{error if name else unknown}{hint}") from None


def _of_split(dataset: Dataset, split: str, metric: Metric) -> tuple[Metric | None, int | None]:
    """The metric that a figure of this split counts as, and the images it should be of; no metric where it is of another split."""
    for name, own in dataset.splits:
        if split == name and metric.name == "top1":
            return find_metric(own), dataset.images if name == "all" else None
    usual = {"", "test", "all", dataset.split} | ({"val"} if dataset.split == "validation" else set())
    return (metric if split in usual else None), dataset.images


def _known(find: Any, name: object, field: str, *more: Any) -> Any:
    if not isinstance(name, str) or not name:
        raise _FaultError(f"{field}: {name!r} is no name of a {field}")
    try:
        return find(name, *more)
    except UserError as error:
        raise _FaultError(str(error)) from None


def _unit(row: Mapping[str, Any], metric: Metric) -> str:
    own = UNIT_OF_ROWS if metric.rate else metric.unit
    unit = row.get("unit", own)
    if unit not in (own, metric.unit):
        raise _FaultError(
            f"unit: {unit!r}; {metric.title} is in {own!r}" + (f" or {metric.unit!r}" if own != metric.unit else "")
        )
    return str(unit)


def _value(row: Mapping[str, Any], key: str, metric: Metric, unit: str) -> float:
    """A number of a row in the board's unit."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _FaultError(f"{key}: {value!r} is no number")
    try:
        value = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        value = math.inf
    if not math.isfinite(value):
        raise _FaultError(f"{key}: {value} is not a finite number")
    shown = percent(value, unit)
    if metric.low <= shown and (metric.high is None or shown <= metric.high):
        return shown
    if not metric.rate:
        raise _FaultError(f"{key}: {value:g} is below {metric.low:g}, the least that {metric.title} can be")
    limit = f"the {metric.high:g} %" if metric.high is not None and shown > metric.high else "the 0 %"
    side = "above" if shown > metric.low else "below"
    reason = f"{key}: {value:g} is {shown:g} %, {side} {limit} that {metric.title} can be" if unit == UNIT_OF_ROWS else (
        f"{key}: {value:g} % is {side} {limit} that {metric.title} can be"
    )  # fmt: skip
    raise _FaultError(reason + _hint(value, metric, unit))


def _hint(value: float, metric: Metric, unit: str) -> str:
    """What somebody may have meant who wrote percent where a fraction belongs."""
    if unit != UNIT_OF_ROWS or value <= 0:
        return ""
    rule = ". Rows hold fractions from 0 to 1"
    if metric.high is None or value <= metric.high:
        return f"{rule}: if {value:g} % is meant, it is {value / 100:g}"
    return f"{rule}, and read as percent {value:g} % is above {metric.high:g} % too"


def _interval(row: Mapping[str, Any], value: float, metric: Metric, unit: str) -> tuple[float | None, float | None]:
    if row.get("low") is None and row.get("high") is None:
        return None, None
    for key, other in (("low", "high"), ("high", "low")):
        if row.get(key) is None:
            raise _FaultError(f"{key}: missing, though there is a {other}; an interval has both ends or none")
    low, high = _value(row, "low", metric, unit), _value(row, "high", metric, unit)
    if not low <= value <= high:
        raise _FaultError(f"low, high: the value {value:g} is not in its interval [{low:g}, {high:g}]")
    return low, high


def _check_direction(row: Mapping[str, Any], metric: Metric) -> None:
    direction = row.get("direction", metric.better)
    if direction != metric.better:
        raise _FaultError(
            f"direction: {direction!r}, but of {metric.title} {metric.better} is better; an error is not an accuracy"
        )


def _count(row: Mapping[str, Any], dataset: Dataset, whole: int | None, part: bool) -> int:
    n = row.get("n")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise _FaultError(f"n: {n!r} is no number of scored images")
    if whole is None or n == whole:
        return n
    published = f"the published {dataset.split} split of {dataset.title} has {whole:,}"
    if n > whole:
        raise _FaultError(f"n: {n:,} images, but {published}")
    if not part:
        raise _FaultError(
            f"n: {n:,} images, but {published}; --part puts it on the board marked as a part, without a rank"
        )
    return n


def _same(entry: Entry, other: Entry) -> bool:
    """Is it the same measurement: of the same model, on the same images, in the same metric?"""
    if other.kind != OURS:
        return False
    models = (entry.fingerprint or entry.model) == (other.fingerprint or other.model)
    tables = (entry.task, entry.dataset, entry.metric) == (other.task, other.dataset, other.metric)
    return models and tables and entry.data == other.data


def _duplicate(twin: Entry) -> str:
    figure = f"{twin.value:g} {twin.unit}"
    return f"fingerprint: this model's figure on these images is on the board already ({figure}, added {twin.date})"


def _shown(row: Mapping[str, Any]) -> str:
    return " ".join(str(row.get(key, "?")) for key in ("task", "dataset", "metric"))
