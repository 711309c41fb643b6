"""What a protocol is asked: a model, data, and the protocol's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitkit.data.pixels import MAX_PIXELS
from vitkit.parallel.world import ALONE, World

__all__ = ["Account", "Request"]


@dataclass
class Account:
    """What a protocol tells of its run beside rows: it fills in what it knows, `results.json` holds it."""

    data: dict[str, Any] = field(default_factory=dict)  # name, split, images, fingerprint
    model: dict[str, Any] = field(default_factory=dict)  # name, fingerprint
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """The arguments of `vit evaluate`, as every protocol gets them."""

    model: str
    data: str
    split: str | None = None
    strict: bool = False
    workers: int = 2
    max_pixels: int = MAX_PIXELS
    overrides: Mapping[str, Any] = field(default_factory=dict)
    data_root: str | None = None  # folder with a folder for each published data set
    partial: bool = False  # score a part of a published set too
    seed: int = 0
    shots: tuple[int, ...] | None = None  # fewshot; None: the protocol's own
    neighbours: int | None = None  # knn
    sweep: bool = False  # vtab: choose hyper-parameters on val200
    settings: Mapping[str, Any] = field(default_factory=dict)  # vtab: changes of its recipe, such as steps
    out: str | None = None  # folder for what is more than rows
    preprocess: str | None = None  # one of `vitkit.data.official.VIEWS`; None: the protocol's own
    engine: str = "auto"  # what computes, see `vitkit.engines.book`
    precision: str = "auto"
    world: World = ALONE  # the ranks that share the work; only the first prints, scores and writes
    account: Account = field(default_factory=Account)
