"""Table 7: Adam against SGD in the pre-training of ResNets."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.printed import printed_table

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="table7",
    title="ResNets pre-trained with Adam and with SGD",
    shows="two ResNets pre-trained on JFT-300M with either optimiser, fine-tuned on five data sets: Adam is better in most",
    kind="published",
    lacking="JFT-300M is not public, and vitkit trains no ResNets",
)


def run(_request: Request, _console: Console) -> Outcome:
    """The printed values."""
    return printed_table("Table 7", facts=("pretraining_optimizer",))
