"""Random numbers that are a function of what they are for, so that no result depends on how a batch is cut into parts.

Each number is a hash of (seed, step, purpose, the example's place in the run, position). Two processes that share a batch
draw the same numbers for an example as one that has it all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Draws", "uniform"]

# Source: splitmix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195), as signed 64-bit integers.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


class Draws(NamedTuple):
    """Where a forward pass takes its random numbers from."""

    seed: int  # of the run
    step: int  # of the optimiser
    places: Tensor  # (B,) int64, each example's place in the run's stream of examples


def uniform(seed: int, step: int, purpose: int, places: Tensor, count: int) -> Tensor:
    """Numbers in [0, 1), (B, count) float32, on the device of ``places``.

    Args:
        seed: of the run.
        step: of the optimiser.
        purpose: what they are for; two uses in one step need two of them.
        places: (B,) int64, each example's place in the run's stream of examples.
        count: numbers per example.
    """
    key = _mix(_mix(_mix(torch.tensor(seed)) + step) + purpose).to(places.device)
    position = torch.arange(count, device=places.device)
    bits = _mix(_mix(places + key)[:, None] + position)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24  # the upper 24 bits: all that a float32 below 1 holds


def _mix(x: Tensor) -> Tensor:
    """One output of splitmix64 for each state; products wrap around as those of unsigned numbers do."""
    x = x + GOLDEN
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch's own fills with the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
