"""Figure 6: what attention looks at, from the output back to the image."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.rollouts import rollout_examples

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure6",
    title="attention rollout, examples",
    shows="three images beside what attention of all layers, multiplied, looks at in them",
    kind="given",
    needs=("models", "images"),
    takes=("residual", "max_images", "overrides", "max_pixels", "workers"),
    weights=("imagenet21k+imagenet2012/ViT-L_16",),
    lacking="the paper's L/16 of JFT-300M",
)


def run(request: Request, console: Console) -> Outcome:
    """At most three images unless --max-images says otherwise."""
    return rollout_examples(ITEM, request, console, most=3, columns=1)
