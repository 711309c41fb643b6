"""`vit paper`: every table and figure of the paper, made here where that can be, beside the published values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing
from vitkit.config import UserError, check_writable, write_json
from vitkit.console import Console
from vitkit.data.pixels import MAX_PIXELS
from vitkit.datasets.book import place_of
from vitkit.datasets.unlabelled import list_images
from vitkit.json_list import without_nan
from vitkit.papers.book import all_items, find_item, run_item
from vitkit.papers.item import KINDS, PAPER, Item, Outcome, Request, settled
from vitkit.report import versions

__all__ = ["PaperResult", "describe_item", "list_items", "overview_lines", "paper", "result_lines"]

# How a field of `Request` is said on the command line; {} is what a person gave, or a word for what is to be given.
OPTIONS = {
    "models": ("--model", "M"), "images": ("--images", "IMAGES"), "data": ("--data", "DATA"),
    "max_images": ("--max-images", "N"), "sizes": ("--sizes", "N,..."), "budget": ("--budget", "TIME"),
    "everything": ("--all", ""), "residual": ("--residual", "half|none"),
    "workers": ("--workers", "N"), "max_pixels": ("--max-pixels", "N"), "overrides": ("--override", "NAME=VALUE"),
}  # fmt: skip


@dataclass(frozen=True)
class PaperResult:
    """A table or figure as it came out."""

    item: Item
    outcome: Outcome
    files: tuple[Path, ...]  # written below ``out``
    facts: dict[str, Any]  # all of it as JSON values


def paper(
    item: str,
    *,
    model: str | Path | Sequence[str | Path] = (),
    images: str | Path | Sequence[str | Path] = (),
    data: str | Path = "",
    out: str | Path | None = None,
    max_images: int | None = None,
    sizes: Sequence[int] = (),
    budget: float | None = None,
    everything: bool = False,
    residual: str = "",
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    settings: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    command: str = "",
    console: Console | None = None,
) -> PaperResult:
    """Make a table or figure of the paper.

    Args:
        item: ``table1`` to ``table9``, ``figure1`` to ``figure14``.
        model: one or several models, for figures that are made of a model.
        images: files, folders, globs or data as for `vitkit.evaluate`, for figures that look at images.
        data: labelled DATA, for studies that train.
        out: folder that gets the figure as SVG and PNG and everything as JSON; studies go on there.
        max_images, sizes, budget, everything, residual, settings: what some items take; see `vit paper --help`.
        overrides: of the model, as `vitkit.load`.
        command: the command line to note.

    Raises:
        UserError: no such item, something that it needs is missing or that it does not take is given, or what it says itself.
    """
    console = console or Console()
    found = find_item(item)
    request = Request(
        out=None if out is None else Path(out),
        models=_several(model),
        images=(),
        data=str(data),
        max_images=max_images,
        sizes=tuple(sizes),
        budget=budget,
        everything=everything,
        residual=residual,
        workers=workers,
        max_pixels=max_pixels,
        overrides=dict(overrides or {}),
        settings=dict(settings or {}),
    )
    given = _several(images)
    _check(found, request, given)
    if request.out is not None:
        _check_out(found, request.out)
    if given:
        request = dataclasses.replace(request, images=tuple(list_images(given).images))
    outcome = run_item(found, request, console)
    facts = _facts(found, outcome, command)
    return PaperResult(found, outcome, tuple(_write(found, outcome, facts, request.out, console)), facts)


def _several(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, str | Path) and str(given) else tuple(map(str, given or ()))  # type: ignore[arg-type]


def _check(item: Item, request: Request, images: Sequence[str]) -> None:
    """Everything needed is there, and nothing that would be ignored."""
    given = {
        field.name for field in dataclasses.fields(Request) if getattr(request, field.name) != field_default(field)
    }
    given |= {"images"} if images else set()
    if missing := [name for name in item.needs if name not in given]:
        asked = " and ".join(" ".join(OPTIONS[name]) for name in missing)
        raise UserError(f"{item.name} ({item.title}) is made of what you name: give {asked}. {_command(item)}")
    if extra := [name for name in OPTIONS if name in given - {*item.needs, *item.takes}]:
        heeded = [OPTIONS[name][0] for name in (*item.needs, *item.takes)]
        takes = f"takes {', '.join(heeded)}" if heeded else "takes no such options"
        raise UserError(f"{OPTIONS[extra[0]][0]} says nothing to {item.name}, which {takes}.")
    if item.most_models and len(request.models) > item.most_models:
        most = "one model" if item.most_models == 1 else f"at most {item.most_models} models"
        raise UserError(f"{item.name} takes {most}, got {len(request.models)}: {', '.join(request.models)}.")
    settled(item, request)
    if request.max_images is not None and request.max_images < 1:
        raise UserError(f"--max-images must be at least 1, got {request.max_images}.")
    if request.workers < 1:
        raise UserError(f"--workers must be at least 1, got {request.workers}.")
    if any(size < 1 for size in request.sizes):
        raise UserError(f"--sizes must be positive numbers of pixels, got {', '.join(map(str, request.sizes))}.")


def _check_out(item: Item, out: Path) -> None:
    """What is made can be written, and drawn where it takes long to make: say now what is in the way, and not after minutes."""
    check_writable(out)
    if item.name.startswith("figure") and item.kind != "published":
        with drawing(1, 1):
            pass


def field_default(field: dataclasses.Field[Any]) -> Any:
    """The value of a field of `Request` that was not said."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _write(item: Item, outcome: Outcome, facts: dict[str, Any], out: Path | None, console: Console) -> list[Path]:
    if out is None:
        if outcome.figures:
            console.say(f"-o DIR writes {item.name}.svg, .png and .json.")
        return []
    files = [path for stem, draw in outcome.figures.items() for path in draw(out / stem)]
    facts["files"] = [path.name for path in files]
    write_json(out / f"{item.name}.json", facts)
    return [*files, out / f"{item.name}.json"]


