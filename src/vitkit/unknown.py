"""Is an image unlike the images that trained the model? A distance of its features, and the threshold that tells.

One Gaussian is fitted to the features of training images, and an image's distance is its Mahalanobis distance to it. The
directions in which training images hardly vary are what gives strange images away, so they are kept almost unshrunk.
Source: the marginal Mahalanobis distance of arXiv 2003.00402; measured against other distances in
docs/results/unknown.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.config import UserError, write_file
from vitkit.weights.safetensors_file import read_tensors

__all__ = ["FALSE_ALARMS", "Unknown", "fit_unknown", "read_unknown", "read_unknown_arrays", "write_unknown"]

FILE = "unknown.safetensors"
FALSE_ALARMS = 0.05  # part of images of known classes that may be called unknown
RIDGE = 1e-3  # of the mean variance, added to every direction's


@dataclass(frozen=True)
class Unknown:
    """The detector of a bundle."""

    mean: np.ndarray  # (D,) float32
    whitening: np.ndarray  # (D, D) float32: distance = |whitening @ (features - mean)|
    threshold: float  # images further away are called unknown
    held_out: int  # images that the threshold was chosen on

    def to_dict(self) -> dict[str, float]:
        """What the bundle's JSON says of it; the arrays are in a file beside it."""
        return {"threshold": self.threshold, "false_alarms": FALSE_ALARMS, "held_out": self.held_out}

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
    # Contiguous: products of a transposed view differ in the last digits from those of what is written and read again.
    whitening = np.ascontiguousarray((directions / np.sqrt(spread)).T)
    detector = Unknown(mean.astype(np.float32), whitening.astype(np.float32), math.inf, len(held_out))
    distances = sorted(detector.distance(row) for row in held_out)
    return Unknown(detector.mean, detector.whitening, distances[rank - 1], len(held_out))


def write_unknown(folder: Path, unknown: Unknown) -> None:
    """Write the arrays into a bundle's folder.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {"mean": unknown.mean, "whitening": np.ascontiguousarray(unknown.whitening)}
    write_file(folder / FILE, save(arrays))


def read_unknown(folder: Path, facts: Any, width: int) -> Unknown | None:
    """Read the detector of a bundle for features of ``width``; ``facts`` is what the JSON says of it, None for nothing.

    Raises:
        UserError: no threshold, or arrays that are missing or do not fit.
    """
    if facts is None:
        return None
    return _unknown(folder, facts, {name: each.numpy() for name, each in read_tensors(folder / FILE).items()}, width)


def read_unknown_arrays(folder: Path, facts: Any, width: int) -> Unknown | None:
    """As `read_unknown`, without torch, of a file whose content is known to be what was written.

    Raises:
        UserError: as `read_unknown`.
    """
    if facts is None:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load((folder / FILE).read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / FILE} cannot be read: {error}") from None
    return _unknown(folder, facts, arrays, width)


def _unknown(folder: Path, facts: Any, arrays: Mapping[str, np.ndarray], width: int) -> Unknown:
    shapes = {name: array.shape for name, array in arrays.items()}
    try:
        threshold, held_out = float(facts["threshold"]), int(facts["held_out"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder}/config.json: unknown lacks a threshold; make the bundle again.") from None
    if shapes != {"mean": (width,), "whitening": (width, width)}:
        raise UserError(f"{folder / FILE} does not fit features of width {width}: {shapes}.")
    return Unknown(arrays["mean"], arrays["whitening"], threshold, held_out)
