"""One walk over a Vision Transformer that gives any graph format its operations.

What does not depend on the images is computed ahead: standardised kernels, position tables with the prefix tokens in them, layer
scale, the scale of the queries, and attention pooling's query. What no output reads is left out: where the head reads the class
token alone, so do the queries, the projection and the MLP of the last block.

Shape letters as in `vitkit.models.vit`: B batch, C channels, H W pixels, P prefix tokens, N tokens, D embed_dim, K heads,
d head width, O outputs. B is the only dimension that a graph leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from vitkit.config import UserError, did_you_mean
from vitkit.models.hybrid import ResNetStem, StdConv, Unit, same_padding
from vitkit.models.vit import Attention, Block, MapPool, Mlp, VisionTransformer

__all__ = [
    "LEVELS",
    "STORED",
    "WRITER",
    "Builder",
    "Ends",
    "Pads",
    "Range",
    "Value",
    "library",
    "quantised_weight",
    "reduced",
    "write_graph",
]

Array = np.ndarray[Any, Any]
Value = Any  # what a builder calls the result of an operation; the walk only hands it on
Pads = tuple[int, int, int, int]  # top, left, bottom, right
WRITER = 1  # rises when the same model gives another graph, so that what was written before is made anew
LEVELS = 256  # of an 8-bit number
STORED = ("fp32", "fp16", "bf16")  # of the weights of dense layers


class Range(NamedTuple):
    """The values that the input of a dense layer takes; what lies outside is clipped."""

    low: float
    high: float

    def grid(self) -> tuple[float, int]:
        """(scale, zero point) of 256 unsigned levels over the range, widened to hold 0, which is a level of its own."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = float(np.float32((high - low) / (LEVELS - 1)))
        return scale, min(max(round(-low / scale), 0), LEVELS - 1)


class Ends(NamedTuple):
    """What a graph for other programs does beside the model: it takes cropped pixels and also gives calibrated probabilities."""

    mean: tuple[float, ...]  # per channel, see `Preprocess`
    std: tuple[float, ...]
    temperature: float = 1.0
    sigmoid: bool = False  # of each logit, for a multi-label model; else a softmax over them

    @property
    def whole(self) -> bool:
        """Are pixels bytes, 0 to 255? Those of other than three channels are float32 in the scale of ``mean``."""
        return len(self.mean) == 3

    def scale(self) -> tuple[Array, Array]:
        """(factor, summand), each (C, 1, 1), that normalise pixels."""
        mean, std = (np.array(values, np.float64)[:, None, None] for values in (self.mean, self.std))
        factor = 1 / (255 * std) if self.whole else 1 / std
        return factor.astype(np.float32), (-mean / std).astype(np.float32)


