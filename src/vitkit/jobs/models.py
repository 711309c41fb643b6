"""`vit models`: the zoo as a table, and all that is known of one row.

The Python verb is `vitkit.list_models`: ``vitkit.models`` is the package of the model itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from vitkit.bundle import read_bundle_config
from vitkit.config import UserError, read_json
from vitkit.console import Console
from vitkit.zoo.box import CARD, PLACE
from vitkit.zoo.box import NAME as BOX
from vitkit.zoo.fetch import cached, place
from vitkit.zoo.rows import ROWS, Checkpoint, find_row, manifest, select, suggest

__all__ = ["describe", "list_models", "show_model"]

LONG = 60
AUGREG = "augreg/"  # before the names of the files listed
INDEX = "and every file of AugReg's 52,268 by its name"
# What the tests compare a format's rows with; the same code's outputs are compared in tests/converters.
PROVED = {
    "google": "parameter counts of the official unit test, file sizes, and the official code's golden vectors",
    "big_vision": "the layout that big_vision's code writes; no independent PyTorch model of it",
    "timm": "names and shapes of timm's own model",
    "dinov2": "the size of timm's conversion; names by facebookresearch/dinov2's code",
    "open_clip": "names and shapes of open_clip's own image tower",
    "torchvision": "names and shapes of torchvision's own model",
    "huggingface_vit": "names and shapes of transformers' own model",
    "huggingface_dinov2": "names and shapes of transformers' own model",
    "huggingface_clip": "names and shapes of transformers' own model",
}


def list_models(text: str = "", *, console: Console | None = None) -> tuple[Checkpoint, ...]:
    """Print and return the rows of the zoo that have every word of ``text``; see `vitkit.zoo.rows.select`.

    Raises:
        UserError: none has.
    """
    if text == BOX:
        show_model(BOX, console=console)
        return ()
    rows = select(text)
    if not rows and (row := find_row(text)):  # a file by AugReg's rule, which the table does not list
        rows = (row,)
    if not rows:
        raise UserError(
            f"no model of the {len(ROWS)} known has {text!r} in its name, architecture, size, licence or training data."
            f"{suggest(text)} vit models without a word lists all."
        )
    if console is not None:
        for line in _table(rows):
            console.say(line)
        more = f", {INDEX}" if any(row.name.startswith(AUGREG) for row in rows) else ""
        console.say(f"{len(rows)} of {len(ROWS)} models{more}; `{BOX}` ships with vitkit (vit models show {BOX}).")
    return rows


def _table(rows: Sequence[Checkpoint]) -> list[str]:
    heads = ("name", "model", "size", "params", "top-1", "licence", "here")
    cells = [heads] + [
        (
            _short(row), row.architecture, f"{row.preprocess.image_size[0]}", _millions(row.parameters),
            "" if row.top1 is None else f"{100 * row.top1:.1f}", row.licence, "yes" if cached(row) else "",
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = {"size", "params", "top-1"}
    return [
        "  ".join(
            text.rjust(width) if head in right else text.ljust(width)
            for text, width, head in zip(line, widths, heads, strict=True)
        ).rstrip()
        for line in cells
    ]


def _short(row: Checkpoint) -> str:
    """The name, or a shorter one that leads to the same row where it would not fit a table."""
    return row.name if len(row.name) <= LONG or not row.aliases else min(row.aliases, key=len)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}M"


def show_model(name: str, *, console: Console | None = None) -> dict[str, Any]:
    """Print and return all that is known of one row.

    Raises:
        UserError: no row of that name.
    """
    if name == BOX:
        return _show_box(console)
    row = find_row(name)
    if row is None:
        raise UserError(f"no model {name!r} in the zoo; `vit models` lists them.{suggest(name)}")
    facts = {**describe(row), "tensors": len(manifest(row))}
    if console is not None:
        for line in _lines(row, facts):
            console.say(line)
    return facts


def _show_box(console: Console | None) -> dict[str, Any]:
    """The card of the backbone that ships, and what its bundle says of it."""
    config = read_bundle_config(PLACE)
    if console is not None:
        console.say(CARD.read_text(encoding="utf-8").rstrip())
    weights = {name: config["weights"][name] for name in ("source", "licence", "sha256")}
    return {
        "name": BOX, **weights, "here": str(PLACE), "model": config["model"], "preprocess": config["preprocess"],
        "training": read_json(PLACE / "training.json"),
    }  # fmt: skip


def describe(row: Checkpoint) -> dict[str, Any]:
    """A row as JSON values."""
    here = cached(row)
    return {
        "name": row.name,
        "aliases": list(row.aliases),
        "architecture": row.architecture,
        "resolution": list(row.preprocess.image_size),
        "parameters": row.parameters,
        "top1": row.top1,
        "top1_source": row.top1_source,
        "licence": row.licence,
        "source": row.source,
        "trained_on": row.trained_on,
        "classes": row.classes,
        "url": row.address,
        "repo": row.repo,
        "file": row.file,
        "format": row.format,
        "digest": row.digest,
        "sha256": list(row.sha256),
        "cached": None if here is None else str(here),
        "place": str(place(row)),
        "preprocess": dataclasses.asdict(row.preprocess),
        "model": dataclasses.asdict(row.model),
        "run": dict(row.run),
        "note": row.note,
        "proved": PROVED[row.format],
    }


def _lines(row: Checkpoint, facts: dict[str, Any]) -> list[str]:
    record, model = row.preprocess, row.model
    side = f"{record.image_size[0]} x {record.image_size[1]}"
    stored = "" if not row.run else f", positions stored for {model.image_size[0]} x {model.image_size[1]}"
    kept = "" if record.crop_fraction == 1.0 else f" of the central {record.crop_fraction:.4g}"
    told = {
        "also called": ", ".join(row.aliases),
        "architecture": f"{row.architecture}, {row.parameters:,} parameters, {model.depth} blocks of width {model.embed_dim}, "
        f"{model.num_heads} heads",
        "runs at": f"{side} pixels{stored}",
        "computes": f"{model.gelu if model.mlp == 'gelu' else model.mlp} MLP, epsilon {model.norm_eps:g}, {model.pool} pooling, "
        f"positions {model.position} ({model.position_rule} to other sizes)",
        "gives": f"{model.num_classes} classes ({row.classes})" if row.classes else _features(row),
        "preprocessing": f"{record.fit}{kept}, {record.interpolation}, mean {_numbers(record.mean)}, std {_numbers(record.std)}",
        "trained on": row.trained_on,
        "top-1": "" if row.top1 is None else f"{100 * row.top1:.2f} % on ImageNet-1k ({row.top1_source})",
        "licence": row.licence,
        "source": row.source,
        "file": row.address,
        "checksum": row.digest.replace(":", " begins with ") or "none published",
        "here": facts["cached"] or f"no; by hand it would be {facts['place']}",
        "format": f"{row.format}, {facts['tensors']} tensors of the image model",
        "compared with": facts["proved"],
        "note": row.note,
    }
    width = max(map(len, told))
    return [row.name, *(f"  {name:{width}}  {text}" for name, text in told.items() if text)]


def _features(row: Checkpoint) -> str:
    model = row.model
    if not model.head_bias or (model.num_classes and model.pre_norm):
        return f"an embedding of {model.num_classes} numbers"
    head = " (its head is all zeros)" if model.num_classes else ""
    return f"features of {model.feature_dim} numbers{head}"


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "(" + ", ".join(f"{value:.3f}" for value in values) + ")"