def _facts(item: Item, outcome: Outcome, command: str) -> dict[str, Any]:
    """All of it as JSON values."""
    facts: dict[str, Any] = without_nan(
        {
            "item": item.name, "title": item.title, "shows": item.shows, "kind": item.kind, "label": outcome.label,
            "source": f"{PAPER}, {item.source}" if item.source else PAPER, "command": command, "setting": outcome.setting,
            "rows": outcome.rows, "notes": outcome.notes, "data": outcome.data, "lacking": item.lacking,
            "commands": item.commands, "versions": versions(), "files": [],
        }
    )  # fmt: skip
    return facts


def list_items(models: Sequence[str] = (), images: Sequence[str] = (), data: str = "") -> list[dict[str, Any]]:
    """Every table and figure as JSON values: what it shows, what of it can be made here, and how."""
    given = {"models": tuple(models), "images": tuple(images), "data": data}
    return [describe_item(item, given) for item in all_items()]


def describe_item(item: Item, given: Mapping[str, Any]) -> dict[str, Any]:
    """What an item shows, whether it can be made of what is at hand, what is missing, and the command."""
    import torch

    from vitkit.zoo.fetch import cached
    from vitkit.zoo.rows import find_row

    weights = [{"name": name, "here": cached(row) is not None} for name in item.weights if (row := find_row(name))]
    sets = [{"name": name, "here": _is_here(name)} for name in item.sets]
    gpu = torch.cuda.is_available()
    missing = [" ".join(OPTIONS[name]) for name in item.needs if not given.get(name)]
    if item.kind == "published":
        missing += _absent("weights", weights) + _absent("data", sets)
        missing += [item.hardware] if item.hardware and not gpu else []
    return {
        "item": item.name, "title": item.title, "shows": item.shows, "kind": item.kind,
        "here": {"published": "no" if item.lacking or missing else "by the commands"}.get(
            item.kind, "with what you name" if missing else "yes"
        ),
        "missing": missing, "lacking": item.lacking, "weights": weights, "sets": sets, "hardware": item.hardware,
        "command": _command(item, given), "commands": list(item.commands),
    }  # fmt: skip


def _absent(what: str, known: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [each["name"] for each in known if not each["here"]]
    return [f"{what} {', '.join(names)}"] if names else []


def _is_here(name: str) -> bool:
    return bool(os.environ.get("VITKIT_DATA")) and place_of(name, None).exists()


def _command(item: Item, given: Mapping[str, Any] | None = None) -> str:
    words = ["vit", "paper", item.name]
    for name in item.needs:
        option, word = OPTIONS[name]
        value = (given or {}).get(name) or word
        words += [w for each in ([value] if isinstance(value, str) else value) for w in (option, each)]
    return " ".join(words + (["-o", "DIR"] if item.name.startswith("figure") or item.kind == "scaled down" else []))


def overview_lines(items: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """The list for people."""
    from vitkit.board.tables import fitted

    lines = []
    for item in items:
        lines.append(f"{item['item']:8}  {item['title']}")
        lines += fitted(f"shows {item['shows']}", width, 10)
        lines += fitted(_here(item), width, 10)
        lines += [
            f"{'':10}{line}" for line in (item["command"], *(item["commands"] if item["kind"] == "published" else ()))
        ]
    return lines


def _here(item: Mapping[str, Any]) -> str:
    said = [f"here: {item['here']}, {KINDS[item['kind']]}"]
    if item["missing"]:
        said.append(f"missing: {'; '.join(item['missing'])}")
    if near := [w["name"] for w in item["weights"] if item["kind"] == "given"]:
        here = [w["name"] for w in item["weights"] if w["here"]]
        said.append(
            f"nearest published weights: {', '.join(near)} ({'here: ' + ', '.join(here) if here else 'not on this machine'})"
        )
    if item["lacking"]:
        said.append(f"not to be had: {item['lacking']}")
    return "; ".join(said)


def result_lines(result: PaperResult, width: int | None) -> list[str]:
    """A table or figure for people: what it is, the rows, the notes, the files."""
    from vitkit.board.tables import fitted

    item, outcome = result.item, result.outcome
    label = f" ({outcome.label})" if outcome.label else ""
    lines = [*fitted(f"{item.name}{label}: {item.title}", width), "", *_aligned(outcome.table, width)]
    if outcome.notes:
        lines += ["", *(line for note in outcome.notes for line in fitted(note, width, 2))]
    if item.lacking:
        lines += fitted(f"not to be had: {item.lacking}", width, 2)
    if item.kind == "published" and item.commands:
        lines += ["", "  ours would come from:", *(f"    {command}" for command in item.commands)]
    return [*lines, *(f"wrote {path}" for path in result.files)]


def _aligned(table: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Columns under their headings; where a line would not fit, each row as a block of its own."""
    from vitkit.board.tables import fitted

    if not table:
        return []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in table]
    if width is None or max(map(len, lines)) <= width:
        return lines
    heads, *rows = table
    blocks = []
    for first, *rest in rows:
        blocks += fitted(first, width)
        blocks += [
            line
            for head, cell in zip(heads[1:], rest, strict=True)
            if cell
            for line in fitted(f"{head}: {cell}", width, 2)
        ]
    return blocks
