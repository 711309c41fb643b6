"""The methods that papers of the board share, each explained in a paragraph of our own."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """One idea: what it does and why, in our own words."""

    name: str
    title: str
    summary: str
    group: str  # Architecture, Augmentation, Regularisation, Optimisation, Self-supervision, Evaluation, Explanation
    papers: tuple[str, ...]  # names of `PAPERS` that introduced or use it; the first heads
    source: str = ""  # where the method comes from: an arXiv id with its section, or an address
    aliases: tuple[str, ...] = ()


METHODS: tuple[Method, ...] = ()
