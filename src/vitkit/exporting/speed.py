"""How fast an artefact is, beside plain PyTorch and beside its own target in fp32: in turn, medians of rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np

from vitkit.engines.engine import Engine
from vitkit.exporting.proof import Speed

__all__ = ["rates", "speed_of"]

Array = np.ndarray
SECONDS = 6.0  # of all sides together, and at least
ROUNDS = 3
MOST_ROUNDS = 15


def speed_of(sides: Mapping[str, Engine], images: Array) -> Speed:
    """Time the sides ``plain``, ``this`` and, where there is one, ``fp32`` on images (n, C, H, W)."""
    times = rates(sides, images)

    def ratio(other: str) -> float:
        return statistics.median(b / a for a, b in zip(times["this"], times[other], strict=True))

    return Speed(
        len(images) / statistics.median(times["this"]), ratio("plain"), ratio("fp32") if "fp32" in times else None
    )


def rates(sides: Mapping[str, Engine], images: Array) -> dict[str, list[float]]:
    """Seconds that each side took for all images in each round, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for engine in sides.values():
        engine(images)
    began = time.perf_counter()
    while (rounds := len(times["this"])) < ROUNDS or (
        rounds < MOST_ROUNDS and time.perf_counter() - began < SECONDS * (rounds / (rounds + 1))
    ):
        for name, engine in sides.items():
            start = time.perf_counter()
            engine(images)
            times[name].append(time.perf_counter() - start)
    return times
