"""OpenVINO's intermediate representation: an `.xml` file of operations and a `.bin` file of weights beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.config import UserError
from vitkit.exporters.graph import LEVELS, Ends, Pads, Range, Value, library, quantised_weight, reduced, write_graph
from vitkit.models.vit import VisionTransformer

__all__ = ["write_openvino"]

Array = np.ndarray[Any, Any]


def write_openvino(
    model: VisionTransformer,
    path: Path | str,
    *,
    ranges: Mapping[str, Range] | None = None,
    stored: str = "fp32",
    ends: Ends | None = None,
) -> None:
    """Write a model as ``path``, an `.xml`, and its `.bin`: ``images`` (B, C, H, W) to ``logits`` and ``features``, B open.

    Dense layers that ``ranges`` names are of 8 bits, with FakeQuantize at their input; see `write_graph`.

    Args:
        stored: of the weights of dense layers, which the graph converts to float32; in what is multiplied is for the runtime to
            say, by INFERENCE_PRECISION_HINT.
        ends: see `write_graph`.

    Raises:
        UserError: the package openvino is missing, ``path`` is no `.xml`, ranges that do not fit the model, or a weight that fp16
            cannot hold.
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise UserError(f"OpenVINO models are a pair of files, .xml and .bin: {path.name} must end in .xml.")
    openvino = library("openvino", "openvino")
    builder = _OpenVinoBuilder(openvino, library("openvino.opset13", "openvino"), stored)
    write_graph(model, builder, ranges, ends)
    made = openvino.Model(builder.results, builder.parameters, "vision_transformer")
    openvino.save_model(made, path, compress_to_fp16=False)


