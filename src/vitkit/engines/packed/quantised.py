"""A model whose blocks multiply in 8 bits: unsigned rows by signed weights, the rest as `quantise` says.

    x --LayerNorm, to steps--> qkv --bfloat16--> attention --to steps--> proj, added to x
      --LayerNorm, to steps--> fc1, GELU, to steps--> fc2, added to x

A layer's rows have one scale and one zero, found by `vitkit.engines.calibration`; weights have a scale for each output. Sums are
of whole numbers, so they are exact. LayerNorm, softmax, GELU and the sums of branches are float32. The two products of attention,
and layers of a block without a range, are bfloat16 where the processor multiplies it, else float32. Patches, pooling and heads are
the model's. Shape letters as in `vitkit.models.vit`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.config import UserError
from vitkit.engines.native.blocks8 import Layer, NativeBlock8, Parts, native8_missing
from vitkit.engines.packed.private_int8 import LEVELS, Packed, Steps, added_product, missing, pack, product, to_steps
from vitkit.engines.packed.private_ops import Product, bf16_missing
from vitkit.exporters.graph import Range
from vitkit.models.vit import Attention, Block, Mlp, VisionTransformer

__all__ = [
    "CompiledBlock",
    "FloatLinear",
    "QuantisedBlock",
    "imitate",
    "quantise",
    "quantised_weight",
    "smoothed",
    "steps_of",
]

HIGHEST = 127  # of a weight: symmetric, so that no zero is to be subtracted


def steps_of(limits: Range) -> Steps:
    """The 256 steps from ``low`` to ``high``, widened to hold 0, which is one of them."""
    low, high = min(limits.low, 0.0), max(limits.high, 0.0)
    scale = max((high - low) / LEVELS, 1e-12)
    return Steps(scale, min(max(round(-low / scale), 0), LEVELS))


def quantised_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (O, K) as whole numbers, int8 from -127 to 127, and the scale of each output (O,)."""
    scales = weight.abs().amax(dim=1).clamp_min(1e-12) / HIGHEST
    return (weight / scales[:, None]).round().clamp(-HIGHEST, HIGHEST).to(torch.int8), scales


class FloatLinear(nn.Module):
    """What an 8-bit linear layer computes, in float32: the reference of the kernels, and how accuracy is tried out."""

    def __init__(self, linear: nn.Linear, limits: Range) -> None:
        super().__init__()
        self.steps = steps_of(limits)
        whole, scales = quantised_weight(linear.weight.detach())
        self.weight, self.bias = whole * scales[:, None], linear.bias

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = self.steps
        return F.linear(((x / scale).round_().add_(zero).clamp_(0, LEVELS) - zero) * scale, self.weight, self.bias)


def imitate(model: VisionTransformer, ranges: Mapping[str, Range]) -> VisionTransformer:
    """A copy of a model in which each Linear that has a range is a `FloatLinear`. Weights that do not change are shared."""
    made = _shared_copy(model)
    for name, limits in ranges.items():
        parent, _, last = name.rpartition(".")
        setattr(made.get_submodule(parent), last, FloatLinear(cast(nn.Linear, model.get_submodule(name)), limits))
    return made


def _shared_copy(model: VisionTransformer) -> VisionTransformer:
    """A copy of all modules that shares their parameters and buffers."""
    known = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, cast(dict[int, object], known)).eval().requires_grad_(False)


@torch.no_grad()
def smoothed(model: VisionTransformer, factors: Mapping[str, Tensor]) -> VisionTransformer:
    """A copy that computes the same, with the inputs of each named Linear divided channel by channel by its factors (K,).

    The layer's weights are multiplied by them. What comes before is divided: the scale and shift of the LayerNorm before ``qkv``
    and ``fc1``, the rows of ``qkv`` that give the values before ``proj``.

    Source: arXiv 2211.10438, section 4.
    """
    made = copy.deepcopy(model).eval().requires_grad_(False)
    for name, factor in factors.items():
        block_name, _, layer = name.partition(".attn.") if ".attn." in name else name.partition(".mlp.")
        block = cast(Block, made.get_submodule(block_name))
        if layer == "proj":
            block.attn.proj.weight.mul_(factor)
            D = block.attn.qkv.in_features
            block.attn.qkv.weight[2 * D :].div_(factor[:, None])
            if block.attn.qkv.bias is not None:
                block.attn.qkv.bias[2 * D :].div_(factor)
            continue
        linear, norm = (block.attn.qkv, block.norm1) if layer == "qkv" else (block.mlp.fc1, block.norm2)
        linear.weight.mul_(factor)
        norm.weight.div_(factor)
        norm.bias.div_(factor)
    return made


