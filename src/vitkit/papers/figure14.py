"""Figure 14: many images at random beside what attention looks at in them."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.rollouts import rollout_examples

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure14",
    title="attention rollout, random images",
    shows="128 images drawn at random beside the attention of all layers, multiplied",
    kind="given",
    needs=("models", "images"),
    takes=("residual", "max_images", "overrides", "max_pixels", "workers"),
    weights=("imagenet21k+imagenet2012/ViT-L_16",),
    lacking="the paper's L/16 of JFT-300M",
)


def run(request: Request, console: Console) -> Outcome:
    """At most 128 images, evenly spread over those given, eight pairs in a row."""
    return rollout_examples(ITEM, request, console, most=128, columns=8)
