"""Table 2: the largest models against the state of the art of their time."""

from __future__ import annotations

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.printed import accuracies, accuracy_table, beside_printed

__all__ = ["ITEM", "run"]

START = "start=imagenet21k/ViT-L_16"
ITEM = Item(
    name="table2",
    title="comparison with the state of the art",
    shows="ViT-H/14 and L/16 against BiT-L and Noisy Student on seven data sets, mean and spread of three runs, and the "
    "TPUv3-core-days of pre-training",
    kind="published",
    weights=("imagenet21k/ViT-L_16",),
    sets=("imagenet", "cifar10", "cifar100", "pets", "flowers102"),
    hardware="a GPU to fine-tune at 384 to 518 pixels; 230 to 2,500 TPUv3-core-days to pre-train",
    lacking="the models pre-trained on JFT-300M, which were never published",
    commands=(
        f"vit pretrain paper_finetune_imagenet {START} data=FOLDER image_size=512 optim.polyak=0.9999 --out RUN  # ImageNet",
        f"vit pretrain paper_finetune_cifar10 {START} data=FOLDER --out RUN  # cifar100, pets, flowers102 alike",
        "vit evaluate imagenet21k/ViT-L_16 vtab --protocol vtab --data-root FOLDER --out RUN",
        "vit results add RUN --model-name 'ViT-L/16 ImageNet-21k'",
    ),
)


def run(_request: Request, _console: Console) -> Outcome:
    """The printed values, core-days among them."""
    rows = accuracies("Table 2", ("tpuv3_core_days",))
    notes = ("Noisy Student's ImageNet value is printed as 88.4/88.5*.", *beside_printed(rows))
    return Outcome(rows, accuracy_table(rows, ("tpuv3_core_days",)), notes)
