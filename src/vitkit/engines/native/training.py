"""A block's training step in C: what `Block` computes under bf16 autocast, compiled on the machine that runs it.

An extra for processors with AVX-512 and its bf16 products where a compiler is found. `untrained` says which blocks it leaves to
PyTorch's operators; so are single calls that it cannot take (see `step`). Bits do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from vitkit.engines.native.blocks import LANES, NEEDS
from vitkit.engines.native.compiler import compiled
from vitkit.engines.native.rooms import room
from vitkit.models.vit import Attention, Block, Mlp, ViTConfig

__all__ = ["step", "training_missing", "untrained"]

SOURCE = Path(__file__).with_name("train.c")
GELUS = {"erf": 1, "tanh": 2, "quick": 3}  # in the order of block.c
NEAR = 3e-2  # of float64's, the largest distance of a gradient that passes; products of bf16 come to 1e-2
NORMS = ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")
LINEARS = ("qkv", "proj", "fc1", "fc2")
PARAMETERS = (*NORMS, *LINEARS, *(f"{name}_bias" for name in LINEARS))  # in the order of train.c
FC1 = PARAMETERS.index("fc1")


class _Layer(ctypes.Structure):
    """`Layer` of train.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in PARAMETERS),
        *((name, ctypes.c_int64) for name in ("width", "heads", "hidden", "after")),
        *((f"norm{number}_eps", ctypes.c_double) for number in (1, 2)),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of train.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in PARAMETERS)


@functools.cache
def training_missing() -> str:
    """Why blocks are trained by PyTorch's operators here; empty where compiled ones are there and agree with them."""
    if os.environ.get("VITKIT_NATIVE") == "0":
        return "VITKIT_NATIVE=0"
    able = torch.cpu.get_capabilities()
    if lacking := [name for name in NEEDS[torch.bfloat16] if not able.get(name)]:
        return f"this processor has no {', '.join(lacking)} instructions"
    try:
        _library()
    except (OSError, AttributeError, subprocess.SubprocessError, RuntimeError) as error:
        return f"no compiled blocks: {(str(error).strip() or type(error).__name__).splitlines()[-1]:.200}"
    return "" if _agrees() else "compiled blocks do not agree with PyTorch's"


