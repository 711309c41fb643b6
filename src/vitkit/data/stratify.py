"""Iterative stratification: parts of a multi-label set that share every class evenly.

Source: Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["iterative_folds", "iterative_split"]

LabelSets = Sequence[Sequence[int]]  # the class indices of each example, possibly none


def iterative_folds(labels: LabelSets, folds: int, seed: int) -> np.ndarray:
    """Return the fold (0 .. folds-1) of each example; a function of labels and seed."""
    counts = _positives(labels)
    wanted = np.repeat(counts[:, None] / folds, folds, axis=1)
    return _assign(labels, wanted, np.full(folds, len(labels) / folds), np.random.default_rng([seed, folds]))


def iterative_split(labels: LabelSets, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split indices into (kept, held out): about ``fraction`` of the images of each class is held out.

    Every class keeps at least one image. A class of two or more gives at least one, unless that would take the last kept
    image of another class.
    """
    counts = _positives(labels)
    held = np.minimum(np.maximum(1, np.round(fraction * counts)), np.maximum(counts - 1, 0))
    share = fraction * len(labels)
    totals = np.array([len(labels) - share, share])
    part = _assign(labels, np.stack([counts - held, held], axis=1), totals, np.random.default_rng([seed, 0]))
    _mend(part, labels, counts)
    return np.flatnonzero(part == 0).tolist(), np.flatnonzero(part == 1).tolist()


def _mend(part: np.ndarray, labels: LabelSets, counts: np.ndarray) -> None:
    """Give each class an image to learn from, then one to be judged by, where images that serve several left it without."""
    members = [[i for i, own in enumerate(labels) if label in own] for label in range(len(counts))]
    for found in members:
        if found and all(part[i] for i in found):
            part[found[0]] = 0
    kept = np.array([sum(part[i] == 0 for i in found) for found in members])
    for found in members:
        if len(found) > 1 and not any(part[i] for i in found):
            spare = next((i for i in found if all(kept[label] > 1 for label in labels[i])), None)
            if spare is not None:
                part[spare] = 1
                kept[list(labels[spare])] -= 1


def _positives(labels: LabelSets) -> np.ndarray:
    """How many examples each class has, (O,)."""
    return np.bincount(np.array([label for own in labels for label in own], np.int64))


def _assign(labels: LabelSets, wanted: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part of each example.

    Args:
        labels: class indices of each example.
        wanted: (O, parts) examples that each part still wants of each class; changed.
        totals: (parts,) examples that each part still wants; changed.
        rng: breaks ties.
    """
    part = np.full(len(labels), -1)
    order = rng.permutation(len(labels))
    members: list[list[int]] = [[] for _ in range(len(wanted))]
    for i in order.tolist():
        for label in labels[i]:
            members[label].append(i)
    remaining = np.array([len(found) for found in members])

    def place(i: int, candidates: np.ndarray) -> None:
        candidates = candidates[totals[candidates] == totals[candidates].max()]
        part[i] = chosen = int(rng.choice(candidates)) if len(candidates) > 1 else int(candidates[0])
        totals[chosen] -= 1
        for label in labels[i]:
            wanted[label, chosen] -= 1
            remaining[label] -= 1

    while remaining.any():
        rarest = np.flatnonzero(remaining == remaining[remaining > 0].min())
        label = int(rng.choice(rarest))
        for i in members[label]:
            if part[i] < 0:
                place(i, np.flatnonzero(wanted[label] == wanted[label].max()))
    for i in order.tolist():
        if part[i] < 0:  # of no class
            place(i, np.arange(len(totals)))
    return part
