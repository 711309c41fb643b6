"""A process of its own that times a model's forward and tells its memory, for figure 12: JSON in its argument, JSON lines out.

    python -m vitkit.papers.probe '{"config": {...}, "batches": [1, 8], "seconds": 2, ...}'

Each line is of one batch size: seconds a forward takes (the median) and the peak of the process's memory so far, in bytes. Speed
depends on no value, so that the weights are all the same number.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.models.vit import VisionTransformer, ViTConfig

__all__ = ["largest", "main", "measured", "peak_memory", "stopped_rising"]

STEPS = 5  # halvings when the largest batch is looked for: it is found within 1/32
RISE = 1.03  # larger batches that are no more than so much faster are not followed further


def main(arguments: list[str]) -> None:
    """Print a line for each batch size."""
    for line in measured(json.loads(arguments[0])):
        print("PROBE " + json.dumps(line), flush=True)


def measured(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Time the model of ``task`` at its batch sizes, in their order.

    Keys of ``task``: config (fields of `ViTConfig`), batches, seconds (of each batch size, at least one forward), until (the
    time of day in seconds after which no other batch size is begun), device, precision, and on a CPU ``base`` (peak memory with
    a batch of 1, 0 if unknown) and ``limit`` (bytes: a batch size that would need more is left out). Batches after the first
    must rise, and end where speed stops rising; on a GPU also with the first that does not fit, and the last line has the
    largest that does.
    """
    device = torch.device(task["device"])
    model, images = _model(task, device), _images(task, device)
    first: tuple[int, int] | None = None
    speeds: list[float] = []  # of batch sizes after the first, which rise
    for batch in task["batches"]:
        late = time.time() > task["until"]
        if first and (late or stopped_rising(speeds) or _too_large(task, first, batch)):
            break
        try:
            seconds = _seconds(model, images(batch), task["seconds"], task["precision"])
        except torch.cuda.OutOfMemoryError:
            break
        memory = peak_memory(device)
        if first:
            speeds.append(batch / seconds)
        first = first or (batch, memory or 0)
        yield {"batch": batch, "seconds": seconds, "memory": memory, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        yield {"largest": largest(lambda batch: _fits(model, images, batch, task["precision"]), task["batches"][-1])}


def _model(task: Mapping[str, Any], device: torch.device) -> VisionTransformer:
    config: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in task["config"].items()
    }
    with torch.device("meta"):
        model = VisionTransformer(ViTConfig(**config))
    model = model.to_empty(device=device).eval().requires_grad_(False)
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        tensor.fill_(0.02)
    for module in model.modules():  # indices of relative positions may not be anything
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_floating_point():
                getattr(module, name).zero_()
    return model


def _images(task: Mapping[str, Any], device: torch.device) -> Callable[[int], Tensor]:
    config = task["config"]
    return lambda batch: torch.full((batch, config["in_channels"], *config["image_size"]), 0.5, device=device)


@torch.inference_mode()
def _seconds(model: nn.Module, images: Tensor, seconds: float, precision: str) -> float:
    """Median of forwards over ``seconds``, after one that is not counted."""
    times: list[float] = []
    began = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        while len(times) < 2 or (time.perf_counter() - began < seconds and len(times) < 50):
            start = time.perf_counter()
            model(images)
            if images.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _too_large(task: Mapping[str, Any], first: tuple[int, int], batch: int) -> bool:
    """Would this batch need more memory than it may, by the line through a batch of 1 and the first one here?"""
    if not task["limit"] or not task["base"] or first[0] == 1:
        return False
    each = max(0.0, (first[1] - task["base"]) / (first[0] - 1))
    return bool(task["base"] + each * (batch - 1) > task["limit"])


def stopped_rising(speeds: list[float]) -> bool:
    """Were the last two batch sizes no faster than what came before, by `RISE`?"""
    return len(speeds) > 2 and max(speeds[-2:]) < RISE * max(speeds[:-2])


def _fits(model: nn.Module, images: Callable[[int], Tensor], batch: int, precision: str) -> bool:
    try:
        _seconds(model, images(batch), 0, precision)
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest batch that fits, by doubling and then `STEPS` halvings; ``most`` if all up to it do, 0 if not even 1."""
    if not fits(1):
        return 0
    good = 1
    while good < most and fits(min(2 * good, most)):
        good = min(2 * good, most)
    bad = min(2 * good, most + 1)
    for _ in range(STEPS if good < most else 0):
        if bad - good <= 1:
            break
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process had in memory so far; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
