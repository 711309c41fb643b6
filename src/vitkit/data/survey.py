"""All splits of a data set looked at together: what is twice, what leaks from one split to another, whose labels disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitkit.data.audit import Scan
from vitkit.data.duplicates import Duplicates, find_duplicates
from vitkit.data.sources import Sample, Source

__all__ = ["Leak", "Place", "Survey", "label_key", "survey"]


class Place(NamedTuple):
    """A usable image and where it stands."""

    split: str
    sample: Sample
    size: tuple[int, int]  # (height, width), upright
    digest: str


class Leak(NamedTuple):
    """An image that an earlier split has, too. Places of the survey."""

    kind: str  # exact | near
    first: int
    second: int  # in the later split: the one whose score is too good
    similarity: float


@dataclass(frozen=True)
class Survey:
    """What all splits together showed. Images are called by their place in ``places``: split by split, as scanned."""

    source: Source
    places: Sequence[Place]
    duplicates: Duplicates
    leaks: Sequence[Leak]
    conflicts: Sequence[Sequence[int]]  # groups of duplicates that do not bear one label
    rotated: Sequence[int]
    skipped: Sequence[tuple[str, str, str]]  # (split, name, reason)


def label_key(sample: Sample) -> tuple[int, ...]:
    """The classes of an image, one or in multi-label data any number."""
    return sample.labels if sample.label < 0 else (sample.label,)


def survey(source: Source, scans: Mapping[str, Scan]) -> Survey:
    """Compare the usable images of all splits, in the order of ``scans``."""
    places: list[Place] = []
    rotated: list[int] = []
    for split, found in scans.items():
        rotated += [len(places) + place for place in found.rotated]
        columns = zip(found.usable, found.sizes, found.digests, strict=True)
        places += [Place(split, sample, size, digest) for sample, size, digest in columns]
    descriptions = np.concatenate([found.descriptions for found in scans.values()])
    twins = find_duplicates([place.digest for place in places], descriptions)
    conflicts = [group for group in twins.groups if len({label_key(places[i].sample) for i in group}) > 1]
    skipped = [(split, *entry) for split, found in scans.items() for entry in found.skipped]
    order = {split: number for number, split in enumerate(scans)}
    leaks = _leaks([order[place.split] for place in places], twins)
    return Survey(source, places, twins, leaks, conflicts, rotated, skipped)


def _leaks(split: Sequence[int], twins: Duplicates) -> list[Leak]:
    """One leak for each image of a later split and each earlier image that it equals or nearly equals.

    Of equal files of one split the first stands for all on the earlier side; an image with an exact leak has no near one.
    """
    found = []
    for group in twins.exact:
        found += _between(split, group, group, "exact", 1.0)
    leaked = {leak.second for leak in found}
    members = {group[0]: group for group in twins.exact}
    for pair in twins.near:
        one, other = ([*members.get(place, (place,))] for place in (pair.first, pair.second))
        near = _between(split, one, other, "near", pair.similarity)
        near += _between(split, other, one, "near", pair.similarity)
        found += [leak for leak in near if leak.second not in leaked]
    return found


def _between(split: Sequence[int], earlier: Sequence[int], later: Sequence[int], kind: str, alike: float) -> list[Leak]:
    first = min(earlier, key=lambda place: (split[place], place))
    return [Leak(kind, first, place, alike) for place in later if split[place] > split[first]]
