"""What the numbers say, in a sentence each, and whether it is what the paper saw: by rules that are written down here.

Source of what the paper saw: arXiv 2010.11929, section 4.5, figure 7; of outlier tokens arXiv 2309.16588, sections 1 and 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vitkit.analysis.filters import Filters
from vitkit.analysis.positions import Structure
from vitkit.analysis.survey import Surveyed

__all__ = ["Finding", "distance_finding", "entropy_finding", "filter_finding", "layer_finding", "norm_finding",
           "position_finding", "rank_correlation"]  # fmt: skip

Array = npt.NDArray[np.float64]

SMOOTH = 0.5  # filters are of low frequency if theirs is at most so much of white noise's
EXCESS = 0.02  # of a cosine: less is no row or column structure
STEADY = 0.5  # rank correlation from which something grows with depth
RISE = 0.05  # of uniform attention's distance: less from one half of the layers to the other is no growth


class Finding(NamedTuple):
    """One sentence or two about one figure."""

    text: str
    holds: bool | None  # is it the pattern that the paper describes? None: it describes none that a rule could check


def filter_finding(filters: Filters) -> Finding:
    """Low-frequency basis functions of few dimensions? The shown components hold half of the variance, weighted by which their
    frequency is at most half of white noise's."""
    share, n = float(filters.explained.sum()), len(filters.explained)
    if not filters.noise:
        return Finding(
            f"The first {n} components hold {100 * share:.0f} % of the filters' variance. A patch is one pixel, so that "
            "filters have no spatial frequency.",
            None,
        )
    frequency = float(np.average(filters.frequency, weights=filters.explained))
    holds = share >= 0.5 and frequency <= SMOOTH * filters.noise
    slow, fast = (
        int((filters.frequency <= SMOOTH * filters.noise).sum()),
        int((filters.frequency >= filters.noise).sum()),
    )
    return Finding(
        f"The first {n} components hold {100 * share:.0f} % of the filters' variance. Their mean spatial frequency is "
        f"{frequency:.2f} cycles per pixel, where white noise has {filters.noise:.2f}; {slow} of them vary at most half as fast as "
        f"noise, {fast} faster than noise: "
        + (
            "a few smooth basis functions, as the paper describes."
            if holds
            else "not the few smooth basis functions that the paper describes."
        ),
        holds,
    )


def position_finding(found: Structure) -> Finding:
    """Are near patches more alike, and those of one row or column beyond that?"""
    if found.nearness is None or found.rows is None or found.columns is None:
        return Finding("The grid is too small, or its embeddings too much alike, to compare rows and columns.", None)
    near, lined = found.nearness >= STEADY / 2, min(found.rows, found.columns) >= EXCESS
    seen = {
        (
            True,
            True,
        ): "nearer patches are more alike, and those of one row or column more than that, as the paper describes.",
        (True, False): "nearer patches are more alike, but there is no structure of rows and columns as in the paper.",
        (False, True): "there are rows and columns, but near patches are not more alike as in the paper.",
        (False, False): "neither nearness nor rows and columns show, unlike in the paper.",
    }[near, lined]
    return Finding(
        f"Similarity correlates with nearness by {found.nearness:.2f}; patches of one row are more alike than others at the same "
        f"distance by {found.rows:+.2f}, of one column by {found.columns:+.2f} (cosine): {seen}",
        near and lined,
    )


def distance_finding(found: Surveyed) -> Finding:
    """Does attention distance grow with depth, and do some heads look far already in the first layer?"""
    means = found.distance.mean(axis=1)
    first, far = found.distance[0], found.uniform_distance / 2
    growth, half = rank_correlation(means), len(means) // 2
    rise = means[-half:].mean() - means[:half].mean() if half else 0.0
    grows = None if growth is None else bool(growth >= STEADY and rise >= RISE * found.uniform_distance)
    said = "no growth to tell of" if growth is None else f"rank correlation with depth {growth:+.2f}"
    pattern = {
        True: "distance grows with depth, as in the paper.",
        False: "distance does not grow with depth as in the paper.",
        None: "with one distance alone nothing can grow.",
    }[grows]
    halves = (
        f"{means[:half].mean():.0f} pixels in the first half of the layers and {means[-half:].mean():.0f} in the second"
        if half
        else f"{means[0]:.0f} pixels"
    )
    local, wide = int((first < far).sum()), int((first >= far).sum())
    return Finding(
        f"The mean attention distance is {halves} ({said}; uniform attention has {found.uniform_distance:.0f}). "
        f"In the first layer, {_heads(wide)} at half of that or farther and {_heads(local)} nearer, "
        f"from {first.min():.0f} to {first.max():.0f} "
        f"pixels: {pattern}",
        grows,
    )


def _heads(count: int) -> str:
    return f"{count} head looks" if count == 1 else f"{count} heads look"


def entropy_finding(found: Surveyed) -> Finding:
    """The most focused and the least focused layer."""
    shares = found.entropy.mean(axis=1) / max(found.uniform_entropy, 1e-12)
    low, high = int(shares.argmin()), int(shares.argmax())
    return Finding(
        f"Attention is most focused in layer {low} (entropy {100 * shares[low]:.0f} % of uniform attention's) and most spread in "
        f"layer {high} ({100 * shares[high]:.0f} %).",
        None,
    )


def layer_finding(cka: Array) -> Finding:
    """The step where a layer changes most, and how alike the two ends are."""
    steps = np.diagonal(cka, offset=1)
    if not np.isfinite(steps).all():
        return Finding("Some layers give the same for every image, so that they cannot be compared.", None)
    weakest = int(steps.argmin())
    return Finding(
        f"From one layer to the next representations stay alike by {steps.mean():.2f} (linear CKA, mean); block {weakest} "
        f"changes them most ({steps[weakest]:.2f}). What enters the first block and what leaves the last: {cka[0, -1]:.2f}.",
        None,
    )


def norm_finding(found: Surveyed) -> Finding:
    """Outlier tokens after the last block, and where most are."""
    norms = found.norms
    last, most = norms.outliers[-1], int(norms.outliers.argmax())
    if norms.outliers[most] == 0:
        return Finding("No patch token stands out from those of its image, after any block.", None)
    return Finding(
        f"After the last block {100 * last:.2f} % of the patch tokens stand out from those of their image, in "
        f"{100 * norms.images[-1]:.0f} % of the images; most do after {most} blocks ({100 * norms.outliers[most]:.2f} %).",
        None,
    )


def rank_correlation(values: Array) -> float | None:
    """Spearman's correlation of values (n,) with their order; None of fewer than 2, or of equal values."""
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    ranks = np.array([((values < v).sum() + (values <= v).sum() - 1) / 2 for v in values])  # ties share a rank
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])
