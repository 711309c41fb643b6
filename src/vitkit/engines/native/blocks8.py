"""A transformer block with 8-bit products in C, compiled on the machine that runs it: `block8.c` by the rules of `native`."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.engines.native.blocks import AFTER, native_missing, panels
from vitkit.engines.native.compiler import compiled
from vitkit.engines.packed.private_int8 import LEVELS, Steps
from vitkit.models.vit import ViTConfig

__all__ = ["Layer", "NativeBlock8", "Parts", "native8_missing"]

SOURCE = Path(__file__).with_name("block8.c")
NEEDS = ("avx512_f", "avx512_bw", "avx512_vnni", "avx512_bf16")


class Layer(NamedTuple):
    """A linear layer: in 8 bits, or in bfloat16 where ``scales`` and ``steps`` are None."""

    weight: Tensor  # (O, I), int8 or float32
    scales: Tensor | None  # (O,), of the weights
    bias: Tensor  # (O,)
    steps: Steps | None  # of the rows


class Parts(NamedTuple):
    """What a block is made of, queries scaled."""

    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    layers: dict[str, Layer]  # qkv, proj, fc1, fc2
    heads: int
    hidden: int
    after: str  # one of `vitkit.engines.native.blocks.AFTER`


class _Layer(ctypes.Structure):
    """`Layer` of block8.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scales", "bias")),
        ("scale", ctypes.c_double),
        ("zero", ctypes.c_int64),
    )


class _Block8(ctypes.Structure):
    """`Block8` of block8.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")),
        *((name, _Layer) for name in ("qkv", "proj", "fc1", "fc2")),
        *((name, ctypes.c_int64) for name in ("width", "heads", "hidden", "after")),
        *((f"norm{number}_eps", ctypes.c_double) for number in (1, 2)),
    )


class NativeBlock8:
    """`vitkit.engines.packed.quantised.QuantisedBlock`, the first ``rows`` tokens of each image."""

    def __init__(self, parts: Parts, rows: int) -> None:
        self.rows = rows
        self.block, self.space = _functions()
        self.kept: list[Tensor] = []  # what pointers point to
        facts: dict[str, Any] = {name: self._layer(layer) for name, layer in parts.layers.items()}
        for number, norm in ((1, parts.norm1), (2, parts.norm2)):
            facts[f"norm{number}_weight"] = self._at(norm.weight.detach().float())
            facts[f"norm{number}_bias"] = self._at(norm.bias.detach().float())
            facts[f"norm{number}_eps"] = norm.eps
        width = parts.norm1.weight.numel()
        self.facts = _Block8(
            **facts, width=width, heads=parts.heads, hidden=parts.hidden, after=AFTER.index(parts.after)
        )
        self.pointer = ctypes.byref(self.facts)

    def _at(self, tensor: Tensor) -> int:
        self.kept.append(tensor.contiguous())
        return self.kept[-1].data_ptr()

    def _layer(self, layer: Layer) -> _Layer:
        if layer.scales is None or layer.steps is None:
            return _Layer(self._at(panels(layer.weight, torch.bfloat16)), None, self._at(layer.bias.float()), 1.0, 0)
        scales = layer.scales.double() * layer.steps.scale
        bias = layer.bias.double() - scales * layer.steps.zero * layer.weight.long().sum(dim=1)
        weight = self._at(panels(layer.weight, torch.int8))
        return _Layer(weight, self._at(scales.float()), self._at(bias.float()), *layer.steps)

    def __call__(self, x: Tensor) -> Tensor:
        """Float32 tokens (B, N, D), contiguous, to (B, rows, D); into ``x`` itself where all come out."""
        B, N, _ = x.shape
        rows = min(self.rows, N)
        y = x if rows == N else x[:, :rows].contiguous()
        threads = torch.get_num_threads()
        space = torch.empty(self.space(self.pointer, B, N, rows, threads), dtype=torch.uint8)
        self.block(self.pointer, x.data_ptr(), y.data_ptr(), B, N, rows, threads, space.data_ptr())
        return y


def native8_missing(config: ViTConfig) -> str:
    """Why 8-bit blocks of this shape are computed by PyTorch's operators here; empty where compiled ones are there and agree."""
    return native_missing(config, torch.bfloat16) or _missing()


