"""Table 5: how the pre-training set decides what a model is worth after fine-tuning."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.printed import printed_table

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="table5",
    title="accuracies by pre-training set",
    shows="five models pre-trained on ImageNet, ImageNet-21k and JFT-300M, fine-tuned at 384 pixels on six data sets",
    kind="published",
    weights=tuple(f"imagenet21k/ViT-{name}" for name in ("B_16", "B_32", "L_16", "L_32", "H_14")),
    sets=("imagenet", "cifar10", "cifar100", "pets", "flowers102"),
    hardware="a GPU to fine-tune at 384 pixels",
    lacking="the models pre-trained on JFT-300M, which were never published, and those of ImageNet alone",
    commands=(
        "vit pretrain paper_finetune_cifar10 start=imagenet21k/ViT-B_16 data=FOLDER --out RUN  # cifar100, imagenet, pets, "
        "flowers102 alike, and B_32, L_16, L_32, H_14",
        "vit pretrain paper_b16_imagenet data=FOLDER --out RUN  # then fine-tuned alike with start=RUN/model",
        "vit results add RUN --model-name 'ViT-B/16 ImageNet-21k'",
    ),
)


def run(_request: Request, _console: Console) -> Outcome:
    """The printed values."""
    note = "H/14 from JFT-300M differs from table 6 in five of six values (ImageNet 88.04 here, 88.08 there): both are printed so."
    return printed_table("Table 5", notes=(note,))
