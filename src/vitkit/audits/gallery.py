"""The pictures of the audit's page: a bounded number, small, inside the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vitkit.audits.labels import Suspects
from vitkit.console import Console
from vitkit.data.cache import Cache
from vitkit.data.findings import Losses
from vitkit.data.pixels import ImageError, open_image
from vitkit.data.survey import Survey, label_key
from vitkit.data.thumbnails import data_address, picture

__all__ = ["galleries"]

GROUPS = 8  # of leaks, conflicts and duplicates
IN_GROUP = 3  # pictures
SUSPECTS = 24
ODD = 4  # smallest, largest, widest, ... of each
PICTURES = "picture-1"  # key in the cache; the number goes up when `picture` changes


def galleries(
    found: Survey, losses: Losses, suspects: Suspects, cache: Cache, console: Console
) -> list[dict[str, Any]]:
    """Sections of the page: title, note, and items of pictures (data URIs) with a caption."""
    classes = found.source.classes

    def name(place: int) -> str:
        return found.places[place].sample.name

    def labelled(place: int) -> str:
        return " + ".join(classes[c] for c in label_key(found.places[place].sample)) or "no class"

    def size(place: int) -> str:
        height, width = found.places[place].size
        return f"{width}x{height}"

    leaks = [([k.first, k.second], f"{name(k.first)} = {name(k.second)}") for k in _spread(found.leaks, GROUPS)]
    conflicts = [(group[:IN_GROUP], ", ".join(map(labelled, group[:IN_GROUP]))) for group in found.conflicts[:GROUPS]]
    near = sorted(found.duplicates.near, key=lambda p: p.similarity)
    pairs = [([p.first, p.second], f"{name(p.first)}, {name(p.second)}") for p in _spread(near, GROUPS)]
    wrong = [
        ([s.place], f"{name(s.place)}: labelled {classes[s.given]}, looks like {classes[s.suggested]}")
        for s in suspects.ranked[:SUSPECTS]
    ]
    listed = (
        ("Leaks between splits", "Both images of a leak; a sample of all.", leaks),
        ("Duplicates whose labels differ", "", conflicts),
        ("Near duplicates", "A sample from the least to the most alike.", pairs),
        ("Likely label errors", f"The most suspicious first. {suspects.method}. A ranking to look at, not a verdict.", wrong),
        ("Sizes and shapes", "The smallest, the largest, the tallest and the widest images.", _odd(found, size)),
        (f"What --fit {losses.record.fit} throws away most of", "", _lost(losses)),
        ("Upright only by their EXIF orientation", "", [([i], name(i)) for i in found.rotated[:ODD]]),
    )  # fmt: skip
    shown = [(title, note, items) for title, note, items in listed if items]
    wanted = dict.fromkeys(place for _, _, items in shown for places, _ in items for place in places)
    uris = {i: _uri(found, i, cache) for i in console.track(wanted, len(wanted), "pictures")}
    return [
        {"title": title, "note": note,
         "items": [{"caption": caption, "pictures": [uris[i] for i in places if uris[i]]} for places, caption in items]}
        for title, note, items in shown
    ]  # fmt: skip


def _odd(found: Survey, size: Callable[[int], str]) -> list[tuple[list[int], str]]:
    sizes = np.array([place.size for place in found.places], dtype=float)
    if len(np.unique(sizes, axis=0)) == 1:
        return []
    area, ratio = sizes.prod(1), sizes[:, 1] / sizes[:, 0]
    chosen: dict[int, str] = {}
    for title, values in (("smallest", area), ("largest", -area), ("tallest", ratio), ("widest", -ratio)):
        for place in np.argsort(values, kind="stable")[:ODD].tolist():
            chosen.setdefault(place, f"{title}: {size(place)}")
    return [([place], caption) for place, caption in chosen.items()]


def _lost(losses: Losses) -> list[tuple[list[int], str]]:
    worst = np.argsort(-losses.lost, kind="stable")[: 2 * ODD].tolist()
    return [([i], f"{100 * losses.lost[i]:.0f} %") for i in worst if losses.lost[i] > 0.05]


def _spread(items: Sequence[Any], count: int) -> Iterable[Any]:
    """At most ``count`` items, evenly from first to last."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _uri(found: Survey, place: int, cache: Cache) -> str:
    """The picture of an image; empty where its file cannot be read any more."""
    key = f"{PICTURES}:{found.places[place].digest}"
    content = cache.get(key)
    if content is None:
        try:
            content = picture(open_image(found.places[place].sample.source))
        except ImageError:
            return ""
        cache.put({key: content})
    return data_address(content)