class Builder(Protocol):
    """What a graph format must be able to say. Negative axes count from the last; -1 in a shape is the batch."""

    def input(self, name: str, shape: tuple[int, ...], whole: bool = False) -> Value:
        """Float32 (B, *shape); ``whole``: bytes, which become float32 at once."""
        ...

    def output(self, name: str, x: Value, shape: tuple[int, ...]) -> None:
        """Float32 (B, *shape)."""
        ...

    def constant(self, array: Array) -> Value:
        """Float32 numbers; the array is read when the graph is written."""
        ...

    def conv(self, x: Value, weight: Array, bias: Array | None, stride: tuple[int, int], pads: Pads) -> Value:
        """(B, C, H, W) with a kernel (O, C, p, q)."""
        ...

    def max_pool(self, x: Value, kernel: int, stride: int, pads: Pads) -> Value:
        """Padding is below every number."""
        ...

    def group_norm(
        self, x: Value, shape: tuple[int, int, int], groups: int, scale: Array, bias: Array, eps: float
    ) -> Value:
        """(B, *shape), shape (C, H, W)."""
        ...

    def linear(self, x: Value, name: str, weight: Array, bias: Array | None, int8: bool = False) -> Value:
        """(B, ..., I) with a weight (O, I), which is of 8 bits where ``int8`` says so: then ``x`` is `quantise`'s."""
        ...

    def quantise(self, x: Value, scale: float, zero_point: int) -> Value:
        """Round to 256 levels, (level - zero point) * scale."""
        ...

    def attention(self, q: Value, k: Value, v: Value, heads: int, added: Value | None) -> Value:
        """softmax(q k^T + added) v for scaled q (B, T, D), k and v (B, N, D) head-major, added (B, K, T, N); (B, T, D)."""
        ...

    def matmul(self, a: Value, b: Value) -> Value: ...

    def add(self, a: Value, b: Value) -> Value: ...

    def multiply(self, a: Value, b: Value) -> Value: ...

    def layer_norm(self, x: Value, scale: Array, bias: Array, eps: float) -> Value:
        """Over the last axis."""
        ...

    def softmax(self, x: Value) -> Value:
        """Over the last axis."""
        ...

    def gelu(self, x: Value, kind: str) -> Value:
        """tanh | erf | quick, as in `ViTConfig`."""
        ...

    def silu(self, x: Value) -> Value: ...

    def relu(self, x: Value) -> Value: ...

    def sigmoid(self, x: Value) -> Value: ...

    def tanh(self, x: Value) -> Value: ...

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value: ...

    def transpose(self, x: Value, order: tuple[int, ...]) -> Value: ...

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value: ...

    def concat(self, parts: Sequence[Value], axis: int) -> Value: ...

    def mean(self, x: Value, axis: int) -> Value:
        """The axis goes away."""
        ...

    def gather(self, x: Value, indices: Array, axis: int) -> Value:
        """Rows of an axis by a list of their numbers."""
        ...

    def pad(self, x: Value, rows: int) -> Value:
        """(B, n, D) with so many rows of zeros before the first: (B, rows + n, D)."""
        ...


