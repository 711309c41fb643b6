"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from vitkit.config import UserError, did_you_mean

__all__ = ["DECAYS", "LINEAR_END", "TIMESCALE", "schedule"]

DECAYS = ("cosine", "linear", "constant", "rsqrt")
LINEAR_END = 1e-5  # vit_jax's last rate of a linear decay
TIMESCALE = 10_000  # big_vision's, of rsqrt


def schedule(
    step: int,
    total: int,
    base: float,
    warmup: int,
    decay: str = "cosine",
    *,
    linear_end: float = LINEAR_END,
    timescale: int = TIMESCALE,
    cooldown: int = 0,
) -> float:
    """Learning rate of a step (0-based); the first step of a warm-up has rate 0.

    The warm-up and the cool-down multiply the decayed rate, so nothing jumps where they meet it.

    Args:
        step: 0 .. total - 1; at ``total`` a cosine and a cool-down have reached 0.
        total: steps of the whole run.
        base: the peak.
        warmup: steps of a linear rise from 0.
        decay: cosine (to 0) | linear (to ``linear_end``) | constant | rsqrt (1 / sqrt(1 + steps after the warm-up / timescale)).
        linear_end: last rate of a linear decay, in the units of ``base``.
        timescale: steps of rsqrt.
        cooldown: steps of a linear fall to 0 at the end.

    Raises:
        UserError: a decay that is not known.

    Source: VIT_SPEC 4.1, the formula of both official code bases; rsqrt and the cool-down are big_vision's.
    """
    progress = min(max((step - warmup) / max(total - warmup, 1), 0.0), 1.0)
    if decay == "cosine":
        rate = base / 2 * (1 + math.cos(math.pi * progress))
    elif decay == "linear":
        rate = linear_end + (base - linear_end) * (1 - progress)
    elif decay == "constant":
        rate = base
    elif decay == "rsqrt":
        rate = base / math.sqrt(1 + max(step - warmup, 0) / timescale)
    else:
        raise UserError(f"unknown decay {decay!r}; known: {', '.join(DECAYS)}.{did_you_mean(str(decay), DECAYS)}")
    if warmup:
        rate *= min(1.0, step / warmup)
    if cooldown:
        rate *= min(1.0, (total - step) / cooldown)
    return rate
