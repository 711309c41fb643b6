"""Figure 8: which dimension of the model to grow, with the compute of each by our own count."""

from __future__ import annotations

import dataclasses
from typing import Any

from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request
from vitkit.papers.unprinted import unprinted

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure8",
    title="scaling depth, width and patches",
    shows="5-shot accuracy against compute relative to a base of 8 layers, width 1024, MLP 2048 and patches of 32, growing one "
    "dimension at a time: depth pays most, width least, smaller patches well",
    kind="published",
    hardware="a cluster for a grid of pre-training runs",
    lacking="JFT-300M, which is not public, and the values themselves",
    commands=(
        "vit pretrain cifar10_small data=cifar10=FOLDER model.depth=12 --out RUN  # scaled down: one dimension at a time",
        "vit evaluate RUN/model cifar10=FOLDER --protocol fewshot --shots 5 --out SCORES",
    ),
)
# What each line of the figure changes; depth to 64 is in the text, the other steps are ours.
STEPS: dict[str, tuple[dict[str, Any], ...]] = {
    "depth": tuple({"depth": depth} for depth in (8, 16, 32, 64)),
    "patch size": tuple({"patch_size": (side, side)} for side in (32, 16, 8)),
    "width of the MLP": tuple({"mlp_dim": width} for width in (2048, 4096, 8192)),
    "width": tuple({"embed_dim": width} for width in (1024, 2048)),
    "all": (
        {}, {"depth": 16, "embed_dim": 2048, "mlp_dim": 4096, "patch_size": (16, 16)},
    ),
}  # fmt: skip


def run(_request: Request, _console: Console) -> Outcome:
    """The compute of each model relative to the base, which is the figure's axis."""
    from vitkit.analysis.flops import forward_macs
    from vitkit.models.vit import ViTConfig

    base = ViTConfig(embed_dim=1024, depth=8, mlp_dim=2048, num_heads=16, patch_size=(32, 32), num_classes=0)
    rows: list[dict[str, Any]] = []
    for what, steps in STEPS.items():
        for changes in steps:
            config = dataclasses.replace(base, **changes)
            named = ", ".join(f"{k} {v[0] if isinstance(v, tuple) else v}" for k, v in changes.items())
            macs = forward_macs(config)
            rows.append(
                {"grown": what, "model": named or "base", "gmacs": macs / 1e9, "relative_compute": macs / forward_macs(base)}
            )  # fmt: skip
    shown = [{**row, "compute": f"{row['relative_compute']:.2f} x", "GMACs": f"{row['gmacs']:.2f}"} for row in rows]
    outcome = unprinted(ITEM, shown, ("grown", "model", "compute", "GMACs"), (
        "compute relative to the base is our count, without the head; the steps are ours, but for 64 layers.",
    ))  # fmt: skip
    return dataclasses.replace(
        outcome, rows=[{**row, "published": None, "source": outcome.rows[0]["source"]} for row in rows]
    )
