"""The board as a static site: pages that work from the file system, without a network and without JavaScript."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from vitkit.board.catalogue import DATASETS, METHODS, METRICS, PAPERS, TASKS, Dataset, Method, Metric, Paper, Task
from vitkit.board.entries import OURS, Entry, beside
from vitkit.board.leaderboards import KINDS, Leaderboard, Node, family, leaderboards
from vitkit.board.plots import timeline
from vitkit.config import UserError
from vitkit.console import Console

__all__ = ["MARKER", "write_site"]

MARKER = ".vitkit-site"  # lists the files of a site, one a line: what may be replaced
UNITS = {"tpuv3_core_days": "TPUv3-core-days", "v100_images_per_second": "images per second on a V100"}
WIDE, NARROW = (880, 330), (340, 270)  # the two sizes of a plot, in units of the page


def write_site(
    out: Path,
    entries: Sequence[Entry],
    *,
    tasks: Sequence[Task] = TASKS,
    datasets: Sequence[Dataset] = DATASETS,
    metrics: Sequence[Metric] = METRICS,
    papers: Sequence[Paper] = PAPERS,
    methods: Sequence[Method] = METHODS,
    console: Console | None = None,
) -> Path:
    """Write the site of ``entries`` into the folder ``out`` and return its first page; the same input gives the same bytes.

    ``out`` is new, empty, or a site that this function wrote and nobody added to. It is replaced as a whole or not at all.

    Raises:
        UserError: the folder holds anything else or cannot be written, or an entry is of something that the board does not know.
    """
    out = Path(os.path.realpath(out))
    _check_free(out)
    files = _files(entries, tasks, datasets, metrics, papers, methods)
    _replace(out, files)
    if console is not None:
        pages = sum(name.endswith(".html") for name in files)
        console.say(f"wrote {pages} pages with {len(entries)} results to {out}; open {out / 'index.html'} in a browser")
    return out / "index.html"


def _check_free(out: Path) -> None:
    """Refuse to replace anything that is no site of ours."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    marker = out / MARKER
    if not out.is_dir() or not marker.is_file():
        raise UserError(
            f"{out} already exists and is no site that vitkit wrote; it is left as it is. Choose a new or empty folder."
        )
    written = {*marker.read_text(encoding="utf-8", errors="replace").splitlines(), MARKER}
    added = sorted(
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(out).as_posix() not in written
    )
    if added:
        shown = ", ".join(added[:5]) + (f" and {len(added) - 5} more" if len(added) > 5 else "")
        raise UserError(
            f"{out} holds files that vitkit did not write there: {shown}. Replacing the site would lose them; move them away "
            "or choose another folder."
        )


def _replace(out: Path, files: Mapping[str, str]) -> None:
    """Write beside ``out``, then put it in its place."""
    new, old = (out.with_name(f".{out.name}.{part}-{os.getpid()}") for part in ("partial", "old"))
    try:
        shutil.rmtree(new, ignore_errors=True)  # of a killed process of the same number
        for name, text in {**files, MARKER: "".join(f"{name}\n" for name in sorted(files))}.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8", "replace"))
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}. Free space or choose another place.") from None
    finally:
        for left in (new, old):
            if out.exists() or left == new:
                shutil.rmtree(left, ignore_errors=True)


