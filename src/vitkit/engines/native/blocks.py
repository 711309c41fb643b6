"""A transformer block in C, compiled on the machine that runs it: an extra for processors with AVX-512 where a compiler is found.

PyTorch's operators compute the same without it, slower. `block.c` is compiled once for each processor and compiler and kept in
vitkit's cache folder; before it is used it is compared with PyTorch. ``VITKIT_NATIVE=0`` does without.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from typing import Any

import torch
from torch import Tensor

from vitkit.engines.native.compiler import SOURCE, compiled
from vitkit.models.vit import Block, ViTConfig

__all__ = ["NativeBlock", "NativeProduct", "native_missing"]

KINDS = {torch.float32: "f32", torch.bfloat16: "bf16"}
NEEDS = {torch.float32: ("avx512_f",), torch.bfloat16: ("avx512_f", "avx512_bw", "avx512_bf16")}
AGREE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
AFTER = ("none", "gelu_erf", "gelu_tanh", "gelu_quick", "gated")  # in the order of block.c
STEP = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}  # inputs that a product takes at once
LANES, PANEL = 16, 64  # numbers in a register, outputs in a panel of weights


class _Block(ctypes.Structure):
    """`Block` of block.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")),
        *((name, ctypes.c_void_p) for name in ("qkv", "proj", "fc1", "fc2")),
        *((f"{name}_bias", ctypes.c_void_p) for name in ("qkv", "proj", "fc1", "fc2")),
        *((name, ctypes.c_int64) for name in ("width", "heads", "hidden", "after")),
        *((f"norm{number}_eps", ctypes.c_double) for number in (1, 2)),
    )


