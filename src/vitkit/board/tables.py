"""The board as lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from functools import cache

from vitkit.board.catalogue import DATASETS, METRICS, TASKS, Dataset, Metric, Task
from vitkit.board.entries import COMMUNITY, OURS, PUBLISHED, Entry, beside, published, quality

__all__ = ["difference", "fitted", "leaderboard_lines", "overview_lines"]

DETAILS = 52  # characters
HIDDEN = ("protocol", "settings", "versions", "split")  # of ours: in the JSON, not in a table


def difference(entry: Entry, other: Entry) -> float:
    """How far one of ours is from a published value, in the metric's unit."""
    return round(entry.value - other.value, 10)


def fitted(text: str, width: int | None, indent: int = 0) -> list[str]:
    """A text as lines of a terminal's width; as one where there is none."""
    space = " " * indent
    if width is None:
        return [space + text]
    return textwrap.wrap(text, max(width, 40), initial_indent=space, subsequent_indent=space, break_on_hyphens=False)


def overview_lines(entries: Sequence[Entry], width: int | None = None) -> list[str]:
    """One line per table: the best published value, and our best with its difference; its table where ``width`` has room."""
    lines = _overview(entries, sources=True)
    return lines if width is None or max(map(len, lines)) <= width else _overview(entries, sources=False)


def _overview(entries: Sequence[Entry], *, sources: bool) -> list[str]:
    lines = []
    for task in TASKS:
        cells = [("", "", "best", "published", "ours", "")]
        for _, dataset, metric, found in _tables(entries, [task]):
            best = max((e for e in found if e.kind == PUBLISHED), key=quality, default=None)
            own = max((e for e in found if e.kind == OURS and not e.part), key=quality, default=None)
            own = own or max((e for e in found if e.kind == OURS), key=quality, default=None)
            other = beside(own, entries) if own else None
            cells.append(
                (
                    dataset.title,
                    metric.title,
                    _figure(best) if best else "",
                    (f"{best.model} ({_origin(best)})" if sources else best.model) if best else _without(found),
                    _figure(own) + (" of a part" if own.part else "") if own else "",
                    _compared(own, other) if own and other and not own.part else "",
                )
            )
        if len(cells) > 1:
            lines += ["", task.title, *_columns(cells, right=(2, 4), indent=2)]
    return lines[1:]


def leaderboard_lines(
    entries: Sequence[Entry], everything: Sequence[Entry], sort: str, width: int | None = None
) -> list[str]:
    """A table for each data set and metric among ``entries``; ours apart, each beside the published value of ``everything``.

    Where ``width`` columns do not hold a table, the source and details of each row stand below it.
    """
    lines = []
    for task, dataset, metric, found in _tables(entries, TASKS):
        unit = f" in {metric.unit}" if metric.unit else ""
        lines += [
            "",
            *fitted(f"{dataset.title} · {task.title} · {metric.title}{unit}, {metric.better} is better", width),
        ]
        for kind, heading in ((PUBLISHED, "published"), (COMMUNITY, None), (OURS, "ours")):
            own = _sorted((e for e in found if e.kind == kind), sort)
            if not own:
                continue
            lines += fitted(heading or f"community, checked by nobody: {_listing(own[0])}", width, 2)
            lines += _ours(own, everything, width) if kind == OURS else _published(own, metric, width)
    return lines[1:]


def _without(entries: Sequence[Entry]) -> str:
    return "(community only)" if any(entry.kind == COMMUNITY for entry in entries) else "(nothing published)"


