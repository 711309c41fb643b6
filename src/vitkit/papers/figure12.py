"""Figure 12: speed of inference and largest batch by image size, measured on this machine."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vitkit.analysis.draw import drawing, line_style
from vitkit.analysis.flops import forward_macs
from vitkit.config import UserError
from vitkit.console import Console, duration
from vitkit.models.vit import ViTConfig
from vitkit.papers.item import PAPER, Item, Outcome, Request, settled
from vitkit.papers.throughput import Cell, measure
from vitkit.papers.unprinted import UNPRINTED

__all__ = ["ITEM", "planned", "run"]

MODELS = ("B/32", "L/32", "B/16", "L/16", "H/14")  # of the figure, without its ResNets
SIZES = (64, 128, 224, 384, 512)
BUDGET = 600.0  # seconds
ITEM = Item(
    name="figure12",
    title="images a second and largest batch by image size",
    shows="peak inference speed of a TPUv3 core over batch sizes, for images of 64 to 512 pixels, and the largest batch that "
    "fits: Vision Transformers keep up with ResNets and take less memory",
    kind="given",
    most_models=0,
    takes=("models", "sizes", "budget"),
    settings={"precision": "auto", "memory_gib": 0.0, "seconds": 30.0},
    lacking="a TPUv3, and ResNets, which vitkit does not run",
)


def run(request: Request, console: Console) -> Outcome:
    """Every model at every size, the cheapest first, until the budget is used up; what was left out is said.

    Raises:
        UserError: an unknown size or setting.
    """
    import psutil
    import torch

    settings = settled(ITEM, request)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = _precision(settings["precision"], device)
    if not 0 <= settings["memory_gib"] < math.inf or not 0 < settings["seconds"] < math.inf:
        raise UserError(
            f"figure12: memory_gib={settings['memory_gib']}, seconds={settings['seconds']}; expected at least 0 GiB (0: what is "
            "free) and more than 0 seconds."
        )
    memory = settings["memory_gib"] * 2**30
    if not memory:
        memory = float(torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available)
    plan, budget, began = planned(request), request.budget or BUDGET, time.perf_counter()
    rows: list[dict[str, Any]] = []
    speed: list[float] = []  # seconds for each multiply-add, of what was measured
    for name, config in console.track(plan, len(plan), "measuring", "cell"):
        left = budget - (time.perf_counter() - began)
        macs = forward_macs(config)
        weights = 4 * _parameters(config)
        if weights * 1.5 > memory:
            cell = _missing(f"its weights need {weights / 2**30:.1f} GiB and {memory / 2**30:.1f} GiB are there")
        elif (speed and left < 8 * macs * min(speed)) or left <= 0:  # three processes run it at least twice each
            cell = _missing(f"left out: the budget of {duration(budget)} was used up")
        else:
            given = min(left, settings["seconds"])
            cell = measure(config, device=device, precision=precision, memory=memory, seconds=given)
        if cell.images_per_second:
            speed.append(1 / cell.images_per_second / macs)
        row = _row(name, config, macs, cell)
        rows.append(row)
        console.say(f"{row['model']} at {row['image_size']}: {_said(row)}")
    rows.sort(key=lambda row: (list(_names(request)).index(row["model"]), row["image_size"]))
    return _outcome(rows, device, precision, memory, budget)


def _precision(asked: str, device: str) -> str:
    if asked not in ("auto", "fp32", "bf16"):
        raise UserError(f"figure12: precision is {asked!r}; known: auto, fp32, bf16.")
    return ("bf16" if device == "cuda" else "fp32") if asked == "auto" else asked


def _names(request: Request) -> Sequence[str]:
    return request.models or MODELS


def planned(request: Request) -> list[tuple[str, ViTConfig]]:
    """Models and configurations at each size, by arithmetic.

    Raises:
        UserError: a model that is neither a size such as B/16 nor loads, or a size below its patch.
    """
    found = []
    for name in _names(request):
        config = _config(name)
        for size in request.sizes or SIZES:
            if size < max(config.patch_size):
                raise UserError(
                    f"{name} has patches of {config.patch_size[0]} pixels; --sizes {size} has no room for one."
                )
            found.append((name, dataclasses.replace(config, image_size=(size, size))))
    return sorted(found, key=lambda each: forward_macs(each[1]))


def _config(name: str) -> ViTConfig:
    if "/" in name and name.rpartition("/")[2].isdecimal() and not Path(name).exists():
        return ViTConfig.named(name)
    from vitkit.zoo.load import load_model

    return load_model(name).config


def _parameters(config: ViTConfig) -> int:
    import torch

    from vitkit.models.vit import VisionTransformer

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VisionTransformer(config).parameters())


def _missing(note: str) -> Cell:
    return Cell(None, None, None, True, None, None, [], None, note)


def _row(name: str, config: ViTConfig, macs: int, cell: Cell) -> dict[str, Any]:
    return {
        "model": name,
        "image_size": config.image_size[0],
        "gmacs": macs / 1e9,
        "images_per_second": cell.images_per_second,
        "batch_at_peak": cell.batch,
        "largest_batch": cell.largest,
        "largest_batch_is": None if cell.largest is None else "computed" if cell.computed else "run",
        "bytes_without_images": cell.fixed_bytes,
        "bytes_per_image": cell.image_bytes,
        "sweep": cell.sweep,
        "threads": cell.threads,
        "note": cell.note,
        "published": None,
        "source": f"{PAPER}, Figure 12",
    }


def _said(row: dict[str, Any]) -> str:
    if row["images_per_second"] is None:
        return str(row["note"])
    batch = "unknown" if row["largest_batch"] is None else f"{row['largest_batch']:,}"
    return f"{row['images_per_second']:.4g} images/s at batch {row['batch_at_peak']}, largest batch {batch}"


def _outcome(rows: list[dict[str, Any]], device: str, precision: str, memory: float, budget: float) -> Outcome:
    import torch

    machine = torch.cuda.get_device_name(0) if device == "cuda" else platform.processor() or platform.machine()
    threads = next((row["threads"] for row in rows if row["threads"]), None)
    table = [["model", "pixels", "GMACs", "images/s", "at batch", "largest batch", "bytes per image"]]
    for row in rows:
        speed, each = row["images_per_second"], row["bytes_per_image"]
        table.append(
            [row["model"], str(row["image_size"]), f"{row['gmacs']:.2f}", row["note"] if speed is None else f"{speed:.4g}",
             str(row["batch_at_peak"] or ""), "" if row["largest_batch"] is None else f"{row['largest_batch']:,}",
             "" if each is None else f"{each / 2**20:.2f} MiB"]
        )  # fmt: skip
    how = (
        "largest batches are computed: a line through the peak memory of two processes, with 1 image and with more, up to "
        f"{memory / 2**30:.1f} GiB; none of that size was run."
        if device == "cpu"
        else "largest batches were run, and are found within 1/32."
    )
    return Outcome(
        rows,
        table,
        (f"measured on {machine}, {precision}{f', {threads} threads' if device == 'cpu' else ''}, random weights.", how, UNPRINTED),
        label="another machine than the paper's TPUv3",
        setting={"device": device, "machine": machine, "threads": threads, "precision": precision, "memory_bytes": memory,
                 "budget_seconds": budget},
        figures={"figure12": partial(_draw, rows)},
    )  # fmt: skip


def _draw(rows: list[dict[str, Any]], stem: Path) -> tuple[Path, Path]:
    with drawing(7.4, 3.4, 1, 2) as page:
        for axes, key, label in zip(
            page.axes.flat,
            ("images_per_second", "largest_batch"),
            ("images a second (peak)", "largest batch"),
            strict=True,
        ):
            for index, name in enumerate(dict.fromkeys(row["model"] for row in rows)):
                points = [(row["image_size"], row[key]) for row in rows if row["model"] == name and row[key]]
                if points:
                    axes.plot([x for x, _ in points], [y for _, y in points], label=Path(name).stem if "." in name else name,
                              **line_style(index))  # fmt: skip
            sizes = sorted({row["image_size"] for row in rows})
            axes.set(xscale="log", yscale="log", xlabel="image size (pixels)", ylabel=label)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xticks([], minor=True)
        if page.axes.flat[0].get_legend_handles_labels()[0]:
            page.axes.flat[0].legend(loc="lower left")
        return page.save(stem)
