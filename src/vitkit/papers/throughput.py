"""Speed and memory of a model at one image size, in processes of their own: the measurement behind figure 12."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from typing import Any, NamedTuple

from vitkit.models.vit import ViTConfig

__all__ = ["Cell", "activation_bytes", "largest_batch", "measure", "second_batch"]

APART = 96 * 2**20  # bytes that the two batches whose memory is compared should differ by: small differences drown
MOST_ON_CPU, MOST_ON_GPU = 256, 2**16  # batch sizes
TIMED = 1.5  # seconds for a batch size


class Cell(NamedTuple):
    """One model at one image size."""

    images_per_second: float | None  # the peak over batch sizes; None: not measured
    batch: int | None  # at the peak
    largest: int | None  # batch; None: not known
    computed: bool  # the largest batch is computed from memory and was not run
    fixed_bytes: float | None  # memory without images
    image_bytes: float | None  # that each further image of a batch takes
    sweep: list[dict[str, float]]  # batch, images_per_second
    threads: int | None
    note: str  # why something is missing


def measure(config: ViTConfig, *, device: str, precision: str, memory: float, seconds: float) -> Cell:
    """Time batch sizes until speed stops rising, and find how many images fit in ``memory`` bytes.

    On a CPU the peak memory of two processes, one with a batch of 1 and one with `second_batch`, gives a line from which the
    largest batch is computed; no batch that would need more than half of the memory is run. On a GPU batches grow until one does
    not fit.

    Args:
        seconds: time that it should take at most; a forward under way is waited for, four times as long.
    """
    task: dict[str, Any] = {
        "config": dataclasses.asdict(config), "device": device, "precision": precision, "seconds": TIMED,
        "until": time.time() + seconds, "base": 0, "limit": memory / 2,
    }  # fmt: skip
    if device == "cuda":
        lines, note = _probe({**task, "batches": _powers(1, MOST_ON_GPU)}, seconds)
        found = next((line["largest"] for line in lines if "largest" in line), None)
        return _cell([line for line in lines if "batch" in line], found, False, None, note)
    alone, note = _probe({**task, "batches": [1]}, seconds)
    if not alone:
        return _cell([], None, True, None, note)
    second = second_batch(config)
    base = alone[0]["memory"]
    batches = [second, *(batch for batch in _powers(2, MOST_ON_CPU) if batch != second)]
    more, note = _probe({**task, "batches": batches, "base": base or 0}, seconds)
    line = None if not more or base is None else ((1, base), (second, more[0]["memory"]))
    fitted = None if line is None else largest_batch(*line, memory)
    if fitted is None:
        return _cell(
            [*alone, *more], None, True, None, note or "its memory did not grow with the batch, or is not told here"
        )
    return _cell([*alone, *more], fitted[0], True, fitted[1:], note)


def _cell(
    lines: list[dict[str, Any]], largest: int | None, computed: bool, fit: tuple[float, float] | None, note: str
) -> Cell:
    sweep = sorted(
        ({"batch": line["batch"], "images_per_second": line["batch"] / line["seconds"]} for line in lines),
        key=lambda point: point["batch"],
    )
    best = max(sweep, key=lambda point: point["images_per_second"], default=None)
    fixed, each = fit or (None, None)
    return Cell(
        None if best is None else best["images_per_second"],
        None if best is None else int(best["batch"]),
        largest,
        computed,
        fixed,
        each,
        sweep,
        lines[0]["threads"] if lines else None,
        note,
    )


def _powers(first: int, most: int) -> list[int]:
    return [2**n for n in range(round(math.log2(first)), round(math.log2(most)) + 1)]


def activation_bytes(config: ViTConfig) -> int:
    """About what an image takes in a forward in float32 with fused attention: a block's widest tensors, and the image."""
    tokens = config.prefix_tokens + config.grid[0] * config.grid[1]
    return 4 * (tokens * (6 * config.embed_dim + 2 * config.mlp_dim) + 3 * config.image_size[0] * config.image_size[1])


def second_batch(config: ViTConfig) -> int:
    """The batch whose memory is compared with that of 1: so large that the difference can be told, a power of 2, at least 2."""
    return min(MOST_ON_CPU, 2 ** max(1, math.ceil(math.log2(1 + APART / activation_bytes(config)))))


def largest_batch(one: tuple[int, float], other: tuple[int, float], memory: float) -> tuple[int, float, float] | None:
    """(images that fit in ``memory`` bytes, bytes without images, bytes of each), by the line through two (batch, peak bytes).

    None where the second peak is not above the first, so that there is no line.
    """
    each = (other[1] - one[1]) / (other[0] - one[0])
    if each <= 0:
        return None
    fixed = one[1] - each * one[0]
    return max(0, math.floor((memory - fixed) / each)), fixed, each


def _probe(task: dict[str, Any], seconds: float) -> tuple[list[dict[str, Any]], str]:
    """Lines of a probe, and why there are not more where it ended badly."""
    command = [sys.executable, "-m", "vitkit.papers.probe", json.dumps(task)]
    note = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 4 * seconds)
        out = done.stdout
        if done.returncode:
            note = f"the measuring process ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:] or ''}"
    except subprocess.TimeoutExpired as error:
        out = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        note = f"stopped after {60 + 4 * seconds:.0f} s"
    return [json.loads(line.removeprefix("PROBE ")) for line in out.splitlines() if line.startswith("PROBE ")], note
