"""What a protocol is asked: a model, data, and the protocol's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitkit.data.pixels import MAX_PIXELS

__all__ = ["Request"]


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
