"""What is known of a published data set before its files are opened: splits, classes, licence, source, layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vitkit.config import UserError
from vitkit.data.samples import Source

__all__ = ["Published", "missing"]


@dataclass(frozen=True)
class Published:
    """One published data set. ``read`` takes the folder that holds the publisher's files."""

    name: str  # as users type it: cifar100
    title: str  # as papers print it: CIFAR-100
    classes: int
    counts: Mapping[str, int]  # images of each split as published; the splits that `read` gives: train, val, test
    licence: str
    source: str  # address of the publisher's page or the paper
    layout: str  # what the folder must hold, one line, said in errors
    read: Callable[[Path], Source]
    apart: tuple[str, ...] = ()  # splits that are files of their own: one of them is enough
    signs: tuple[str, ...] = ()  # names in the folder that tell this layout from all others
    note: str = ""  # what a user should know before comparing: what of the published splits could not be reproduced

    def open(self, folder: Path, *, partial: bool = False) -> Source:
        """Read the data set and check it against what was published.

        ``partial`` lets a part of it pass, with a note that says how many images there are of how many.

        Raises:
            UserError: no such folder, another layout, or other numbers of images or classes than published.
        """
        if not folder.is_dir():
            raise UserError(f"{self.title}: no folder {folder}; expected {self.layout}.")
        try:
            source = self.read(folder)
        except UserError as error:
            if self.layout in str(error):
                raise
            raise UserError(f"{error} Expected of {self.title}: {self.layout}.") from None
        splits = {split: kept for split, kept in source.splits.items() if kept}
        notes = (*source.notes, self.note) if self.note else source.notes
        source = dataclasses.replace(source, splits=splits, notes=notes)
        if not source.splits:
            raise UserError(f"{self.title} in {folder}: none of its images are there; expected {self.layout}.")
        found = {split: len(samples) for split, samples in source.splits.items()}
        if len(source.classes) != self.classes:
            raise UserError(
                f"{self.title} in {folder} has {len(source.classes)} classes, the published one {self.classes}; "
                f"expected {self.layout}."
            )
        wrong = [
            f"{split} {found.get(split, 0):,} of {n:,}"
            for split, n in self.counts.items()
            if found.get(split) != n and (split in found or split not in self.apart)
        ]
        if not wrong:
            return source
        shown = ", ".join(wrong[:6]) + (f" and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        if not partial:
            raise UserError(
                f"{self.title} in {folder} is not the published one: images found of images published: {shown}. "
                "Its figures could not be compared. Fetch it again, or pass --partial to score what is there."
            )
        note = f"a part of {self.title} only, not comparable with published figures: {shown}"
        return dataclasses.replace(source, notes=(*source.notes, note))


def missing(title: str, folder: Path, wanted: str, layout: str) -> UserError:
    """The error of a folder that lacks a file of the publisher's."""
    try:
        here = sorted(path.name for path in folder.iterdir())
    except OSError:
        here = []
    shown = ", ".join(here[:6]) + (f" and {len(here) - 6} more" if len(here) > 6 else "")
    return UserError(f"{title} in {folder}: no {wanted}; expected {layout}. The folder holds: {shown or 'nothing'}.")
