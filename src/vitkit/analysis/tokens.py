"""Norms of tokens, and the few that stand out: large models park what they have found in patches of little content.

Source: arXiv 2309.16588: tokens of about ten times the norm of the others, some 2 % of them (section 1), told apart by a norm above
150, which is read off one model's histogram (section 2). Here the threshold is a robust one of each image, so that it fits
every model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["DEVIATIONS", "TIMES", "Norms", "TokenNorms", "outliers"]

DEVIATIONS = 6.0  # robust standard deviations above the median from which a norm stands out
TIMES = 3.0  # and times the median, between 1 and about ten: where norms hardly differ, a deviation means little
GAUSSIAN = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
HIGH = 0.95

Array = npt.NDArray[np.float64]


def outliers(norms: Tensor) -> Tensor:
    """Which of each image's patch tokens stand out, (B, h*w) of norms (B, h*w): those above the median plus 6 robust
    deviations, and above three times the median."""
    median = norms.quantile(0.5, dim=1, keepdim=True)
    deviation = GAUSSIAN * (norms - median).abs().quantile(0.5, dim=1, keepdim=True)
    return norms > torch.maximum(median + DEVIATIONS * deviation, TIMES * median)


class Norms(NamedTuple):
    """Norms of tokens between the layers; entry i of (L + 1,) is after i blocks, before any final norm. Means over images."""

    median: Array  # (L + 1,) of an image's patch tokens
    high: Array  # (L + 1,) of an image's patch tokens, their 95 % quantile
    most: Array  # (L + 1,) the greatest of any image's patch tokens
    prefix: Array  # (L + 1, P) each prefix token
    outliers: Array  # (L + 1,) share of all patch tokens that stand out
    images: Array  # (L + 1,) share of images with such a token


class TokenNorms:
    """Sums norms image by image."""

    def __init__(self, points: int, prefix_tokens: int) -> None:
        self._sums = torch.zeros(points, 4 + prefix_tokens, dtype=torch.float64)
        self._most = torch.zeros(points, dtype=torch.float64)
        self._prefix = prefix_tokens

    def add(self, point: int, tokens: Tensor) -> None:
        """Take in the tokens (B, N, D) of some images at one point."""
        norms = tokens.norm(dim=2, dtype=torch.float64).cpu()  # (B, N); squares of large tokens overflow in float32
        prefix, patches = norms[:, : self._prefix], norms[:, self._prefix :]
        found = outliers(patches).double().mean(dim=1)  # (B,)
        columns = (patches.quantile(0.5, dim=1), patches.quantile(HIGH, dim=1), found, (found > 0).double())
        self._sums[point] += torch.cat([torch.stack(columns, dim=1), prefix], dim=1).sum(dim=0)
        self._most[point] = torch.maximum(self._most[point], patches.max())

    def result(self, images: int) -> Norms:
        """Means over so many images."""
        means = (self._sums / images).numpy()
        median, high, share, having = means[:, :4].T
        return Norms(median, high, self._most.numpy(), means[:, 4:], share, having)