class _OpenVinoBuilder:
    """Operations as nodes of OpenVINO, which check themselves as they are made."""

    def __init__(self, openvino: Any, ops: Any, stored: str) -> None:
        self.openvino, self.ops, self.stored = openvino, ops, stored
        self.parameters: list[Any] = []
        self.results: list[Any] = []
        self.kept: list[Array] = []  # whose memory constants read

    def input(self, name: str, shape: tuple[int, ...], whole: bool = False) -> Value:
        kind = np.uint8 if whole else np.float32
        x = self.ops.parameter(self.openvino.PartialShape([-1, *shape]), kind, name=name)
        x.output(0).get_tensor().set_names({name})
        self.parameters.append(x)
        return self.ops.convert(x, np.float32) if whole else x

    def output(self, name: str, x: Value, shape: tuple[int, ...]) -> None:  # noqa: ARG002  (known to the graph)
        result = self.ops.result(x, name=name)
        names = x.output(0).get_tensor().get_names()
        x.output(0).get_tensor().set_names({*names, name})
        self.results.append(result)

    def constant(self, array: Array) -> Value:
        array = np.ascontiguousarray(array)
        if array.size < 1024:
            return self.ops.constant(array)
        self.kept.append(array)
        return self.ops.constant(array, shared_memory=True)

    def stored_constant(self, weight: Array) -> Value:
        if self.stored == "fp32":
            return self.constant(weight)
        kept = reduced(np.ascontiguousarray(weight), self.stored)
        self.kept.append(kept)
        if self.stored == "fp16":
            return self.ops.convert(self.ops.constant(kept), np.float32)
        tensor = self.openvino.Tensor(kept.view(np.uint16), kept.shape, self.openvino.Type.bf16)
        return self.ops.convert(self.ops.constant(tensor), np.float32)

    def conv(self, x: Value, weight: Array, bias: Array | None, stride: tuple[int, int], pads: Pads) -> Value:
        y = self.ops.convolution(x, self.constant(weight), list(stride), list(pads[:2]), list(pads[2:]), [1, 1])
        return y if bias is None else self.ops.add(y, self.constant(bias[None, :, None, None]))

    def max_pool(self, x: Value, kernel: int, stride: int, pads: Pads) -> Value:
        return self.ops.max_pool(
            x, [stride] * 2, [1, 1], list(pads[:2]), list(pads[2:]), [kernel] * 2, rounding_type="floor"
        ).output(0)

    def group_norm(
        self,
        x: Value,
        shape: tuple[int, int, int],  # noqa: ARG002  (known to the graph)
        groups: int,
        scale: Array,
        bias: Array,
        eps: float,
    ) -> Value:
        return self.ops.group_normalization(x, self.constant(scale), self.constant(bias), groups, eps)

    def linear(self, x: Value, name: str, weight: Array, bias: Array | None, int8: bool = False) -> Value:
        if int8:
            levels, scales = quantised_weight(weight)
            whole = self.ops.convert(self.constant(levels), np.float32)
            kernel = self.ops.multiply(whole, self.constant(scales[:, None]))
        else:
            kernel = self.stored_constant(weight)
        y = self.ops.matmul(x, kernel, False, True)
        y.set_friendly_name(name)
        return y if bias is None else self.ops.add(y, self.constant(bias))

    def quantise(self, x: Value, scale: float, zero_point: int) -> Value:
        ends = (np.float32(-zero_point * scale), np.float32((LEVELS - 1 - zero_point) * scale))
        low, high = (self.ops.constant(np.array(end)) for end in ends)
        return self.ops.fake_quantize(x, low, high, low, high, LEVELS)

    def attention(self, q: Value, k: Value, v: Value, heads: int, added: Value | None) -> Value:
        q, k, v = (
            self.transpose(self.ops.reshape(part, self.shape((0, 0, heads, -1)), True), (0, 2, 1, 3))
            for part in (q, k, v)
        )
        logits = self.ops.matmul(q, k, False, True)
        if added is not None:
            logits = self.add(logits, added)
        y = self.transpose(self.matmul(self.softmax(logits), v), (0, 2, 1, 3))
        return self.ops.reshape(y, self.shape((0, 0, -1)), True)

    def matmul(self, a: Value, b: Value) -> Value:
        return self.ops.matmul(a, b, False, False)

    def add(self, a: Value, b: Value) -> Value:
        return self.ops.add(a, b)

    def multiply(self, a: Value, b: Value) -> Value:
        return self.ops.multiply(a, b)

    def layer_norm(self, x: Value, scale: Array, bias: Array, eps: float) -> Value:
        axes = self.shape((-1,))
        y = self.ops.mvn(x, axes, True, eps, "inside_sqrt")
        return self.ops.add(self.ops.multiply(y, self.constant(scale)), self.constant(bias))

    def softmax(self, x: Value) -> Value:
        return self.ops.softmax(x, -1)

    def gelu(self, x: Value, kind: str) -> Value:
        if kind == "quick":
            return self.ops.swish(x, self.ops.constant(np.array(1.702, np.float32)))
        return self.ops.gelu(x, kind)

    def silu(self, x: Value) -> Value:
        return self.ops.swish(x)

    def relu(self, x: Value) -> Value:
        return self.ops.relu(x)

    def sigmoid(self, x: Value) -> Value:
        return self.ops.sigmoid(x)

    def tanh(self, x: Value) -> Value:
        return self.ops.tanh(x)

    def shape(self, numbers: Sequence[int]) -> Value:
        return self.ops.constant(np.array(numbers, np.int64))

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        return self.ops.reshape(x, self.shape(shape), False)

    def transpose(self, x: Value, order: tuple[int, ...]) -> Value:
        return self.ops.transpose(x, self.shape(order))

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        return self.ops.slice(x, *(self.shape((n,)) for n in (start, stop, 1, axis)))

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        return self.ops.concat(list(parts), axis)

    def mean(self, x: Value, axis: int) -> Value:
        return self.ops.reduce_mean(x, self.shape((axis,)), False)

    def gather(self, x: Value, indices: Array, axis: int) -> Value:
        return self.ops.gather(x, self.shape(indices.tolist()), self.ops.constant(np.array(axis, np.int64)))

    def pad(self, x: Value, rows: int) -> Value:
        zero = self.ops.constant(np.array(0, np.float32))
        return self.ops.pad(x, self.shape((0, rows, 0)), self.shape((0, 0, 0)), "constant", zero)
