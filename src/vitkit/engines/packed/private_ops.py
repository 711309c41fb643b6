"""The private operators of PyTorch that inference uses, and no other module: matrix products through oneDNN, weights packed once.

PyTorch's public `F.linear` in float32 goes through a library that is slow on some processors, and packs bf16 weights anew at every
call. Each use is tried on a small case first and compared with the public operators; where it is not there, or says something
else, the public ones compute and `products_missing` says why.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Product", "bf16_missing", "products_missing"]

# What follows a product -> the operator's name of it, and of its variant
AFTER: dict[str, tuple[str, str | None]] = {
    "none": ("none", None),
    "gelu_erf": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", None),
}
AGREE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}  # largest difference from the public operators, numbers of order 1


class Product:
    """x (..., I) to x W^T + b (..., O), in one operator with what follows it: an activation, or plus or times another tensor.

    ``weight`` is (O, I), ``bias`` (O,) or None, both of any type: they are kept in ``dtype``. ``rows`` is how many rows a call
    has: for which number weights are laid out; others are computed too, some slower.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, rows: int) -> None:
        self.dtype = dtype
        self.packed = not products_missing(dtype)
        kept = weight.detach().to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self.weight = _pack(kept, rows) if self.packed else kept

    def __call__(self, x: Tensor, after: str = "none") -> Tensor:
        """``after``: none | gelu_erf | gelu_tanh | silu."""
        if self.packed:
            name, variant = AFTER[after]
            return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, name, [], variant)
        return _public(x, self.weight, self.bias, after)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product and ``other`` (..., O), added before rounding."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
        return F.linear(x, self.weight, self.bias) + other

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product times ``other`` (..., O), element by element."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "mul")
        return F.linear(x, self.weight, self.bias) * other


def _pack(weight: Tensor, rows: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def _public(x: Tensor, weight: Tensor, bias: Tensor | None, after: str) -> Tensor:
    y = F.linear(x, weight, bias)
    if after == "silu":
        return F.silu(y)
    return y if after == "none" else F.gelu(y, approximate="tanh" if after == "gelu_tanh" else "none")


@functools.cache
def products_missing(dtype: torch.dtype) -> str:
    """Why products in ``dtype`` are computed by the public operators here; empty where packed ones are there and agree."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this PyTorch is built without oneDNN"
    rng = torch.Generator().manual_seed(0)
    x, weight, bias, other = (
        torch.randn(shape, generator=rng).to(dtype) for shape in ((2, 19, 40), (72, 40), (72,), (2, 19, 72))
    )
    weight = weight / 40**0.5
    X, W, b, Y = (tensor.double() for tensor in (x, weight, bias, other))
    try:
        packed = _pack(weight, 38)
        call: Any = torch.ops.mkldnn._linear_pointwise
        for after, (name, variant) in AFTER.items():
            expected = _public(X, W, b, after)
            found = call.default(x, packed, bias, name, [], variant)
            if not _agree(found, expected, dtype):
                return f"oneDNN's packed products followed by {after} do not agree with PyTorch's own"
        for name, expected in (
            ("add", F.linear(X, W, b) + Y),
            ("mul", F.linear(X, W, b) * Y),
        ):
            if not _agree(call.binary(x, other, packed, bias, name), expected, dtype):
                return f"oneDNN's packed products ({name}) do not agree with PyTorch's own"
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        return f"PyTorch {torch.__version__} has no packed oneDNN products ({str(error).splitlines()[0]:.120})"
    return ""


def _agree(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    if found.dtype != dtype or found.shape != expected.shape:
        return False
    return bool(((found.double() - expected).abs() <= AGREE[dtype] * (1 + expected.abs())).all())


@functools.cache
def bf16_missing() -> str:
    """Why this processor does not compute in bf16; empty where it does."""
    try:
        there = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError) as error:
        return (
            f"PyTorch {torch.__version__} does not say whether the processor does ({str(error).splitlines()[0]:.120})"
        )
    return "" if there else "this processor has neither AVX-512 nor AMX instructions"