@functools.cache
def _missing() -> str:
    if os.environ.get("VITKIT_NATIVE") == "0":
        return "VITKIT_NATIVE=0"
    able = torch.cpu.get_capabilities()
    if lacking := [name for name in NEEDS if not able.get(name)]:
        return f"this processor has no {', '.join(lacking)} instructions"
    try:
        _functions()
    except (OSError, AttributeError, subprocess.SubprocessError, RuntimeError) as error:
        return f"no compiled blocks: {(str(error).strip() or type(error).__name__).splitlines()[-1]:.200}"
    return "" if _agrees() else "compiled 8-bit blocks do not agree with PyTorch's"


@functools.cache
def _functions() -> tuple[Any, Any]:
    """``block_s8`` and ``space_s8`` of block8.c.

    Raises:
        OSError, SubprocessError, RuntimeError, AttributeError: there is no compiler, or it fails, or what it makes is not right.
    """
    library, many, at = compiled(SOURCE), ctypes.c_int64, ctypes.c_void_p
    block, space = library.block_s8, library.space_s8
    block.argtypes = [at, at, at, many, many, many, ctypes.c_int, at]
    space.argtypes = [at, many, many, many, ctypes.c_int]
    block.restype, space.restype = None, many
    return block, space


@torch.inference_mode()
def _agrees() -> bool:
    """With the same arithmetic in float64, on widths that fill no panel and tokens that fill no register, with each activation."""
    draw = torch.Generator().manual_seed(0)
    for after, kept in (("gelu_erf", ""), ("gelu_tanh", "fc2"), ("gelu_quick", "qkv"), ("gated", "proj")):
        D, M = 80, 112
        sizes = {"qkv": (3 * D, D), "proj": (D, D), "fc1": (M * (1 + (after == "gated")), D), "fc2": (D, M)}
        layers = {}
        for name, (O, I) in sizes.items():
            bias = torch.randn(O, generator=draw) * 0.1
            if name == kept:
                layers[name] = Layer(torch.randn(O, I, generator=draw) * 0.1, None, bias, None)
            else:
                whole = torch.randint(-127, 128, (O, I), generator=draw, dtype=torch.int8)
                whole[0] = 127
                layers[name] = Layer(whole, torch.rand(O, generator=draw) * 2e-3, bias, Steps(0.025, 100))
        norms = [nn.LayerNorm(D) for _ in range(2)]
        parts = Parts(norms[0], norms[1], layers, 5, M, after)
        x = torch.randn(2, 21, D, generator=draw)
        expected = _expected(parts, x.double())
        for rows in (21, 2):
            off = (NativeBlock8(parts, rows)(x.clone()).double() - expected[:, :rows]).abs()
            if not (float(off.max()) < 0.15 and float(off.square().mean().sqrt()) < 0.02):
                return False
    return True


def _expected(parts: Parts, x: Tensor) -> Tensor:
    def linear(name: str, y: Tensor) -> Tensor:
        layer = parts.layers[name]
        if layer.scales is None or layer.steps is None:
            return F.linear(y, layer.weight.double(), layer.bias.double())
        scale, zero = layer.steps
        y = ((y / scale).round() + zero).clamp(0, LEVELS).sub(zero) * scale
        return F.linear(y, layer.weight.double() * layer.scales[:, None].double(), layer.bias.double())

    D = x.shape[-1]
    q, k, v = linear("qkv", F.layer_norm(x, (D,))).view(*x.shape[:2], 3, parts.heads, -1).permute(2, 0, 3, 1, 4)
    x = x + linear("proj", F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2))
    y = linear("fc1", F.layer_norm(x, (D,)))
    if parts.after == "gated":
        gate, y = y.chunk(2, dim=-1)
        y = F.silu(gate) * y
    elif parts.after == "gelu_quick":
        y = y * torch.sigmoid(1.702 * y)
    else:
        y = F.gelu(y, approximate="tanh" if parts.after == "gelu_tanh" else "none")
    return x + linear("fc2", y)