def untrained(block: Block) -> str:
    """Why PyTorch's operators train this block; empty where compiled code does."""
    attn, mlp = block.attn, block.mlp
    linears = {"attn.qkv": attn.qkv, "attn.proj": attn.proj, "mlp.fc1": mlp.fc1, "mlp.fc2": mlp.fc2}
    kinds = ((block, Block), (attn, Attention), (mlp, Mlp), (block.norm1, nn.LayerNorm), (block.norm2, nn.LayerNorm))
    if other := [type(module).__name__ for module, kind in kinds if type(module) is not kind]:
        return f"it is made of {other[0]}"
    for name, linear in linears.items():
        if type(linear) is not nn.Linear and not parametrize.is_parametrized(linear, "weight"):
            return f"{name} is {type(linear).__name__}"
    if any(rate > 0 for rate in (block.dropout.p, attn.attention_dropout, mlp.dropout.p)):
        return "dropout"
    if attn.relative is not None:
        return "relative positions"
    if mlp.gated:
        return "SwiGLU"
    D = attn.proj.in_features
    for name, wide in (
        ("embed_dim", D),
        ("mlp_dim", mlp.fc2.in_features),
        ("the width of heads", D // attn.num_heads),
    ):
        if wide % LANES:
            return f"{name} is {wide}, not a multiple of {LANES}"
    if any(parameter.dtype != torch.float32 or parameter.device.type != "cpu" for parameter in block.parameters()):
        return "its weights are not float32 on the processor"
    return training_missing()


def step(block: Block, x: Tensor) -> Tensor:
    """`Block.forward` of tokens (B, N, D) while training under bf16 autocast.

    PyTorch's operators compute what is anything else: another precision, an evaluation, a block whose parts are watched by hooks.
    """
    trains = block.training and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    if (
        not trains
        or torch.get_autocast_dtype("cpu") != torch.bfloat16
        or x.dtype != torch.float32
        or x.device.type != "cpu"
        or type(block) is not Block  # its tensors are in parts on several ranks
        or not (x.requires_grad or any(parameter.requires_grad for parameter in block.parameters()))
        or _is_watched(block)
    ):
        return Block.forward(block, x)
    return _compute(block, x)


def _compute(block: Block, x: Tensor) -> Tensor:
    attn, mlp = block.attn, block.mlp
    factors: list[Tensor | None] = [None, None]
    if block.drop_path > 0:
        keep = 1 - block.drop_path
        factors = [
            block.kept(len(x), 2 * block.index + branch, x.device)[:, 0].float().div_(keep).contiguous()
            for branch in (0, 1)
        ]
    with torch.autocast("cpu", enabled=False):
        proj = _scaled(attn.proj, block.layer_scale1)
        fc2 = _scaled(mlp.fc2, block.layer_scale2)
    norms = (block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias)
    weights = (attn.qkv.weight, proj[0], mlp.fc1.weight, fc2[0])
    biases = (attn.qkv.bias, proj[1], mlp.fc1.bias, fc2[1])
    facts = (attn.num_heads, GELUS[mlp.gelu], block.norm1.eps, block.norm2.eps)
    found: Tensor = _Step.apply(facts, x, *factors, *norms, *weights, *biases)  # type: ignore[no-untyped-call]
    return found


def _scaled(linear: nn.Linear, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer whose output is scaled; autograd takes the gradients apart again."""
    if scale is None:
        return linear.weight, linear.bias
    return linear.weight * scale[:, None], None if linear.bias is None else linear.bias * scale


def _is_watched(block: Block) -> bool:
    """Does anything wait for a part of the block to be called, or for what it is given or gives?"""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in block.modules()
        if module is not block
    )


class _Step(torch.autograd.Function):
    """`block_forward` and `block_backward` of train.c."""

    @staticmethod
    def forward(
        ctx: Any, facts: tuple[int, int, float, float], x: Tensor, factors1: Tensor | None, factors2: Tensor | None,
        *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous()
        parameters = tuple(None if each is None else each.contiguous() for each in parameters)
        B, N, D = x.shape
        layer = _layer(facts, parameters, D)
        library, pointer, threads = _library(), ctypes.byref(layer), torch.get_num_threads()
        kept = room(library.kept_bytes(pointer, B * N))
        space = room(library.forward_bytes(pointer, N, threads))
        y = room(x.nbytes).view(torch.float32).view(x.shape)
        library.block_forward(
            pointer, x.data_ptr(), y.data_ptr(), kept.data_ptr(), B, N, _at(factors1), _at(factors2), threads,
            space.data_ptr(),
        )  # fmt: skip
        ctx.facts = facts
        ctx.save_for_backward(x, kept, factors1, factors2, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, factors1, factors2, *parameters = ctx.saved_tensors
        dy = dy.float().contiguous()
        B, N, D = x.shape
        layer = _layer(ctx.facts, parameters, D)
        library, pointer, threads = _library(), ctypes.byref(layer), torch.get_num_threads()
        wanted = [
            torch.empty_like(parameter) if wants else None
            for parameter, wants in zip(parameters, ctx.needs_input_grad[4:], strict=True)
        ]
        gradients = _Gradients(**{name: _at(tensor) for name, tensor in zip(PARAMETERS, wanted, strict=True)})
        space = room(library.backward_bytes(pointer, B, N, threads))
        dx = room(x.nbytes).view(torch.float32).view(x.shape)
        library.block_backward(
            pointer, x.data_ptr(), dy.data_ptr(), dx.data_ptr(), kept.data_ptr(), ctypes.byref(gradients), B, N,
            _at(factors1), _at(factors2), threads, space.data_ptr(),
        )  # fmt: skip
        return None, dx, None, None, *wanted


def _layer(facts: tuple[int, int, float, float], parameters: Any, width: int) -> _Layer:
    heads, after, eps1, eps2 = facts
    return _Layer(
        **{name: _at(tensor) for name, tensor in zip(PARAMETERS, parameters, strict=True)},
        width=width, heads=heads, hidden=len(parameters[FC1]), after=after, norm1_eps=eps1, norm2_eps=eps2,
    )  # fmt: skip


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def _library() -> ctypes.CDLL:
    """The functions of train.c.

    Raises:
        OSError, SubprocessError, RuntimeError, AttributeError: there is no compiler, or it fails, or what it makes is not right.
    """
    library, many, at, count = compiled(SOURCE), ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    for name, arguments in (
        ("kept_bytes", [at, many]),
        ("forward_bytes", [at, many, count]),
        ("backward_bytes", [at, many, many, count]),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, many
    library.block_forward.argtypes = [at, at, at, at, many, many, at, at, count, at]
    library.block_backward.argtypes = [at, at, at, at, at, at, many, many, at, at, count, at]
    library.block_forward.restype = library.block_backward.restype = None
    return library


def _agrees() -> bool:
    """With float64's, on tokens that fill no register and no chunk, every activation, and gradients of few and of all tokens."""
    rng = torch.Generator().manual_seed(0)
    for gelu, wide, heads, rows in (("erf", 64, 2, 75), ("tanh", 80, 5, 1), ("quick", 112, 7, 2)):
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            block = Block(ViTConfig(embed_dim=wide, num_heads=heads, mlp_dim=112, gelu=gelu), 0.0)
            with torch.no_grad():
                for parameter in block.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)
            x, dy = torch.randn(2, 4, 75, wide, generator=rng)
            dy[:, rows:] = 0
            found = _gradients(_compute, block, x, dy)
            expected = _gradients(Block.forward, block.double(), x.double(), dy.double())
        for one, other in zip(found, expected, strict=True):
            if not float((one.double() - other).norm()) <= NEAR * float(other.norm()):
                return False
    return True


def _gradients(forward: Any, block: Block, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = forward(block, x)
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], dy)]
