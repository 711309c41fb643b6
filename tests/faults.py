"""Faults put into training, and what stands in for a run's log, for the tests of what survives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.checkpoint import TrainState
from vitkit.data.loader import Batch
from vitkit.diagnose import NotFiniteError
from vitkit.train import StepReport

__all__ = ["Told", "in_backward", "out_of_memory"]


class Told:
    """The loop's `Hooks`: keeps what it is told."""

    def __init__(self, before_step: Callable[[int], None] = lambda step: None) -> None:
        """``before_step`` is called with the number (1 ..) of each step but the first, before it."""
        self.losses: list[float] = []
        self.notes: list[str] = []
        self.saved: list[int] = []
        self.faults: list[tuple[NotFiniteError, Batch]] = []
        self.before_step = before_step

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.loss)
        self.before_step(report.step + 1)

    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        return float(step), float(step)

    def on_checkpoint(self, state: TrainState) -> None:
        self.saved.append(state.step)

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_not_finite(self, fault: NotFiniteError, batch: Batch) -> str:
        self.faults.append((fault, batch))
        return "Kept."

    def stop_requested(self) -> bool:
        return False


def out_of_memory(_: Any) -> None:
    """What CUDA's allocator raises."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def in_backward(module: nn.Module, most: int, fault: Callable[[Any], None] = out_of_memory) -> Any:
    """Let the backward pass through a module fail for batches of more than ``most`` images; ``.remove()`` ends it."""

    def watch(_: nn.Module, __: Any, output: Tensor) -> None:
        if output.requires_grad and len(output) > most:
            output.register_hook(fault)

    return module.register_forward_hook(watch)
