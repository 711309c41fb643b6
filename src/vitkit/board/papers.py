"""The papers of the board: facts, our own summary, and how each leads to others."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PAPERS", "Paper"]


@dataclass(frozen=True)
class Paper:
    """One paper, or another publication of results."""

    name: str
    title: str
    short: str  # as people call it: ViT
    authors: str  # short form
    date: str  # of the first version: YYYY-MM-DD, or YYYY-MM where the day is not verified
    summary: str  # our own words
    arxiv: str = ""
    venue: str = ""
    code: tuple[str, ...] = ()  # addresses
    tasks: tuple[str, ...] = ()  # names of `TASKS`: the tags
    builds_on: tuple[
        tuple[str, str], ...
    ] = ()  # (name of an earlier paper, what leads from it to this one): edges of the tree
    aliases: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Where to read it."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else (self.code[0] if self.code else "")


PAPERS = (
    Paper(
        "vit", "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", "ViT", "Dosovitskiy et al.",
        "2020-10-22",
        "An image is cut into patches of 16 by 16 pixels, each becomes a token, and a plain Transformer encoder classifies the "
        "sequence.",
        "2010.11929", "ICLR 2021", ("https://github.com/google-research/vision_transformer",),
    ),
)  # fmt: skip
