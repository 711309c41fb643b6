"""Is an image unlike the images that trained the model? A distance of its features, and the threshold that tells.

One Gaussian is fitted to the features of training images, and an image's distance is its Mahalanobis distance to it. The
directions in which training images hardly vary are what gives strange images away, so they are kept almost unshrunk.
Source: the marginal Mahalanobis distance of arXiv 2003.00402; measured against other distances in
docs/results/unknown.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vitkit.config import UserError

__all__ = ["FALSE_ALARMS", "Unknown", "fit_unknown"]

FALSE_ALARMS = 0.05  # part of images of known classes that may be called unknown
RIDGE = 1e-3  # of the mean variance, added to every direction's


@dataclass(frozen=True)
class Unknown:
    """The detector of a bundle."""

    mean: np.ndarray  # (D,) float32
    whitening: np.ndarray  # (D, D) float32: distance = |whitening @ (features - mean)|
    threshold: float  # images further away are called unknown
    held_out: int  # images that the threshold was chosen on

    def distance(self, features: np.ndarray) -> float:
        """Distance of one image's features (D,), in standard deviations; float64, a function of this image alone."""
        return float(np.linalg.norm(self.whitening.astype(np.float64) @ (features.astype(np.float64) - self.mean)))

    def is_unknown(self, features: np.ndarray) -> bool:
        """Is the image further away than the threshold?"""
        return self.distance(features) > self.threshold


def fit_unknown(features: np.ndarray, held_out: np.ndarray) -> Unknown | None:
    """Fit the detector on features (n, D) of training images; the threshold on those of held-out images (m, D).

    The threshold is the smallest held-out distance that an image of the same kind exceeds with probability of at most
    `FALSE_ALARMS`: rank ceil((m + 1) * 0.95) of m. Below 19 images no rank keeps that promise, and there is no detector.

    Raises:
        UserError: features that are not finite.
    """
    rank = math.ceil((len(held_out) + 1) * (1 - FALSE_ALARMS))
    if rank > len(held_out):
        return None
    x = features.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(held_out).all()):
        raise UserError(
            "the model's features are not finite numbers; its weights are damaged or its training diverged."
        )
    mean = x.mean(axis=0)
    variance, directions = np.linalg.eigh(np.cov(x, rowvar=False, bias=True))
    spread = np.maximum(variance, 0) + RIDGE * max(float(variance.mean()), 1e-30)
    whitening = (directions / np.sqrt(spread)).T
    detector = Unknown(mean.astype(np.float32), whitening.astype(np.float32), math.inf, len(held_out))
    distances = sorted(detector.distance(row) for row in held_out)
    return Unknown(detector.mean, detector.whitening, distances[rank - 1], len(held_out))
