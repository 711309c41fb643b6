"""Counts of a classifier's hits where the answer is one of several classes, or may only be one of some. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.evals.classify import wilson

__all__ = ["UNLABELLED", "Tally", "corruption_errors", "ranks", "tally"]

Array = np.ndarray
UNLABELLED = -1  # the rank of an image without any label
CHUNK = 1024  # images looked at together
LOWEST = 5  # a rank that is no hit


class Tally(NamedTuple):
    """How many of n images were right; ``unlabelled`` ones are not among them."""

    n: int
    top1: int
    top5: int
    unlabelled: int

    def figures(self) -> dict[str, tuple[float, float, float]]:
        """Value and 95 % Wilson interval of top1 and top5."""
        return {
            name: (hits / self.n, *wilson(hits, self.n)) for name, hits in (("top1", self.top1), ("top5", self.top5))
        }


def ranks(logits: Array, accepted: Sequence[Sequence[int]], among: Sequence[int] | None = None) -> Array:
    """How many classes come before the best accepted one of each image, (n,); `UNLABELLED` where none is accepted.

    The lower class index wins a tie. So an image is right (top-1) if the class of the greatest logit is accepted: with one
    accepted class the ordinary rule, with several that of ImageNet-ReaL, ObjectNet and VizWiz-Classification.

    Args:
        logits: (n, O).
        accepted: of each image, indices of the classes that are right.
        among: the only classes that may be answered, all others being left out before the greatest logit is looked for, as the
            published code of ImageNet-A and -R does; an accepted class that is not among them cannot be answered.

    Raises:
        UserError: logits that are not finite.
    """
    n, O = logits.shape
    if not np.isfinite(logits).all():
        raise UserError("the model's outputs are not finite numbers; its weights are damaged or its training diverged.")
    allowed = np.ones(O, bool) if among is None else np.isin(np.arange(O), np.asarray(among, np.int64))
    found = np.empty(n, np.int64)
    for start in range(0, n, CHUNK):
        part = np.where(allowed, logits[start : start + CHUNK].astype(np.float64), -np.inf)
        truth = np.zeros(part.shape, bool)
        for row, classes in enumerate(accepted[start : start + CHUNK]):
            truth[row, list(classes)] = True
        own = np.where(truth & allowed, part, -np.inf)
        best, rows = own.argmax(axis=1), np.arange(len(part))
        value = own[rows, best]
        before = (part > value[:, None]) | ((part == value[:, None]) & (np.arange(O) < best[:, None]))
        place = np.where(np.isfinite(value), (before & allowed).sum(axis=1), max(O, LOWEST))
        found[start : start + CHUNK] = np.where(truth.any(axis=1), place, UNLABELLED)
    return found


def tally(found: Array) -> Tally:
    """Count the ranks of images.

    Raises:
        UserError: no image has a label.
    """
    labelled = found[found != UNLABELLED]
    if not len(labelled):
        raise UserError(f"none of the {len(found)} images has a label; there is nothing to score.")
    return Tally(len(labelled), int((labelled < 1).sum()), int((labelled < 5).sum()), len(found) - len(labelled))


def corruption_errors(errors: Mapping[str, Sequence[float]], reference: Mapping[str, float]) -> dict[str, float]:
    """The error on each corruption, the mean of its severities, as a part of a reference model's; their mean is the mCE.

    Source: arXiv 1903.12261, section 3.
    """
    return {name: float(np.mean(found)) / reference[name] for name, found in errors.items()}
