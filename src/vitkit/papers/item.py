"""What a table or figure of the paper is here: what it shows, what it asks for, what comes out.

Each module of this package with ``ITEM`` and ``run(request, console) -> Outcome`` is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitkit.config import UserError, did_you_mean
from vitkit.data.containers import ImageSource

__all__ = ["KINDS", "PAPER", "Draw", "Item", "Outcome", "Request", "settled"]

PAPER = "https://arxiv.org/abs/2010.11929v2"
# What vitkit makes of an item, as `vit paper` says it.
KINDS = {
    "computed": "computed here, from nothing else",
    "given": "made anew for the model and images you give",
    "scaled down": "the paper's experiment, scaled down to this machine",
    "published": "published values; ours where a run of yours was added to the results",
}

Draw = Callable[[Path], tuple[Path, Path]]  # stem -> (stem.svg, stem.png), both written


@dataclass(frozen=True)
class Item:
    """One table or figure."""

    name: str  # the module's: table6
    title: str  # a few words
    shows: str  # what the paper shows in it, one sentence
    kind: str  # of `KINDS`
    needs: tuple[str, ...] = ()  # fields of `Request` without which it cannot run: models, images, data
    most_models: int = 1  # 0: as many as one likes
    takes: tuple[str, ...] = ()  # further fields of `Request` that it heeds; any other that is given is refused
    settings: Mapping[str, Any] = field(default_factory=dict)  # what --set may change, with defaults
    weights: tuple[str, ...] = ()  # models of the zoo that the paper's own used, or the nearest that were published
    sets: tuple[str, ...] = ()  # published data sets of `vit datasets` that its values are of
    hardware: str = ""  # what it takes more than a processor and minutes, in words
    lacking: str = ""  # what the paper had for it that is not to be had here, and so is not in ours
    commands: tuple[str, ...] = ()  # of vitkit, that would make our values where `run` does not; "# words" may follow
    source: str = ""  # where in the paper; empty: the item itself


@dataclass(frozen=True)
class Request:
    """What a person asked for; a field at its default was not said."""

    out: Path | None = None  # folder for figures, data, and whatever may be gone on with
    models: tuple[str, ...] = ()  # each whatever `vitkit.load` takes; figure12 also sizes such as B/16
    images: tuple[tuple[str, ImageSource], ...] = ()  # name and place of each
    data: str = ""  # DATA with labels, to train on
    max_images: int | None = None
    sizes: tuple[int, ...] = ()  # pixels
    budget: float | None = None  # seconds
    everything: bool = False  # --all: also the parts that take long
    residual: str = ""  # of rollout: half or none
    workers: int = 2
    max_pixels: int = 100_000_000
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of the model, as `vitkit.load`
    settings: Mapping[str, Any] = field(default_factory=dict)  # --set: see `settled`


@dataclass(frozen=True)
class Outcome:
    """A table or figure in numbers, and how it is drawn."""

    rows: Sequence[Mapping[str, Any]]  # JSON values; each with "published" where the paper prints values
    table: Sequence[Sequence[str]]  # the rows for people: headings first, then as many cells
    notes: Sequence[str] = ()  # sentences for people: what is seen, what is not computed and why
    label: str = ""  # "scaled down" where our setting is not the paper's
    setting: Mapping[str, Any] = field(default_factory=dict)  # what ours was computed with: model, data, steps, ...
    data: Mapping[str, Any] = field(default_factory=dict)  # JSON values beside the rows: curves, maps
    figures: Mapping[str, Draw] = field(default_factory=dict)  # file stem -> draws it


def settled(item: Item, request: Request) -> dict[str, Any]:
    """The item's settings with the changes that were asked for.

    Raises:
        UserError: an unknown setting, or a value of another kind than its default.
    """
    values = dict(item.settings)
    for name, value in request.settings.items():
        if name not in values:
            known = f" Known: {', '.join(values)}." if values else " It has none."
            raise UserError(f"{item.name} has no setting {name!r}.{did_you_mean(name, values)}{known}")
        default = values[name]
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or isinstance(value, bool) is not isinstance(default, bool):
            raise UserError(f"{item.name}: {name}={value!r}; expected a value like {default!r}.")
        values[name] = value
    return values