def quantise(
    model: VisionTransformer,
    ranges: Mapping[str, Range],
    *,
    attention: torch.dtype | None = None,
    read: int | None = None,
    native: bool | None = None,
) -> VisionTransformer:
    """A copy of a model whose blocks multiply in 8 bits where a Linear has a range.

    Args:
        ranges: name of each Linear of a block (``blocks.3.mlp.fc2``) to the range of its input.
        attention: bfloat16 or float32, of attention's own two products and of the blocks' other layers; None: bfloat16 where this
            processor multiplies it.
        read: how many tokens come out of the last block, for a caller that reads no others; None: all.
        native: by blocks that are compiled for this processor, else by PyTorch's operators; None: where `native8_missing` is empty.

    Raises:
        UserError: 8-bit products cannot be computed here.
    """
    if native is None:
        native = attention is None and not native8_missing(model.config)
    if not native and (reason := missing()):
        raise UserError(f"int8 cannot be computed by PyTorch here: {reason}. Use --precision fp32 or bf16.")
    if attention is None:
        attention = torch.float32 if bf16_missing() else torch.bfloat16
    made = _shared_copy(model)
    h, w = model.config.grid
    rows = model.config.prefix_tokens + h * w
    blocks = cast(nn.ModuleList, made.blocks)
    for index, block in enumerate(model.blocks):
        own = {
            name.removeprefix(f"blocks.{index}."): limits
            for name, limits in ranges.items()
            if name.startswith(f"blocks.{index}.")
        }
        if own:
            out = read if index == len(model.blocks) - 1 else None
            if native:
                blocks[index] = CompiledBlock(NativeBlock8(_parts(block, own), out or rows))
            else:
                blocks[index] = QuantisedBlock(block, own, rows, attention, out)
    return made


class CompiledBlock(nn.Module):
    """A block in C as a module."""

    def __init__(self, block: NativeBlock8) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.float())


