"""Figure 1: the model, as the steps that an image takes through it, with their shapes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit.analysis.draw import drawing
from vitkit.console import Console
from vitkit.papers.item import PAPER, Item, Outcome, Request
from vitkit.papers.opened import open_models

if TYPE_CHECKING:
    from vitkit.models.vit import ViTConfig

__all__ = ["ITEM", "run"]

ITEM = Item(
    name="figure1",
    title="overview of the model",
    shows="an image cut into patches, embedded, with a class token and positions, through the Transformer encoder to a class",
    kind="computed",
    takes=("models", "overrides"),
)


def run(request: Request, console: Console) -> Outcome:
    """The steps of ViT-B/16 at 224 pixels, or of --model."""
    import torch

    from vitkit.models.vit import VisionTransformer, ViTConfig

    if request.models:
        ((name, bundle),) = open_models(request, console)
        model = bundle.model
    else:
        name = "ViT-B/16"
        with torch.device("meta"):
            model = VisionTransformer(ViTConfig.named("B/16"))
    rows = [{**row, "source": f"{PAPER}, Figure 1"} for row in _steps(model)]
    table = [["step", "shape", "parameters"], *([r["step"], r["shape"], f"{r['parameters']:,}"] for r in rows)]
    total = sum(parameter.numel() for parameter in model.parameters())
    notes = (f"{name}: {total:,} parameters; the paper's figure is a drawing without values.",)
    return Outcome(
        rows,
        table,
        notes,
        setting={"model": name, "image_size": list(model.config.image_size)},
        figures={"figure1": partial(_draw, rows)},
    )


def _steps(model: Any) -> list[dict[str, Any]]:
    """What is done in which order, for one image; every parameter of the model is in one step."""
    config: ViTConfig = model.config
    (h, w), (H, W), D = config.grid, config.image_size, config.embed_dim
    prefix, tokens = config.prefix_tokens, config.prefix_tokens + h * w
    owner = {
        "stem": "stem", "patch_embed": "patches", "cls_token": "tokens", "registers": "tokens", "pos_embed": "tokens",
        "pos_x": "tokens", "pos_y": "tokens", "norm_pre": "tokens", "blocks": "blocks", "norm": "norm", "map_pool": "pool",
        "pre_logits": "pool", "head": "head", "head_dist": "head",
    }  # fmt: skip
    counts = dict.fromkeys(owner.values(), 0)
    for name, parameter in model.named_parameters():
        counts[owner[name.split(".")[0]]] += parameter.numel()
    steps = [("image", f"{H} x {W} x {config.in_channels}", 0)]
    if config.stem is not None:
        steps.append(("ResNet stem", f"{model.patch_embed.in_channels} channels", counts["stem"]))
    steps += [
        (f"patches of {config.patch_size[0]} x {config.patch_size[1]}, embedded", f"{h * w} x {D}", counts["patches"]),
        (f"{prefix} prefix token{'s' * (prefix != 1)}, positions: {config.position}", f"{tokens} x {D}", counts["tokens"]),
        (f"{config.depth} encoder blocks: norm, {config.num_heads}-head attention, norm, MLP of {config.mlp_dim}",
         f"{tokens} x {D}", counts["blocks"]),
        ("norm", f"{tokens} x {D}", counts["norm"]),
        (f"pooling: {config.pool}", f"{config.feature_dim}", counts["pool"]),
    ]  # fmt: skip
    if config.num_classes:
        steps.append(("head", f"{config.num_classes} classes", counts["head"]))
    return [{"step": step, "shape": shape, "parameters": count} for step, shape, count in steps]


def _draw(rows: list[dict[str, Any]], stem: Path) -> tuple[Path, Path]:
    with drawing(5.2, 0.62 * len(rows)) as page:
        axes = page.one
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(-0.5, len(rows) - 0.5))
        for place, row in enumerate(reversed(rows)):
            block = "blocks" in row["step"]
            box = {"boxstyle": "round,pad=0.45", "edgecolor": "#00204d", "facecolor": "#d7deee" if block else "white"}
            axes.text(0.42, place, row["step"], ha="center", va="center", fontsize=8, bbox=box)
            axes.text(0.98, place, row["shape"], ha="right", va="center", fontsize=8, color="#555555")
            if place:
                arrow = {"arrowstyle": "-|>", "color": "#00204d", "linewidth": 1.0}
                axes.annotate("", (0.42, place - 0.68), (0.42, place - 0.32), arrowprops=arrow)
        return page.save(stem)