def _tables(entries: Sequence[Entry], tasks: Sequence[Task]) -> Iterable[tuple[Task, Dataset, Metric, list[Entry]]]:
    """The entries by task, data set and metric, in the catalogue's order."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.task, entry.dataset, entry.metric), []).append(entry)
    for task in tasks:
        for dataset in DATASETS:
            for metric in METRICS:
                if key := found.get((task.name, dataset.name, metric.name)):
                    yield task, dataset, metric, key


def _sorted(entries: Iterable[Entry], sort: str) -> list[Entry]:
    best_first = sorted(entries, key=lambda e: (e.plausible, quality(e)), reverse=True)
    return sorted(best_first, key=lambda e: e.date, reverse=True) if sort == "date" else best_first


def _published(entries: Sequence[Entry], metric: Metric, width: int | None) -> list[str]:
    cells = []
    for entry in entries:
        spread = f"± {_figure(entry, entry.spread)}" if entry.spread is not None else ""
        if entry.low is not None and entry.high is not None:
            spread = f"{_figure(entry, entry.low)} to {_figure(entry, entry.high)}"
        doubt = "" if entry.plausible else f"implausible: {entry.reason}"
        printed = entry.metric_title if entry.metric_title.lower() != metric.title else ""
        interval = entry.interval if entry.low is not None else ""
        details = "; ".join(part for part in (printed, interval, doubt or _details(entry)) if part)
        cells.append(
            (
                _figure(entry),
                spread,
                entry.model or "(no model printed)",
                entry.pretraining,
                _origin(entry),
                entry.date[:7] or f"as of {entry.as_of[:7]}",
                details,
            )
        )
    return _fitting(cells, (6, 4, 3, 1), width)


def _ours(entries: Sequence[Entry], everything: Sequence[Entry], width: int | None) -> list[str]:
    cells = []
    for entry in entries:
        interval = f"[{_figure(entry, entry.low)}, {_figure(entry, entry.high)}]" if entry.low is not None else ""
        part = " of a part" if entry.part else ""
        cells.append(
            (
                _figure(entry),
                interval,
                entry.model,
                f"{entry.n:,} images{part}",
                _against(entry, beside(entry, everything)),
                entry.date,
            )
        )
    return _fitting(cells, (4, 3), width)


def _fitting(cells: Sequence[tuple[str, ...]], aside: Sequence[int], width: int | None) -> list[str]:
    """Rows as lines; where one is too long, the columns ``aside`` of each stand under it, as many as must."""
    lines = _columns(cells, right=(0,), indent=4)
    for count in range(1, len(aside) + 1):
        if width is None or max(map(len, lines)) <= width:
            break
        below = sorted(aside[:count])
        kept = [tuple(text for place, text in enumerate(row) if place not in below) for row in cells]
        lines = []
        for row, line in zip(cells, _columns(kept, right=(0,), indent=4), strict=True):
            lines += [line, *fitted("; ".join(row[place] for place in below if row[place]), width, 8)]
    return lines


def _compared(entry: Entry, other: Entry) -> str:
    found = difference(entry, other)
    return f"{found:+.2f}" if entry.unit == "%" else f"{found:+.4g}"


def _against(entry: Entry, other: Entry | None) -> str:
    """The published value that one of ours stands beside, with the difference where the two can be compared."""
    if other is None:
        return "nothing published"
    beginning = "not comparable with" if entry.part else f"{_compared(entry, other)} against"
    return f"{beginning} {_figure(other)} of {other.model} ({_origin(other)})"


def _figure(entry: Entry, value: float | None = None) -> str:
    """A value of an entry, by default its own, with as many digits as its table prints; ours with two."""
    value = entry.value if value is None else value
    if entry.kind == COMMUNITY:
        return f"{value:.10g}"
    digits = _digits().get((entry.source, entry.table), 2)
    return f"{value:.{digits}f}"


@cache
def _digits() -> dict[tuple[str, str], int]:
    """Digits after the point that each published table prints."""
    found: dict[tuple[str, str], int] = {}
    for entry in published():
        digits = len(f"{entry.value:.4f}".rstrip("0").partition(".")[2])
        found[entry.source, entry.table] = max(digits, found.get((entry.source, entry.table), 0))
    return found


def _aligned(texts: Sequence[str]) -> list[str]:
    """Figures with spaces after them, so that their points stand under each other."""
    after = [len(text.partition(".")[2]) + ("." in text) for text in texts]
    return [text + " " * (max(after) - own) for text, own in zip(texts, after, strict=True)]


def _origin(entry: Entry) -> str:
    return f"{entry.source_short}, {entry.table}"


def _listing(entry: Entry) -> str:
    return f"{entry.source_title} ({entry.licence})"


def _details(entry: Entry) -> str:
    facts = (f"{key.replace('_', ' ')} {value}" for key, value in entry.extra.items() if key not in HIDDEN)
    text = ", ".join(facts)
    return text if len(text) <= DETAILS else f"{text[: DETAILS - 1]}…"


def _columns(cells: Sequence[tuple[str, ...]], right: Sequence[int], indent: int) -> list[str]:
    columns = [_aligned(column) if place in right else column for place, column in enumerate(zip(*cells, strict=True))]
    cells = list(zip(*columns, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return [
        (
            " " * indent
            + "  ".join(
                text.rjust(width) if place in right else text.ljust(width)
                for place, (text, width) in enumerate(zip(line, widths, strict=True))
                if width
            )
        ).rstrip()
        for line in cells
    ]
