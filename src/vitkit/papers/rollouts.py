"""Figures 6 and 14: images beside the same images multiplied by attention rollout."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from vitkit.analysis.draw import drawing
from vitkit.analysis.rollout import rollout
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.papers.item import PAPER, Item, Outcome, Request
from vitkit.papers.opened import chosen, describe, open_models, picture, views

__all__ = ["lit", "rollout_examples"]

MOST = 1024  # pictures that a figure can hold: all are in memory when it is drawn
TOP = 0.1  # part of the patches whose share of the rollout is told

Pixels = npt.NDArray[np.uint8]


def rollout_examples(item: Item, request: Request, console: Console, most: int, columns: int) -> Outcome:
    """Rollout of at most ``most`` images, ``columns`` pairs in a row of the picture.

    Raises:
        UserError: more images than a figure can hold; as `open_models`, `views` and `rollout`.
    """
    if (request.max_images or 0) > MOST:
        raise UserError(f"--max-images {request.max_images} are more than the {MOST} that a figure can hold.")
    ((name, bundle),) = open_models(request, console)
    residual = request.residual or "half"
    images = chosen(request, most)
    rows: list[dict[str, Any]] = []
    shown: list[tuple[Pixels, Pixels]] = []
    for view in console.track(
        views(bundle, images, request, console, item.name), -(-len(images) // 8), item.name, "batch"
    ):
        maps = rollout(bundle.model, view.images, residual)
        for path, image, found in zip(view.names, view.images, maps, strict=True):
            rows.append({"image": path, **_facts(found), "source": f"{PAPER}, {item.name}"})
            seen = picture(bundle, image)
            shown.append((seen, lit(seen, found)))
    table = [["image", "most seen patch (row, column from 0)", f"share of the top {100 * TOP:.0f} % of patches"]]
    table += [[r["image"], f"{r['peak'][0]}, {r['peak'][1]}", f"{100 * r['top_share']:.0f} %"] for r in rows]
    share = float(np.mean([row["top_share"] for row in rows]))
    notes = (
        f"rollout over {bundle.config.depth} layers, heads averaged, "
        + (
            "half of each layer is the residual path."
            if residual == "half"
            else "attention alone (the text's wording)."
        )
        + f" On average {100 * TOP:.0f} % of the patches hold {100 * share:.0f} % of it, where an even map gives them "
        f"{100 * TOP:.0f} %.",
        "the paper publishes pictures and no numbers; its model, L/16 pre-trained on JFT-300M, was never published.",
    )
    return Outcome(
        rows,
        table,
        notes,
        setting={"model": describe(name, bundle), "residual": residual, "images": len(rows)},
        figures={item.name: partial(_draw, shown, columns)},
    )


def _facts(found: Tensor) -> dict[str, Any]:
    """A map (h, w) as JSON values: it, where its peak is, and how much its top patches hold."""
    h, w = found.shape
    flat = found.flatten() / found.sum()
    peak = int(flat.argmax())
    most = max(1, round(TOP * h * w))
    return {
        "peak": [peak // w, peak % w],
        "top_share": float(flat.sort(descending=True).values[:most].sum()),
        "map": [[round(float(value), 6) for value in row] for row in flat.reshape(h, w)],
    }


def lit(seen: Pixels, found: Tensor) -> Pixels:
    """A picture (H, W, 3) multiplied by its map (h, w), which is divided by its greatest value and enlarged bilinearly."""
    scaled = (found / found.max().clamp_min(1e-12))[None, None]
    light = F.interpolate(scaled, seen.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    multiplied: Pixels = np.rint(seen * light[:, :, None]).astype(np.uint8)
    return multiplied


def _draw(shown: list[tuple[Pixels, Pixels]], columns: int, stem: Path) -> tuple[Path, Path]:
    """Pairs of input and lit input, ``columns`` pairs in a row."""
    columns = min(columns, math.ceil(math.sqrt(len(shown))))
    lines = -(-len(shown) // columns)
    height, width = shown[0][0].shape[:2]
    size = min(1.4, 14 / (2 * columns))  # inches of one picture
    step = max(1, round(width / (160 * size)))  # pixels that the file could not show are left out
    with drawing(2 * columns * size, lines * size * height / width, lines, 2 * columns) as page:
        for axes in page.axes.flat:
            axes.set_axis_off()
        for place, pair in enumerate(shown):
            for side, pixels in enumerate(pair):
                axes = page.axes[place // columns, 2 * (place % columns) + side]
                axes.imshow(pixels[::step, ::step])
                if place < columns:
                    axes.set_title(("input", "attention")[side], fontsize=8)
        return page.save(stem)
