"""The files of one explained image: pictures, arrays, and what `explain.json` and the page tell of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from vitkit.analysis.explanation import Explanation
from vitkit.analysis.maps import Map
from vitkit.analysis.overlay import jpeg, peak, png
from vitkit.config import write_file
from vitkit.data.thumbnails import data_address

__all__ = ["Drawn", "draw_files", "files_of"]

Array = np.ndarray
PARTS_SHOWN = 48  # maps of single layers, heads and classes of an image on the page
SIDE, PART_SIDE = 460, 180  # pixels of the page's pictures


class Drawn(NamedTuple):
    facts: dict[str, Any]  # of explain.json
    item: dict[str, Any]  # of the page


def files_of(facts: Mapping[str, Any]) -> set[str]:
    """Names of the files that an entry of `explain.json` tells of."""
    return {facts["file"], *(part["file"] for part in facts["parts"]), *([facts["raw"]] if facts["raw"] else [])}


def draw_files(folder: Path, raw: bool, one: Explanation) -> Drawn:
    """Write the pictures, and the arrays if asked for, of one image.

    Raises:
        UserError: a file cannot be written.
    """
    picture = one.picture
    write_file(folder / f"{one.stem}.png", png(picture))
    parts: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for found in one.maps if len(one.maps) > 1 else ():
        drawn = one.view.over(found.values)
        name = f"{one.stem}{found.suffix}.png"
        write_file(folder / name, png(drawn))
        parts.append({"file": name, "layer": found.layer, "head": found.head, "class": found.target})
        if len(shown) < PARTS_SHOWN:
            shown.append(
                {"link": _link(name), "picture": data_address(jpeg(drawn, PART_SIDE)), "title": _title(one, found)}
            )
    if raw:
        write_file(folder / f"{one.stem}.npz", _arrays(one))
    facts = _facts(one, parts, raw)
    item = {
        **facts,
        "link": _link(f"{one.stem}.png"),
        "original": data_address(jpeg(one.view.shown, SIDE)),
        "overlay": data_address(jpeg(picture, SIDE)),
        "parts": shown,
        "more_parts": len(parts) - len(shown),
    }
    return Drawn(facts, item)


def _link(name: str) -> str:
    """A file beside the page, as an address."""
    return quote(name, errors="surrogateescape")


def _title(one: Explanation, found: Map) -> str:
    if found.target is not None:
        return one.explained[one.targets.index(found.target)][0]
    layer = "attention pooling" if found.layer == "pool" else f"layer {found.layer}"
    return layer if found.head is None else f"{layer}, head {found.head}"


def _arrays(one: Explanation) -> bytes:
    """The maps as a `.npz` file that opens with ``allow_pickle=False``."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        "map": one.values,
        "maps": np.stack([found.values for found in one.maps]).astype(np.float32),
        "layers": _numbers([found.layer for found in one.maps]),
        "heads": _numbers([found.head for found in one.maps]),
        "classes": _numbers([found.target for found in one.maps]),
        "box": np.array(one.view.box),
        "size": np.array(one.view.size),
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _numbers(values: Sequence[int | str | None]) -> Array:
    """-1 where there is none, or where the layer is attention pooling."""
    return np.array([value if isinstance(value, int) else -1 for value in values])


def _facts(one: Explanation, parts: Sequence[Mapping[str, Any]], raw: bool) -> dict[str, Any]:
    """What ``explain.json`` tells of an image; places are in pixels of the upright original."""
    view, values, found = one.view, one.values, one.prediction
    x, y = peak(values, view.box)
    facts: dict[str, Any] = {
        "path": one.path,
        "file": f"{one.stem}.png",
        "parts": list(parts),
        "raw": f"{one.stem}.npz" if raw else None,
        "size": {"height": view.size[0], "width": view.size[1]},
        "seen": view.seen._asdict(),
        "seen_share": view.seen_share,
        "grid": list(values.shape),
        "largest": float(values.max()),
        "peak": {"x": x, "y": y},
        "explained": [{"class": name, "probability": value} for name, value in one.explained],
        "prediction": found and found.answer,
        "probability": found and found.probability,
        "top": [
            {"class": name, "probability": value}
            for name, value in (zip(found.classes, found.probabilities, strict=True) if found else ())
        ],
    }
    if found and found.labels is not None:
        facts["labels"] = list(found.labels)
    if found and found.unknown is not None:
        facts["unknown"] = found.unknown
    return facts
