"""The 18 models of the scaling study, table 6 and figure 5, with the arithmetic of their pre-training by our own count."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitkit.board.entries import published
from vitkit.papers.printed import accuracies

__all__ = ["FIVE", "JFT_CLASSES", "JFT_IMAGES", "bit_macs", "family", "scaling_rows"]

JFT_IMAGES, JFT_CLASSES = 303_000_000, 18_291  # arXiv 2010.11929, section 4.1; the number of classes as in VIT_SPEC 4.1
FIVE = ("imagenet", "cifar10", "cifar100", "pets", "flowers102")  # whose mean table 7 prints as the average
# ResNet of BiT -> units per stage, and what widths are multiplied by. Source: VIT_SPEC 10.
RESNETS = {
    "ResNet50x1": ((3, 4, 6, 3), 1), "ResNet50x2": ((3, 4, 6, 3), 2), "ResNet101x1": ((3, 4, 23, 3), 1),
    "ResNet152x1": ((3, 8, 36, 3), 1), "ResNet152x2": ((3, 8, 36, 3), 2), "ResNet200x3": ((3, 24, 36, 3), 3),
}  # fmt: skip


def family(model: str) -> str:
    """ViT, ResNet or hybrid."""
    return "ResNet" if model in RESNETS else "hybrid" if "+" in model else "ViT"


def scaling_rows() -> list[dict[str, Any]]:
    """Each printed row with ``exaflops`` of pre-training by our count, the printed ones among its published values, and the mean
    of its five accuracies (``average_five``, computed: table 6 does not print it)."""
    printed = {
        (entry.model, entry.extra["epochs"]): entry.extra["exaFLOPs"]
        for entry in published()
        if entry.paper == "vit" and entry.table == "Table 6"
    }
    rows = []
    for row in accuracies("Table 6", ("epochs",)):
        macs, counted = _macs(row["model"])
        own = 6 * macs * JFT_IMAGES * row["epochs"] / 1e18
        theirs = printed[row["model"], row["epochs"]]
        rows.append(
            {
                **row,
                "family": family(row["model"]),
                "exaflops": own,
                "difference": own / theirs - 1,
                "gmacs": macs / 1e9,
                "counted": counted,
                "average_five": average(row["published"]),
                "published": {"exaflops": theirs, **row["published"]},
            }
        )
    return rows


def average(values: Mapping[str, float]) -> float:
    """The mean over `FIVE`."""
    return round(sum(values[name] for name in FIVE) / len(FIVE), 3)


def _macs(model: str) -> tuple[int, str]:
    """Multiply-adds of one image forward at 224 pixels, and of which parts."""
    if model in RESNETS:
        return bit_macs(*RESNETS[model]), "convolutions of a BiT ResNet, without its head"
    from vitkit.analysis.flops import forward_macs
    from vitkit.models.vit import ViTConfig

    config = ViTConfig.named(model.replace("x1+ViT-", "+").removeprefix("ViT-"), num_classes=JFT_CLASSES)
    whole = dataclasses.replace(config, representation_size=config.embed_dim)
    return forward_macs(whole), "all matrix products and convolutions, with the tanh layer and a head of 18,291 classes"


def bit_macs(units: tuple[int, ...], width: int, side: int = 224) -> int:
    """Multiply-adds of the convolutions of a BiT ResNet for an image of ``side`` x ``side``.

    Bottlenecks before activation whose 3 x 3 convolution has the stride, and a projection where shapes change
    (arXiv 1912.11370); group norms and weight standardisation are left out, as all that is no product.
    """
    channels = 64 * width
    here = -(-side // 2)
    macs = here * here * 7 * 7 * 3 * channels
    here = -(-here // 2)
    for stage, count in enumerate(units):
        inner = 64 * width * 2**stage
        for unit in range(count):
            before = here
            if stage and not unit:
                here = -(-here // 2)
            macs += before * before * channels * inner + here * here * (9 + 4) * inner * inner
            if channels != 4 * inner or before != here:
                macs += here * here * channels * 4 * inner
            channels = 4 * inner
    return macs