def library(name: str, extra: str) -> Any:
    """Import the package that writes a format.

    Raises:
        UserError: it is not installed, or cannot be imported here.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UserError(f"the package {name} cannot be used here: {error}.") from error
        raise UserError(f"writing this graph needs {name}: pip install 'vitkit[{extra}]'.") from None
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"the package {name} cannot be used here: {error}.") from error


def quantised_weight(weight: Array) -> tuple[Array, Array]:
    """A weight (O, I) as whole numbers from -127 to 127, int8 (O, I), and the scale of every output, float32 (O,)."""
    scales = np.abs(weight).max(axis=1) / np.float32(127)
    scales[scales == 0] = 1
    return np.rint(weight / scales[:, None]).clip(-127, 127).astype(np.int8), scales.astype(np.float32)


def reduced(weight: Array, stored: str) -> Array:
    """A weight in one of `STORED`, rounded to the nearest.

    Raises:
        UserError: no such precision, or a number that fp16 cannot hold.
    """
    if stored == "fp32":
        return weight
    if stored not in STORED:
        raise UserError(f"weights are stored in {', '.join(STORED)}, not in {stored!r}.")
    if stored == "bf16":
        return weight.astype(library("ml_dtypes", "onnx").bfloat16)
    if np.abs(weight).max(initial=0.0) > np.finfo(np.float16).max:
        raise UserError("a weight of this model is too large for fp16 (above 65504). Use --precision bf16.")
    return weight.astype(np.float16)


@torch.no_grad()
def write_graph(
    model: VisionTransformer,
    builder: Builder,
    ranges: Mapping[str, Range] | None = None,
    ends: Ends | None = None,
) -> None:
    """Give ``builder`` the graph of a model: input ``images`` (B, C, H, W), outputs ``logits`` (B, O) and ``features`` (B, F).

    They are what `VisionTransformer.outputs` gives; for pool='none' both have a row for every token. With ``ends`` the input is
    cropped pixels (B, H, W, C), of three channels as bytes, and a model with a head also gives ``probabilities`` (B, O).

    Args:
        model: any configuration; its weights are taken as float32.
        builder: of one format, see `Builder`.
        ranges: module path of a dense layer, such as ``blocks.3.mlp.fc2``, -> values of its input. These layers are of 8 bits, all
            others, products of attention and softmax included, of 32. Of attention pooling, its query takes no image and
            ``map_pool.q`` is computed ahead; ``map_pool.kv`` is of 8 bits in its values, its logits stay in 32.
        ends: what the graph does beside the model; None: nothing.

    Raises:
        UserError: a range for what is no dense layer of the model, or one that is empty or not finite.
    """
    ranges = dict(ranges or {})
    dense = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, (low, high) in ranges.items():
        if name not in dense:
            raise UserError(
                f"a range is given for {name!r}, which is no dense layer of this model.{did_you_mean(name, dense)}"
            )
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"the range of {name} is {low} to {high}; it must be finite and not empty.")
    _Walk(model, builder, ranges).run(ends)


class _Walk:
    def __init__(self, model: VisionTransformer, builder: Builder, ranges: Mapping[str, Range]) -> None:
        self.model, self.builder, self.ranges = model, builder, ranges
        self.config = model.config
        h, w = self.config.grid
        self.tokens = self.config.prefix_tokens + h * w

    def run(self, ends: Ends | None) -> None:
        config, b = self.config, self.builder
        x = self.embed(self.images(ends))
        for index, block in enumerate(self.model.blocks):
            if index and config.position_at != "stem":
                x = b.add(x, b.constant(_array(self.model.positions(index))))
            read = self.tokens
            if index == config.depth - 1 and config.pool == "cls":
                read = 2 if config.distilled else 1
            x = self.block(x, f"blocks.{index}", block, read)
        pooled = self.pool(x)
        features = pooled[0]
        if self.model.pre_logits is not None:
            features = b.tanh(self.linear(features, "pre_logits", self.model.pre_logits))
        logits = features
        if self.model.head is not None and self.model.head_dist is None:
            logits = self.linear(features, "head", self.model.head)
        elif self.model.head is not None and self.model.head_dist is not None:  # each halved: the mean of two
            own = self.linear(pooled[0], "head", self.model.head, 0.5)
            logits = b.add(own, self.linear(pooled[1], "head_dist", self.model.head_dist, 0.5))
        rows = (self.tokens,) if config.pool == "none" else ()
        b.output("logits", logits, (*rows, config.num_classes or config.feature_dim))
        b.output("features", features, (*rows, config.feature_dim))
        if ends is not None and config.num_classes:
            scaled = b.multiply(logits, b.constant(np.array([1 / ends.temperature], np.float32)))
            probabilities = b.sigmoid(scaled) if ends.sigmoid else b.softmax(scaled)
            b.output("probabilities", probabilities, (*rows, config.num_classes))

    def images(self, ends: Ends | None) -> Value:
        """Normalised images (B, C, H, W)."""
        b, C, (H, W) = self.builder, self.config.in_channels, self.config.image_size
        if ends is None:
            return b.input("images", (C, H, W))
        factor, summand = ends.scale()
        x = b.transpose(b.input("images", (H, W, C), ends.whole), (0, 3, 1, 2))
        return b.add(b.multiply(x, b.constant(factor)), b.constant(summand))

    # Dense layers

    def quantised(self, x: Value, name: str) -> Value:
        return self.builder.quantise(x, *self.ranges[name].grid()) if name in self.ranges else x

    def linear(self, x: Value, name: str, layer: nn.Linear, scale: Tensor | float | None = None) -> Value:
        """A dense layer whose outputs are multiplied by ``scale``, one number or one for each."""
        weight: Tensor = layer.weight
        bias: Tensor | None = layer.bias
        if scale is not None:
            weight = weight * (scale[:, None] if isinstance(scale, Tensor) else scale)
            bias = None if bias is None else bias * scale
        return self.dense(self.quantised(x, name), name, weight, bias)

    def dense(self, x: Value, name: str, weight: Tensor, bias: Tensor | None) -> Value:
        """Of an input that is `quantised` where it has a range."""
        return self.builder.linear(x, name, _array(weight), None if bias is None else _array(bias), name in self.ranges)

    def norm(self, x: Value, layer: nn.LayerNorm) -> Value:
        return self.builder.layer_norm(x, _array(layer.weight), _array(layer.bias), layer.eps)

    # From images to tokens

    def embed(self, images: Value) -> Value:
        """Images to all tokens with their positions (B, N, D)."""
        model, b, D = self.model, self.builder, self.config.embed_dim
        h, w = self.config.grid
        x = images if model.stem is None else self.stem(images, model.stem)
        patch, bias = model.patch_embed, model.patch_embed.bias
        x = b.conv(
            x, _array(patch.weight), None if bias is None else _array(bias), self.config.patch_size, (0, 0, 0, 0)
        )
        x = b.transpose(b.reshape(x, (-1, D, h * w)), (0, 2, 1))
        # All that is added is added to zeros where a prefix token goes: its value and its position in one.
        table = model.place(torch.zeros(1, h * w, D))
        if self.config.prefix_tokens:
            x = b.pad(x, self.config.prefix_tokens)
        if table.any():
            x = b.add(x, b.constant(_array(table)))
        return x if model.norm_pre is None else self.norm(x, model.norm_pre)

    def stem(self, x: Value, stem: ResNetStem) -> Value:
        b = self.builder
        x, shape = self.std_conv(x, (self.config.in_channels, *self.config.image_size), stem.conv_root)
        x = b.relu(self.group_norm(x, shape, stem.gn_root))
        x = b.max_pool(x, 3, 2, _pads(shape, 3, 2))
        shape = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2))
        for unit in (module for module in stem.stages.modules() if isinstance(module, Unit)):
            x, shape = self.unit(x, shape, unit)
        return x

    def unit(self, x: Value, shape: tuple[int, int, int], unit: Unit) -> tuple[Value, tuple[int, int, int]]:
        b = self.builder
        y, inner = self.std_conv(x, shape, unit.conv1)
        y, inner = self.std_conv(b.relu(self.group_norm(y, inner, unit.gn1)), inner, unit.conv2)
        y, inner = self.std_conv(b.relu(self.group_norm(y, inner, unit.gn2)), inner, unit.conv3)
        y = self.group_norm(y, inner, unit.gn3)
        if unit.conv_proj is not None and unit.gn_proj is not None:
            x = self.group_norm(self.std_conv(x, shape, unit.conv_proj)[0], inner, unit.gn_proj)
        return b.relu(b.add(x, y)), inner

    def std_conv(self, x: Value, shape: tuple[int, int, int], layer: StdConv) -> tuple[Value, tuple[int, int, int]]:
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        pads = _pads(shape, kernel, stride)
        y = self.builder.conv(x, _array(layer.standardised()), None, (stride, stride), pads)
        return y, (layer.out_channels, -(-shape[1] // stride), -(-shape[2] // stride))

    def group_norm(self, x: Value, shape: tuple[int, int, int], layer: nn.GroupNorm) -> Value:
        scale, bias = _array(layer.weight), _array(layer.bias)
        return self.builder.group_norm(x, shape, layer.num_groups, scale, bias, layer.eps)

    # Blocks

    def block(self, x: Value, name: str, block: Block, read: int) -> Value:
        """All tokens (B, N, D) to the first ``read`` of them."""
        b = self.builder
        y = self.attention(self.norm(x, block.norm1), f"{name}.attn", block.attn, block.layer_scale1, read)
        x = b.add(x if read == self.tokens else b.slice(x, 1, 0, read), y)
        return b.add(x, self.mlp(self.norm(x, block.norm2), f"{name}.mlp", block.mlp, block.layer_scale2))

    def attention(self, x: Value, name: str, layer: Attention, scale: Tensor | None, read: int) -> Value:
        b, D = self.builder, self.config.embed_dim
        K, d = layer.num_heads, D // layer.num_heads
        weight = layer.qkv.weight
        bias = weight.new_zeros(3 * D) if layer.qkv.bias is None else layer.qkv.bias
        has_bias = layer.qkv.bias is not None
        qkv, tokens = f"{name}.qkv", self.quantised(x, f"{name}.qkv")
        readers = tokens if read == self.tokens else self.quantised(b.slice(x, 1, 0, read), qkv)
        parts = []
        for place, (source, factor) in enumerate(((readers, d**-0.5), (tokens, 1.0), (tokens, 1.0))):
            rows = slice(place * D, (place + 1) * D)
            w, c = (weight[rows], bias[rows]) if factor == 1 else (weight[rows] * factor, bias[rows] * factor)
            parts.append(self.dense(source, qkv, w, c if has_bias else None))
        q, k, v = parts
        added = None
        if layer.relative is not None:
            heads = b.transpose(b.reshape(q, (-1, read, K, d)), (0, 2, 1, 3))
            added = self.relative(heads, layer.relative, layer.get_buffer("relative_index")[:read])
        return self.linear(b.attention(q, k, v, K, added), f"{name}.proj", layer.proj, scale)

    def relative(self, q: Value, table: Tensor, index: Tensor) -> Value:
        """Logits that relative positions add, (B, K, T, N), of scaled queries (B, K, T, d)."""
        b = self.builder
        (T, N), K, offsets = index.shape, self.config.num_heads, len(table)
        every = b.reshape(b.matmul(q, b.constant(_array(table.T))), (-1, K, T * offsets))
        flat = index + torch.arange(T)[:, None] * offsets
        return b.reshape(b.gather(every, flat.flatten().numpy(), 2), (-1, K, T, N))

    def mlp(self, x: Value, name: str, layer: Mlp, scale: Tensor | None = None) -> Value:
        b, M = self.builder, layer.fc2.in_features
        x = self.linear(x, f"{name}.fc1", layer.fc1)
        if layer.gated:
            x = b.multiply(b.silu(b.slice(x, -1, 0, M)), b.slice(x, -1, M, 2 * M))
        else:
            x = b.gelu(x, layer.gelu)
        return self.linear(x, f"{name}.fc2", layer.fc2, scale)

    # From tokens to what the head reads

    def pool(self, x: Value) -> list[Value]:
        """Pooled vectors (B, F): one for each head."""
        config, b, D, P = self.config, self.builder, self.config.embed_dim, self.config.prefix_tokens
        if config.pool in ("mean", "map") and P:
            x = b.slice(x, 1, P, self.tokens)
        if not config.norm_after_pool:
            x = self.norm(x, self.model.norm)
        if config.distilled:
            pooled = [b.reshape(b.slice(x, 1, place, place + 1), (-1, D)) for place in range(2)]
        elif config.pool == "cls":
            pooled = [b.reshape(x, (-1, D))]
        elif config.pool == "mean":
            pooled = [b.mean(x, 1)]
        elif config.pool == "cls_mean":
            mean = b.mean(b.slice(x, 1, P, self.tokens), 1)
            pooled = [b.concat([b.reshape(b.slice(x, 1, 0, 1), (-1, D)), mean], 1)]
        else:
            pooled = [x if self.model.map_pool is None else self.map_pool(x, self.model.map_pool)]
        return [self.norm(y, self.model.norm) for y in pooled] if config.norm_after_pool else pooled

    def map_pool(self, x: Value, layer: MapPool) -> Value:
        """Attention pooling of patches (B, h*w, D). Its query is the same for all images, so that the logits of every head are
        one product of a token: q (W x + c) = (q W) x + q c."""
        b, D, K = self.builder, self.config.embed_dim, layer.num_heads
        count = self.tokens - self.config.prefix_tokens
        q = layer.q(layer.probe).reshape(K, D // K).double() * (D // K) ** -0.5
        weight, bias = layer.kv.weight[:D].double(), layer.kv.bias[:D].double()
        keys = torch.einsum("kd,kdi->ki", q, weight.reshape(K, D // K, D))
        logits = b.linear(x, "map_pool.logits", _array(keys), _array((q * bias.reshape(K, -1)).sum(dim=1)))
        weights = b.reshape(b.softmax(b.transpose(logits, (0, 2, 1))), (-1, K, 1, count))
        name = "map_pool.kv"
        v = self.dense(self.quantised(x, name), name, layer.kv.weight[D:], layer.kv.bias[D:])
        v = b.transpose(b.reshape(v, (-1, count, K, D // K)), (0, 2, 1, 3))
        y = self.linear(b.reshape(b.matmul(weights, v), (-1, D)), "map_pool.proj", layer.proj)
        return b.add(y, self.mlp(self.norm(y, layer.norm), "map_pool.mlp", layer.mlp))


def _array(tensor: Tensor) -> Array:
    """Float32, sharing memory where it can."""
    return tensor.detach().float().cpu().numpy()


def _pads(shape: tuple[int, int, int], kernel: int, stride: int) -> Pads:
    (top, bottom), (left, right) = (same_padding(n, kernel, stride) for n in shape[1:])
    return top, left, bottom, right
