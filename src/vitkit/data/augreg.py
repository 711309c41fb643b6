"""The seven augmentation settings of "How to train your ViT?" by name.

The released checkpoints' file names and the paper name them differently, and one name means two things:

=========== =========== ====================== ========
file name   paper name  RandAugment (l, m)     mixup p
=========== =========== ====================== ========
none        none        off                    0
light0      light1      (2, 0)                 0
light1      light2      (2, 10)                0.2
medium1     medium1     (2, 15)                0.2
medium2     medium2     (2, 15)                0.5
strong1     strong1     (2, 20)                0.5
strong2     strong2     (2, 20)                0.8
=========== =========== ====================== ========

That file light0 is paper light1, and file light1 paper light2, is inferred from their order: no released file is called light2.
Source: arXiv 2106.10270, section 3.2; big_vision `configs/vit_i21k.py`, which uses the paper's names.
"""

from __future__ import annotations

from typing import NamedTuple

from vitkit.config import UserError, did_you_mean

__all__ = ["AUGREG", "AugReg", "augreg"]


class AugReg(NamedTuple):
    """One setting."""

    file_name: str  # as in aug_light1 of a checkpoint's name
    paper_name: str
    layers: int
    magnitude: int
    mixup: float


AUGREG = (
    AugReg("none", "none", 0, 0, 0.0),
    AugReg("light0", "light1", 2, 0, 0.0),
    AugReg("light1", "light2", 2, 10, 0.2),
    AugReg("medium1", "medium1", 2, 15, 0.2),
    AugReg("medium2", "medium2", 2, 15, 0.5),
    AugReg("strong1", "strong1", 2, 20, 0.5),
    AugReg("strong2", "strong2", 2, 20, 0.8),
)


def augreg(name: str, names: str = "file") -> AugReg:
    """The setting of this name, by the names of the released files, or with ``names`` "paper" by the paper's.

    Raises:
        UserError: no such name in these; the other meaning is told.
    """
    if names not in ("file", "paper"):
        raise UserError(f"names of augmentation settings are 'file' or 'paper', got {names!r}.")
    known = {getattr(row, f"{names}_name"): row for row in AUGREG}
    if name in known:
        return known[name]
    other = "paper" if names == "file" else "file"
    for row in AUGREG:
        if getattr(row, f"{other}_name") == name:
            here = getattr(row, f"{names}_name")
            raise UserError(
                f"{name!r} is the {other} name of the augmentation setting whose {names} name is {here!r}, and {names} names "
                f"are used here; write {here!r} (RandAugment {row.layers}, {row.magnitude} and mixup {row.mixup:g})."
            )
    raise UserError(
        f"no augmentation setting is called {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}"
    )