def native_missing(config: ViTConfig, dtype: torch.dtype) -> str:
    """Why blocks of this shape are computed by PyTorch's operators here; empty where compiled ones are there and agree."""
    if config.position == "relative":
        return "relative positions"
    if config.in_channels * config.patch_size[0] * config.patch_size[1] % 2:
        return "patches of an odd number of values"
    for name, wide in (
        ("embed_dim", config.embed_dim),
        ("mlp_dim", config.mlp_dim),
        ("the width of heads", config.embed_dim // config.num_heads),
    ):
        if wide % LANES:
            return f"{name} is {wide}, not a multiple of {LANES}"
    return _missing(dtype)


@functools.cache
def _missing(dtype: torch.dtype) -> str:
    if os.environ.get("VITKIT_NATIVE") == "0":
        return "VITKIT_NATIVE=0"
    able = torch.cpu.get_capabilities()
    if lacking := [name for name in NEEDS[dtype] if not able.get(name)]:
        return f"this processor has no {', '.join(lacking)} instructions"
    try:
        _functions(dtype)
    except (OSError, AttributeError, subprocess.SubprocessError, RuntimeError) as error:
        return f"no compiled blocks: {(str(error).strip() or type(error).__name__).splitlines()[-1]:.200}"
    return "" if _agrees(dtype) else "compiled blocks do not agree with PyTorch's"


@torch.inference_mode()
def _agrees(dtype: torch.dtype) -> bool:
    """On tokens that fill no register and no block, widths that fill no panel, every activation, and a part of the tokens."""
    for gelu, mlp, wide in (("erf", "gelu", 64), ("tanh", "gelu", 80), ("quick", "gelu", 64), ("erf", "swiglu", 96)):
        config = ViTConfig(embed_dim=wide, num_heads=wide // 32 if wide != 80 else 5, mlp_dim=112, gelu=gelu, mlp=mlp)
        block = Block(config, 0.0).eval()
        rng = torch.Generator().manual_seed(0)
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)
        block.double()
        x = torch.randn(2, 75, wide, generator=rng)
        expected = block(x.double())
        for rows in (75, 2):
            found = NativeBlock(block, dtype, rows)(x.clone())
            off = (found.double() - expected[:, :rows]).abs()
            if not bool((off <= AGREE[dtype] * (1 + expected.abs().max())).all()):
                return False
    return True


def panels(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (O, I) as block.c reads them: 64 outputs after one another, (I, 64), bf16 (I / 2, 64, 2), int8 (I / 4, 64, 4)."""
    O, I = weight.shape
    whole, step = O - O % PANEL, STEP[dtype]
    turned = []
    for part, wide in ((weight[:whole], PANEL), (weight[whole:], max(O - whole, 1))):
        panel = part.detach().to(dtype).reshape(len(part) // wide, wide, I // step, step)
        turned.append(panel.transpose(1, 2).flatten())
    return torch.cat(turned)


def _bias(bias: Tensor | None, outputs: int) -> Tensor:
    return torch.zeros(outputs) if bias is None else bias.detach().float().contiguous()


class NativeProduct:
    """What `Product.plus` computes for rows (B, N, I) of ``dtype``, added to float32 in place."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight, self.bias = panels(weight, dtype), _bias(bias, len(weight))
        self.add = _functions(dtype)[2]

    def __call__(self, x: Tensor, into: Tensor) -> None:
        """``x`` (N, I) and ``into`` (N, O) are contiguous."""
        self.add(
            x.data_ptr(), self.weight.data_ptr(), self.bias.data_ptr(), into.data_ptr(), len(x), x.shape[1],
            into.shape[1], torch.get_num_threads(),
        )  # fmt: skip


class NativeBlock:
    """`Block` on float32 tokens, products in ``dtype``; the first ``rows`` tokens of each image come out."""

    def __init__(self, block: Block, dtype: torch.dtype, rows: int) -> None:
        attn, mlp = block.attn, block.mlp
        D = attn.proj.out_features
        self.rows = rows
        self.block, self.space, _ = _functions(dtype)
        query = torch.ones(3 * D)
        query[:D] = (D // attn.num_heads) ** -0.5
        scales = {"qkv": query, "proj": block.layer_scale1, "fc1": None, "fc2": block.layer_scale2}
        self.tensors = {}
        for name, linear in (("qkv", attn.qkv), ("proj", attn.proj), ("fc1", mlp.fc1), ("fc2", mlp.fc2)):
            scale = scales[name]
            weight, bias = linear.weight.float(), _bias(linear.bias, linear.out_features)
            self.tensors[name] = panels(weight if scale is None else weight * scale[:, None], dtype)
            self.tensors[f"{name}_bias"] = bias if scale is None else (bias * scale).detach()
        for number, norm in ((1, block.norm1), (2, block.norm2)):
            self.tensors[f"norm{number}_weight"] = norm.weight.detach().float().contiguous()
            self.tensors[f"norm{number}_bias"] = norm.bias.detach().float().contiguous()
        self.facts = _Block(
            **{name: tensor.data_ptr() for name, tensor in self.tensors.items()},
            width=D,
            heads=attn.num_heads,
            hidden=mlp.fc2.in_features,
            after=AFTER.index("gated" if mlp.gated else f"gelu_{mlp.gelu}"),
            norm1_eps=block.norm1.eps,
            norm2_eps=block.norm2.eps,
        )
        self.pointer = ctypes.byref(self.facts)

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D), contiguous, to (B, rows, D); into ``x`` itself where all come out."""
        B, N, _ = x.shape
        y = x if self.rows == N else x[:, : self.rows].contiguous()
        threads = torch.get_num_threads()
        space = torch.empty(self.space(self.pointer, B, N, self.rows, threads), dtype=torch.uint8)
        self.block(self.pointer, x.data_ptr(), y.data_ptr(), B, N, self.rows, threads, space.data_ptr())
        return y


@functools.cache
def _functions(dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """``block``, ``space`` and ``add_product`` of block.c.

    Raises:
        OSError, SubprocessError, RuntimeError, AttributeError: there is no compiler, or it fails, or what it makes is not right.
    """
    library, many = _library(), ctypes.c_int64
    block, space, add = (getattr(library, f"{name}_{KINDS[dtype]}") for name in ("block", "space", "add_product"))
    at = ctypes.c_void_p
    block.argtypes = [at, at, at, many, many, many, ctypes.c_int, at]
    space.argtypes = [at, many, many, many, ctypes.c_int]
    add.argtypes = [at, at, at, at, many, many, many, ctypes.c_int]
    block.restype = add.restype = None
    space.restype = many
    return block, space, add


@functools.cache
def _library() -> ctypes.CDLL:
    return compiled(SOURCE)
