"""Figure 4: few-shot accuracy against the size of the pre-training set."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.unprinted import unprinted

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure4",
    title="few-shot accuracy by size of the pre-training set",
    shows="5-shot linear ImageNet accuracy after pre-training on 10, 30, 100 and 300 million images of JFT: ResNets lead on "
    "small sets and level off sooner",
    kind="published",
    sets=("imagenet",),
    hardware="a cluster for as many pre-training runs as models and subsets",
    lacking="JFT-300M, which is not public, the values themselves, and vitkit trains no ResNets",
    commands=(
        "vit pretrain paper_b32_jft300m data=SUBSET --out RUN  # of your own images, in each size",
        "vit evaluate RUN/model imagenet=FOLDER --protocol fewshot --shots 5 --out SCORES",
    ),
)
RECIPES = {"ViT-B/32": "paper_b32_jft300m", "ViT-L/32": "paper_l32_jft300m", "ViT-L/16": "paper_l16_jft300m_7ep"}
MODELS = ("ViT-L/16", "ViT-L/32", "ViT-B/32", "ViT-b/32", "ResNet50x1 (BiT)", "ResNet152x2 (BiT)")
MILLIONS = (10, 30, 100, 300)


def run(_request: Request, _console: Console) -> Outcome:
    """The runs of the figure; ViT-b is ViT-B with every width halved."""
    rows = [
        {"model": model, "pretraining": f"JFT, {millions}M images", "recipe": _recipe(model)}
        for model in MODELS
        for millions in MILLIONS
    ]
    note = "ViT-b/32 halves every width of B/32; its number of heads is not said. The text gives the subsets as 9, 30, 90 and 300M."
    return unprinted(ITEM, rows, ("model", "pretraining", "recipe"), (note,))


def _recipe(model: str) -> str:
    if model == "ViT-b/32":
        return "paper_b32_jft300m model.embed_dim=384 model.mlp_dim=1536 model.num_heads=6"
    return RECIPES.get(model, "none: vitkit trains no ResNets")
