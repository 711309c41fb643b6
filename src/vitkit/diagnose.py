"""Where a value that is not a finite number came from: the weights, the batch, a module's arithmetic, or a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vitkit.config import UserError
from vitkit.data.loader import Batch

__all__ = ["LOWER_RATE", "NotFiniteError", "bad_weight", "explain"]

SHOWN = 5  # images that are named
LOWER_RATE = "lower lr, under optim in its plan.json"


class NotFiniteError(UserError):
    """A step (1 ..) whose loss, gradient or weights are not finite numbers; ``change`` would let a resumed run pass it."""

    def __init__(self, message: str, step: int, change: str) -> None:
        super().__init__(message)
        self.step, self.change = step, change


def _is_finite(value: object) -> bool:
    """Are all numbers of a tensor, or of the tensors in a tuple or list, finite?"""
    if isinstance(value, Tensor):
        part = _own(value)
        return not part.is_floating_point() or bool(part.isfinite().all())
    return all(map(_is_finite, value)) if isinstance(value, (tuple, list)) else True


def explain(
    model: nn.Module, batch: Batch, losses: Iterable[Tensor], *, loss: float, norm: float, step: int, lr: float
) -> NotFiniteError:
    """Say why a step has a loss or a norm of its gradient that is not finite; ``losses`` compute its forward passes again.

    Before the step's update, with its gradients still there.
    """
    what = f"the gradient's norm became {norm}" if math.isfinite(loss) else f"the loss became {loss}"
    inputs, weight = _bad_inputs(batch), bad_weight(model)
    place = _bad_output(model, losses)
    if not place and math.isfinite(loss):
        place = _bad_gradient(model)
    found = (
        f"First not finite: {place}" if place else "Computed again all is finite: chance, or the machine is at fault"
    )
    change = LOWER_RATE if place else ""
    if inputs:
        sound = f"so is the input, {inputs}" + (f", and the weight {weight}" if weight else "; all weights are finite")
        change = "mend or remove what these were read from"
    elif weight:
        sound = f"so is the weight {weight}, from before this step; the batch is finite"
        change = LOWER_RATE if step > 1 else "begin from weights that are finite"
    else:
        sound = "the batch and all weights are finite"
    return NotFiniteError(
        f"{what} at step {step} (learning rate {lr:.2g}). {found}; {sound}. This step updated nothing, and nothing was "
        "released from this run.",
        step,
        change,
    )


def _own(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that ranks share; another one as it is."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def bad_weight(model: nn.Module) -> str:
    """The first parameter or buffer that is not finite; empty: all are."""
    return next((name for name, tensor in model.state_dict().items() if not _is_finite(tensor)), "")


def _bad_inputs(batch: Batch) -> str:
    """Which images or labels of a batch are not finite, in words; empty: all are."""
    for kind, values in (("image", batch.images), ("label", batch.labels)):
        bad = [i for i, value in enumerate(values) if not _is_finite(value)]
        if bad:
            places = "" if batch.places is None else f" (places {_some(batch.places[bad].tolist())} of the run)"
            return f"{kind} {_some(bad)} of the batch{places}"
    return ""


def _some(numbers: list[int]) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ", ".join(map(str, numbers[:SHOWN])) + more


@torch.no_grad()
def _bad_output(model: nn.Module, losses: Iterable[Tensor]) -> str:
    """The first place, in forward order, whose values are not finite, while ``losses`` are computed with the model.

    A module that is given such values by the arithmetic between modules is named by its input. Empty: all is finite.
    """
    found: list[str] = []
    handles: list[RemovableHandle] = []

    def watch(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, inputs: Any) -> None:
            if not found and not _is_finite(inputs):
                found.append(f"the input of {name}")

        def after(_: nn.Module, __: Any, output: Any) -> None:
            if not found and not _is_finite(output):
                found.append(f"the output of {name}")

        handles.extend((module.register_forward_pre_hook(before), module.register_forward_hook(after)))

    for name, module in model.named_modules():
        watch(name or "the model", module)
    try:
        for loss in losses:
            if not found and not _is_finite(loss):
                found.append("the loss itself")
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _bad_gradient(model: nn.Module) -> str:
    """The parameter closest to the loss whose gradient is not finite, or of the largest gradient where only their norm is not."""
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, gradient in reversed(gradients):
        if not _is_finite(gradient):
            return f"the gradient of {name}"
    sizes = [(float(part.abs().max()), name) for name, gradient in gradients if (part := _own(gradient)).numel()]
    largest, name = max(sizes)
    return f"the norm of all gradients; the largest value, {largest:.2g}, is in that of {name}"
