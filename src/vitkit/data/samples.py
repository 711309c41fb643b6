"""What every kind of data is read into: labelled images, their classes and splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vitkit.config import UserError, did_you_mean
from vitkit.data.classnames import class_indices
from vitkit.data.containers import ImageSource

__all__ = ["SPLIT_NAMES", "Sample", "Source", "listed", "match_classes"]

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FEW = 3  # unknown classes that may be slips of the pen; more are other classes


class Sample(NamedTuple):
    """One labelled image."""

    name: str  # shown to the user and stored in the run: the path below the data folder, or what a table or archive calls it
    source: ImageSource  # where `open_image` reads it
    label: int  # index into `Source.classes`; -1 in multi-label data
    labels: tuple[int, ...] = ()  # in multi-label data: the sorted indices of all its classes, possibly none


@dataclass(frozen=True)
class Source:
    """What was understood: classes, and samples per split (``train``, ``val``, ``test``, or ``all``).

    Classes are in sorted order, or in that of the list that came with the data.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    notes: tuple[str, ...] = field(default=())  # what was left out, counted
    multilabel: bool = False  # an image may have any number of classes, in `Sample.labels`
    origin: str = ""  # of remote data: its address, or its name with the commit that was read

    def describe(self) -> str:
        """One line: how many images of how many classes in which splits."""
        parts = ", ".join(f"{split} {len(samples):,}" for split, samples in self.splits.items())
        total = sum(len(samples) for samples in self.splits.values())
        return f"{total:,} images of {len(self.classes)} classes ({parts})"


def match_classes(source: Source, classes: Sequence[str]) -> Source:
    """Renumber the labels of ``source`` by class **name** to a model's classes.

    Raises:
        UserError: the data has images of a class that the model does not know.
    """
    index = class_indices(classes, source.classes)
    if -1 in index:  # a list of classes may hold more than there are images of
        seen = {label for split in source.splits.values() for s in split for label in s.labels or (s.label,)}
        if unknown := [name for i, name in enumerate(source.classes) if index[i] < 0 and i in seen]:
            guess = did_you_mean(unknown[0], classes) if len(unknown) <= FEW else ""
            raise UserError(
                f"the data has classes that the model does not know: {listed(unknown)}. "
                f"The model knows: {listed(classes)}.{guess}"
            )
    splits = {
        split: [
            sample._replace(
                label=-1 if source.multilabel else index[sample.label],
                labels=tuple(sorted(index[label] for label in sample.labels)),
            )
            for sample in samples
        ]
        for split, samples in source.splits.items()
    }
    absent = [name for number, name in enumerate(classes) if number not in index]
    notes = (*source.notes, f"no images of {len(absent)} of the model's classes: {listed(absent)}") if absent else ()
    return dataclasses.replace(source, classes=tuple(classes), splits=splits, notes=notes or source.notes)


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first names in quotes, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