def _parts(block: Block, ranges: Mapping[str, Range]) -> Parts:
    """A block's numbers, with the scales of queries and branches in the weights."""
    attn, mlp = block.attn, block.mlp
    D = attn.qkv.in_features
    query = torch.ones(3 * D)
    query[:D] = (D // attn.num_heads) ** -0.5
    layers = {}
    for name, linear, scale in (
        ("attn.qkv", attn.qkv, query),
        ("attn.proj", attn.proj, block.layer_scale1),
        ("mlp.fc1", mlp.fc1, None),
        ("mlp.fc2", mlp.fc2, block.layer_scale2),
    ):
        weight, bias = _with_scale(linear, scale)
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        limits = ranges.get(name)
        if limits is None:
            layers[name.partition(".")[2]] = Layer(weight, None, bias, None)
        else:
            layers[name.partition(".")[2]] = Layer(*quantised_weight(weight), bias, steps_of(limits))
    after = "gated" if mlp.gated else f"gelu_{mlp.gelu}"
    return Parts(block.norm1, block.norm2, layers, attn.num_heads, mlp.fc2.in_features, after)


class _Linear:
    """A linear layer in 8 bits, or in ``dtype`` where it has no range. `enter` makes what it takes."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, limits: Range | None, rows: int, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.packed: Packed | None = None
        if limits is None:
            self.product = Product(weight, bias, dtype, rows=rows)
        else:
            whole, scales = quantised_weight(weight)
            self.packed = pack(whole, scales, bias, steps_of(limits), rows)

    def enter(self, x: Tensor) -> Tensor:
        """Float32 input as the layer takes it."""
        return x.to(self.dtype) if self.packed is None else to_steps(x, self.packed.steps)

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.product(x).to(dtype) if self.packed is None else product(x, self.packed, dtype)

    def add(self, x: Tensor, into: Tensor) -> Tensor:
        """``into`` plus the layer's output, in place."""
        return into.add_(self.product(x)) if self.packed is None else added_product(x, self.packed, into)


class QuantisedBlock(nn.Module):
    """What `Block` computes in evaluation, (B, N, D) -> (B, N or ``read``, D). It writes into its input."""

    def __init__(
        self, block: Block, ranges: Mapping[str, Range], rows: int, attention: torch.dtype, read: int | None = None
    ) -> None:
        super().__init__()
        self.read = read
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn = _Attention(block.attn, block.layer_scale1, ranges, rows, attention)
        self.mlp = _Mlp(block.mlp, block.layer_scale2, ranges, rows, attention)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        y = self.norm1(x)
        x = self.attn(y, x if self.read is None else x[:, : self.read].contiguous())
        return self.mlp(self.norm2(x), x)


class _Attention(nn.Module):
    def __init__(
        self, own: Attention, scale: Tensor | None, ranges: Mapping[str, Range], rows: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        D = own.qkv.in_features
        self.num_heads, self.dtype = own.num_heads, dtype
        self.relative = own if own.relative is not None else None
        query = torch.ones(3 * D)  # the scale of the queries goes into what makes them
        query[:D] = (D // own.num_heads) ** -0.5
        self.qkv = _scaled(own.qkv, query, ranges.get("attn.qkv"), rows, dtype)
        self.proj = _scaled(own.proj, scale, ranges.get("attn.proj"), rows, dtype)

    def forward(self, x: Tensor, into: Tensor) -> Tensor:
        B, N, D = x.shape
        qkv = self.qkv(self.qkv.enter(x), self.dtype)
        n = into.shape[1]  # tokens that come out
        q, k, v = qkv.view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, K, N, d)
        logits = q[:, :, :n] @ k.transpose(-2, -1)  # (B, K, n, N)
        if self.relative is not None:
            added = self.relative.position_logits(q)
            assert added is not None
            logits = logits + added[:, :, :n]
        y = (logits.softmax(dim=-1) @ v).transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return self.proj.add(self.proj.enter(y.reshape(B, n, D)), into)


class _Mlp(nn.Module):
    def __init__(
        self, own: Mlp, scale: Tensor | None, ranges: Mapping[str, Range], rows: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.gated, self.gelu = own.gated, own.gelu
        self.fc1 = _scaled(own.fc1, None, ranges.get("mlp.fc1"), rows, dtype)
        self.fc2 = _scaled(own.fc2, scale, ranges.get("mlp.fc2"), rows, dtype)
        self.fused = (
            not own.gated and own.gelu != "quick" and self.fc1.packed is not None and self.fc2.packed is not None
        )

    def forward(self, x: Tensor, into: Tensor) -> Tensor:
        x = self.fc1.enter(x)
        if self.fused:
            assert self.fc1.packed is not None
            assert self.fc2.packed is not None
            algorithm = "tanh" if self.gelu == "tanh" else "none"
            x = product(x, self.fc1.packed, torch.float32, out=self.fc2.packed.steps, gelu=algorithm)
            return self.fc2.add(x, into)
        x = self.fc1(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = F.silu(gate) * x
        elif self.gelu == "quick":
            x = x * torch.sigmoid(1.702 * x)
        else:
            x = F.gelu(x, approximate="tanh" if self.gelu == "tanh" else "none")
        return self.fc2.add(self.fc2.enter(x), into)


def _scaled(linear: nn.Linear, scale: Tensor | None, limits: Range | None, rows: int, dtype: torch.dtype) -> _Linear:
    return _Linear(*_with_scale(linear, scale), limits, rows, dtype)


def _with_scale(linear: nn.Linear, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer whose outputs are multiplied by ``scale`` (O,)."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if scale is None:
        return weight, bias
    scale = scale.detach()
    return weight * scale[:, None], None if bias is None else bias * scale
