"""Products of unsigned 8-bit rows and signed 8-bit weights through oneDNN.

The one user of PyTorch's private quantised operators. They are probed once, on values that a processor which sums pairs in 16 bits
gets wrong; what is missing is said by `missing`.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Packed", "Steps", "added_product", "missing", "pack", "product", "to_steps"]

LEVELS = 255  # the highest of 256 steps


class Steps(NamedTuple):
    """How a real value is told in 8 bits: ``value = scale * (step - zero)``, steps 0 .. 255."""

    scale: float
    zero: int


class Packed(NamedTuple):
    """A linear layer for rows in steps of one kind."""

    steps: Steps  # of the rows
    weight: Tensor  # (K, O), int8 in oneDNN's own layout
    scales: Tensor  # (O,), float32: a weight is its integer times the scale of its output
    zeros: Tensor  # (O,), all 0
    bias: Tensor  # (O,), float32


def pack(weight: Tensor, scales: Tensor, bias: Tensor, steps: Steps, rows: int) -> Packed:
    """Lay out int8 ``weight`` (O, K) for inputs of about ``rows`` rows in ``steps``."""
    made = torch.ops.onednn.qlinear_prepack(weight.contiguous(), [rows, weight.shape[1]])
    return Packed(steps, made, scales, torch.zeros(len(scales), dtype=torch.int32), bias)


def to_steps(x: Tensor, steps: Steps) -> Tensor:
    """Float32 ``x`` to the nearest steps, uint8 of the same shape."""
    if _steps_missing():
        return (x / steps.scale).round_().add_(steps.zero).clamp_(0, LEVELS).to(torch.uint8)
    return _quantised(x, steps)


def _quantised(x: Tensor, steps: Steps) -> Tensor:
    found = torch.quantize_per_tensor(x, steps.scale, steps.zero, torch.quint8)
    return torch.empty(0, dtype=torch.uint8).set_(found.untyped_storage(), 0, found.shape, found.stride())


@functools.cache
def _steps_missing() -> bool:
    """Is the operator that rounds in one pass gone, or wrong? It is announced to go, and says so once."""
    values = torch.tensor([[-9.0, -0.303, 0.0], [0.011, 0.3, 99.0]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _quantised(values, Steps(0.02, 119))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return True
    return found.dtype != torch.uint8 or found.tolist() != [[0, 104, 119], [120, 134, 255]]


def product(
    x: Tensor, layer: Packed, dtype: torch.dtype, *, out: Steps | None = None, gelu: str | None = None
) -> Tensor:
    """The layer's output (..., O) of ``x`` (..., K), uint8: float32 or bfloat16 as ``dtype`` says, or uint8 in steps ``out``.

    ``gelu``: ``tanh`` or ``none`` (exact), applied before rounding; None: no activation.
    """
    scale, zero = (1.0, 0) if out is None else out
    kind, algorithm = ("none", "") if gelu is None else ("gelu", gelu)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, layer.steps.scale, layer.steps.zero, layer.weight, layer.scales, layer.zeros, layer.bias,
        scale, zero, dtype if out is None else torch.uint8, kind, [], algorithm,
    )  # fmt: skip
    return result


def added_product(x: Tensor, layer: Packed, into: Tensor) -> Tensor:
    """Add the layer's output of ``x`` (..., K), uint8, to ``into`` (..., O), contiguous float32, in place."""
    torch.ops.onednn.qlinear_pointwise.binary(
        x, layer.steps.scale, layer.steps.zero, layer.weight, layer.scales, layer.zeros, into, layer.bias,
        1.0, 0, into.dtype, 1.0, 0, "sum", 1.0, "none", [], "",
    )  # fmt: skip
    return into


@functools.cache
def missing() -> str:
    """Why 8-bit products cannot be computed here; empty where they can. Compared with exact sums of whole numbers."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this PyTorch is built without oneDNN"
    try:
        wrong = _probe()
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        return f"this PyTorch ({torch.__version__}) lacks the 8-bit operators: {str(error).splitlines()[0]:.120}"
    return f"{wrong} of PyTorch {torch.__version__} on this processor is not exact" if wrong else ""


def _probe() -> str:
    draw: Any = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (48, 64), generator=draw, dtype=torch.int8)
    weight[0], weight[1] = 127, -127  # sums of pairs that do not fit 16 bits
    x = torch.randint(0, 256, (5, 64), generator=draw, dtype=torch.uint8)
    x[0] = LEVELS
    scales, bias = torch.rand(48, generator=draw) / 512, torch.randn(48, generator=draw)
    layer = pack(weight, scales, bias, Steps(0.02, 119), 5)
    exact = ((x.double() - 119) * 0.02) @ (weight.double() * scales[:, None].double()).T + bias
    if not torch.allclose(product(x, layer, torch.float32).double(), exact, atol=1e-4):
        return "an 8-bit product"
    into = torch.randn(5, 48, generator=draw)
    if not torch.allclose(added_product(x, layer, into.clone()).double(), exact + into, atol=1e-4):
        return "an added 8-bit product"
    for kind in ("none", "tanh"):
        wanted = (F.gelu(exact, approximate=kind) / 0.03).round() + 7
        found = product(x, layer, torch.float32, out=Steps(0.03, 7), gelu=kind)
        if (found.double() - wanted.clamp(0, LEVELS)).abs().max() > 1:
            return "an 8-bit product with a GELU"
    return ""
