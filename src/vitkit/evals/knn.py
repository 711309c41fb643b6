"""The nearest neighbours among training images, by the cosine of their features, vote for the class.

Source of the weighted vote, its temperature and the 20 neighbours: facebookresearch/dino `eval_knn.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.config import UserError
from vitkit.engines.threads import each_alone

__all__ = ["NEIGHBOURS", "TEMPERATURE", "Votes", "nearest", "vote"]

NEIGHBOURS = 20
TEMPERATURE = 0.07
ROWS = 128  # test images compared at a time: with 50,000 training images 51 MB in each thread
DECIMALS = 12  # to which equal images' similarities agree whatever the order of sums


class Votes(NamedTuple):
    """What the neighbours say of each test image, parts of all votes: (m, O) float64. The lower class wins a tie."""

    weighted: Tensor  # by exp(cosine / temperature)
    majority: Tensor  # each neighbour alike


def nearest(x: Tensor, x_test: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Places (m, k) of the nearest training images, nearest first, and their cosines (m, k) float64.

    Of equally near images (to `DECIMALS` decimals) the earlier in the data is the nearer.

    Raises:
        UserError: more neighbours than training images, or none.
    """
    if not 1 <= neighbours <= len(x):
        raise UserError(f"--neighbours {neighbours}: expected 1 to {len(x)}, the number of training images.")
    own = F.normalize(x.double(), dim=1)

    def part(start: int) -> tuple[Tensor, Tensor]:
        cosines = (F.normalize(x_test[start : start + ROWS].double(), dim=1) @ own.T).round(decimals=DECIMALS)
        values, places = cosines.topk(neighbours, dim=1)
        tied = (cosines >= values[:, -1:]).sum(1) > neighbours  # the last is as near as one left out
        if tied.any():
            best, order = cosines[tied].sort(dim=1, descending=True, stable=True)
            values[tied], places[tied] = best[:, :neighbours], order[:, :neighbours]
        places, order = places.sort(dim=1)
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        return places.gather(1, order), values

    parts = each_alone(part, range(0, len(x_test), ROWS))
    places, values = (torch.cat(each) for each in zip(*parts, strict=True))
    return places, values


def vote(
    x: Tensor,
    labels: Tensor,
    x_test: Tensor,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Votes:
    """Votes of the ``neighbours`` nearest of training features (n, D) with labels (n,) for test features (m, D).

    Raises:
        UserError: as `nearest`.
    """
    places, cosines = nearest(x, x_test, neighbours)
    kinds = labels[places]  # (m, k)
    weights = (cosines / temperature).exp()
    found = []
    for each in (weights, torch.ones_like(weights)):
        votes = torch.zeros(len(x_test), classes, dtype=torch.float64)
        for column in range(neighbours):  # in order: sums of equal votes come out equal
            votes[torch.arange(len(votes)), kinds[:, column]] += each[:, column]
        found.append(votes / each.sum(1, keepdim=True))
    return Votes(*found)