def _files(
    entries: Sequence[Entry],
    tasks: Sequence[Task],
    datasets: Sequence[Dataset],
    metrics: Sequence[Metric],
    papers: Sequence[Paper],
    methods: Sequence[Method],
) -> dict[str, str]:
    """Every file of the site by its path."""
    boards = leaderboards(entries, tasks, datasets, metrics)
    trees = family(papers)
    paper_of = {paper.name: paper for paper in papers}
    for entry in entries:
        if entry.paper and entry.paper not in paper_of:
            raise UserError(
                f"the result {entry.model!r} {entry.value:g} is of the paper {entry.paper!r}, which the board does not know."
            )
    shared = {
        "tasks": tasks, "datasets": datasets, "metrics": metrics, "methods": methods, "boards": boards, "trees": trees,
        "papers": sorted(papers, key=lambda p: (p.date, p.name), reverse=True), "paper_of": paper_of, "entries": entries,
        "task_of": {task.name: task for task in tasks}, "kinds": KINDS, "sources": _sources(entries),
        "plots": {board.anchor + board.dataset.name: _plots(board) for board in boards},
        "rank_of": {id(row.entry): row.rank for board in boards for row in board.rows},
        "board_of": {id(row.entry): board for board in boards for row in board.rows},
        "featured": _featured(boards),
        "beside_of": {id(entry): beside(entry, entries) for entry in entries if entry.kind == OURS},
        "counts": {kind: sum(entry.kind == kind for entry in entries) for kind in KINDS},
    }  # fmt: skip
    environment = _environment()

    def page(template: str, here: str, root: str = "", **more: Any) -> str:
        text: str = environment.get_template(f"{template}.html.j2").render(**shared, here=here, root=root, **more)
        return text

    names = ("index", "tasks", "sota", "datasets", "papers", "methods", "submit", "about")
    files = {f"{name}.html": page(name, name) for name in names}
    for task in tasks:
        own = [board for board in boards if board.task == task]
        files[f"tasks/{task.name}.html"] = page("task", "tasks", "../", task=task, own=own)
    for dataset in datasets:
        own = [board for board in boards if board.dataset == dataset]
        files[f"datasets/{dataset.name}.html"] = page("dataset", "sota", "../", dataset=dataset, own=own)
    for paper in papers:
        results = [row.entry for board in boards for row in board.rows if row.entry.paper == paper.name]
        uses = [method for method in methods if paper.name in method.papers]
        root = next(tree for tree in trees if _holds(tree, paper))
        files[f"papers/{paper.name}.html"] = page(
            "paper", "papers", "../", paper=paper, results=results, uses=uses, tree=root
        )
    index = json.dumps(list(_index(shared)), ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    files["assets/search.js"] = f"window.vitIndex = {index};\n"
    return files | {f"assets/{name}": _template(name) for name in ("site.css", "site.js")}


def _featured(boards: Sequence[Leaderboard], most: int = 8) -> list[Leaderboard]:
    """The fullest leaderboards, one a data set."""
    fullest: dict[str, Leaderboard] = {}
    for board in sorted(boards, key=lambda board: -len(board.ranked)):
        if board.ranked:
            fullest.setdefault(board.dataset.name, board)
    return list(fullest.values())[:most]


def _holds(node: Node, paper: Paper) -> bool:
    return node.paper == paper or any(_holds(child, paper) for child in node.children)


def _sources(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Where the numbers come from, with how many of each."""
    found: dict[tuple[str, ...], int] = {}
    for entry in entries:
        if entry.kind != OURS:
            key = (entry.kind, entry.source_title, entry.source, entry.licence, entry.attribution)
            found[key] = found.get(key, 0) + 1
    fields = ("kind", "title", "source", "licence", "attribution")
    rows = sorted(found.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1:]))
    return [dict(zip(fields, key, strict=True)) | {"results": count} for key, count in rows]


def _plots(board: Leaderboard) -> dict[str, Any] | None:
    """A leaderboard's dated values over time, for a desk and for a phone, with what they are; None below two values."""
    dated = [entry for entry in board.ranked if entry.date]
    points = [
        {"date": _day(entry.date), "value": entry.value, "name": entry.model or board.dataset.title, "kind": entry.kind}
        for entry in dated
    ]
    if len(points) < 2:
        return None
    higher = board.metric.better == "higher"
    return {
        "broad": timeline(points, higher, *WIDE),
        "narrow": timeline(points, higher, *NARROW),
        "drawn": dated,
        "undrawn": len(board.ranked) - len(dated),
    }


def _day(text: str) -> str:
    """A date with a day; the middle of its month where the day is not known."""
    return text if text.count("-") == 2 else f"{text}-15"


def _index(shared: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """What the search finds: title, kind, address, and words about it."""
    paper_of, boards = shared["paper_of"], shared["boards"]
    for dataset in shared["datasets"]:
        yield dataset.title, "Dataset", f"datasets/{dataset.name}.html", dataset.summary
    for paper in shared["papers"]:
        title = paper.title if paper.short in paper.title else f"{paper.short}: {paper.title}"
        yield title, "Paper", f"papers/{paper.name}.html", f"{paper.authors} {paper.date[:4]}"
    for task in shared["tasks"]:
        yield task.title, "Task", f"tasks/{task.name}.html", task.summary
    for method in shared["methods"]:
        yield method.title, "Method", f"methods.html#method-{method.name}", " ".join((method.group, *method.aliases))
    models: dict[tuple[str, str], list[tuple[Leaderboard, Entry]]] = {}
    for board in boards:
        for entry in board.ranked:
            if entry.model:
                models.setdefault((entry.model, entry.paper), []).append((board, entry))
    for (model, paper), found in sorted(models.items()):
        board = found[0][0]
        where = f"papers/{paper}.html" if paper in paper_of else f"datasets/{board.dataset.name}.html#{board.anchor}"
        best = list(dict.fromkeys(f"{b.dataset.title} {_value(e)}" for b, e in found))
        yield model, f"Model, {paper_of[paper].short if paper in paper_of else 'ours'}", where, ", ".join(best[:4])
    for title, href, about in (
        ("State of the art", "sota.html", "every leaderboard"),
        ("Submit a result", "submit.html", "the command and its checks: vit results add"),
        ("About", "about.html", "sources, licences and attribution"),
    ):
        yield title, "Page", href, about


def _environment() -> Any:
    """Jinja with everything escaped and nothing undefined let pass."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "value": _value,
        "figure": _figure,
        "host": _host,
        "extras": _extras,
        "settings": _settings,
        "key": id,
        "made": _made,
        "headed": _headed,
    }
    return environment


def _template(name: str) -> str:
    return resources.files("vitkit").joinpath("board/templates").joinpath(name).read_text(encoding="utf-8")


def _figure(value: float, kind: str = OURS) -> str:
    """A number as printed; ours with two decimals at most."""
    return f"{value:.10g}" if kind != OURS or abs(value) < 1 else f"{round(value, 2):g}"


def _value(entry: Entry) -> str:
    """An entry's value with its unit where that is a sign."""
    return _figure(entry.value, entry.kind) + (" %" if entry.unit == "%" else "")


def _host(address: str) -> str:
    """The part of an address that a person knows it by; empty for what is no address."""
    if not address.startswith(("https://", "http://")):
        return ""
    return address.split("//", 1)[1].removeprefix("www.").rstrip("/")


def _made(entry: Entry) -> str:
    """Where a dataset's page says how one of ours was made."""
    made = "\0".join((entry.command, entry.code, entry.data, entry.fingerprint, entry.date))
    return f"made-{hashlib.sha256(made.encode('utf-8', 'replace')).hexdigest()[:10]}"


def _headed(text: str) -> str:
    """With its first letter as at the start of a sentence."""
    return text[:1].upper() + text[1:]


def _extras(entry: Entry) -> str:
    """What else is known of an entry, on one line; of ours the rest stands where it says how it was made."""
    extra = {key: v for key, v in entry.extra.items() if entry.kind != OURS or key in ("protocol", "label")}
    return " · ".join(
        v if key in ("note", "protocol", "label") else f"{_words(key)} {_plain(v)}" for key, v in extra.items()
    )


def _settings(entry: Entry) -> list[tuple[str, str]]:
    """The settings and versions behind one of ours, by name."""
    found: dict[str, Any] = {}
    for part in ("settings", "versions"):
        found |= {key: v for key, v in (entry.extra.get(part) or {}).items() if not isinstance(v, Mapping)}
    return [(_words(key), _plain(v)) for key, v in found.items() if v not in (None, "", "not installed")]


def _words(key: str) -> str:
    return UNITS.get(key, key.replace("_", " "))


def _plain(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
