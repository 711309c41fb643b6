"""Table 1: the sizes of the Vision Transformer, counted from our own models."""

from __future__ import annotations

from typing import Any

from vitkit.console import Console
from vitkit.papers.item import PAPER, Item, Outcome, Request

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="table1",
    title="sizes of the Vision Transformer",
    shows="layers, width, MLP size, heads and parameters of ViT-Base, -Large and -Huge",
    kind="computed",
)
# name, letter: layers, hidden size, MLP size, heads, parameters as printed. Source: arXiv 2010.11929, table 1.
PUBLISHED = {
    ("ViT-Base", "B"): (12, 768, 3072, 12, 86_000_000),
    ("ViT-Large", "L"): (24, 1024, 4096, 16, 307_000_000),
    ("ViT-Huge", "H"): (32, 1280, 5120, 16, 632_000_000),
}
COLUMNS = ("layers", "hidden_size", "mlp_size", "heads", "parameters")
PATCHES = {"B": (16, 32), "L": (16, 32), "H": (14,)}  # that the paper trains


def run(_request: Request, _console: Console) -> Outcome:
    """The table, counted from models of 1,000 classes at 224 pixels."""
    rows = [_row(name, letter, printed) for (name, letter), printed in PUBLISHED.items()]
    table = [["model", "layers", "hidden size D", "MLP size", "heads", "parameters", "published"]]
    for row in rows:
        for model, count in row["parameters_by_model"].items():
            own = [str(row[column]) for column in COLUMNS[:-1]]
            table.append([model, *own, f"{count:,}", f"{row['published']['parameters'] / 1e6:.0f}M"])
    notes = (
        "parameters are counted with a class token and a head of 1,000 classes at 224 pixels; the paper does not say which "
        "patches and head it counts.",
        "307M is what ViT-Large has with patches of 32 pixels, 2.2M more than with 16; 86M is ViT-Base without its head (0.8M).",
    )
    return Outcome(rows, table, notes, setting={"num_classes": 1000, "image_size": 224})


def _row(name: str, letter: str, printed: tuple[int, ...]) -> dict[str, Any]:
    import torch

    from vitkit.models.vit import VisionTransformer, ViTConfig

    counts = {}
    for patch in PATCHES[letter]:
        with torch.device("meta"):
            model = VisionTransformer(config := ViTConfig.named(f"{letter}/{patch}"))
        counts[f"ViT-{letter}/{patch}"] = sum(parameter.numel() for parameter in model.parameters())
    own = (config.depth, config.embed_dim, config.mlp_dim, config.num_heads, next(iter(counts.values())))
    return {
        "model": name,
        **dict(zip(COLUMNS, own, strict=True)),
        "parameters_by_model": counts,
        "published": dict(zip(COLUMNS, printed, strict=True)),
        "source": f"{PAPER}, Table 1",
    }
