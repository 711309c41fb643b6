"""Figure 13: Axial Transformers."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.unprinted import unprinted

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure13",
    title="Axial Transformers",
    shows="5-shot ImageNet accuracy of axial and plain models against exaFLOPs and against images a second: axial ones are "
    "better and cost more",
    kind="published",
    hardware="a cluster for six pre-training runs",
    lacking="JFT-300M, which is not public, the values themselves, and vitkit has no axial attention and no ResNets",
    commands=("vit pretrain paper_b32_jft300m data=FOLDER --out RUN  # and paper_b16_jft300m: the plain models alone",),
)
MODELS = {
    "ViT-B/32": "paper_b32_jft300m", "ViT-B/16": "paper_b16_jft300m", "AxialViT-B/32": "", "AxialViT-B/16": "", "ResNet50": "",
    "AxialResNet50": "",
}  # fmt: skip


def run(_request: Request, _console: Console) -> Outcome:
    """The models of the figure."""
    rows = [{"model": model, "recipe": recipe or "none: vitkit has no such model"} for model, recipe in MODELS.items()]
    return unprinted(ITEM, rows, ("model", "recipe"))
