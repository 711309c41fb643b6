"""ONNX files: the standard's operators alone, so that any runtime can read them.

The file is put together tensor by tensor, as the wire format of protocol buffers allows: no copy of all weights is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vitkit import __version__
from vitkit.exporters.graph import Ends, Pads, Range, Value, library, quantised_weight, reduced, write_graph
from vitkit.models.vit import VisionTransformer

__all__ = ["OPSET", "data_file", "write_onnx"]

Array = np.ndarray[Any, Any]
OPSET = 20  # the first with Gelu
IR_VERSION = 9  # the one that came with it
LARGEST = 2**31 - 2**20  # bytes of weights that one file may hold: a protocol buffer is below 2 GiB
SMALL = 1024  # bytes below which a tensor stays in the model: shapes must, for they are read before the data is
ALIGNMENT = 4096  # of tensors in a file of their own, so that they can be mapped into memory
# Tags of protocol buffer fields: number * 8 + 2, "bytes that follow their length" (onnx.proto)
GRAPH, INITIALIZER, RAW_DATA = b"\x3a", b"\x2a", b"\x4a"


def data_file(path: Path) -> Path:
    """Where the weights of a model go that are too large for one file: beside it. The model names it, so it cannot be renamed."""
    return path.with_name(path.name + ".data")


def write_onnx(
    model: VisionTransformer,
    path: Path | str,
    *,
    ranges: Mapping[str, Range] | None = None,
    stored: str = "fp32",
    ends: Ends | None = None,
) -> None:
    """Write a model as an ONNX file: ``images`` (B, C, H, W) float32 to ``logits`` and ``features``, B open.

    Weights of 2 GB and more go into `data_file`. Dense layers that ``ranges`` names are of 8 bits, between QuantizeLinear and
    DequantizeLinear; see `write_graph`.

    Args:
        stored: of the weights of dense layers. ``fp16``: their products are in fp16 too, all else in float32. ``bf16``: they are
            converted to float32 and computed so, for ONNX Runtime multiplies no bf16 on processors.
        ends: see `write_graph`.

    Raises:
        UserError: the package onnx is missing, ranges that do not fit the model, or a weight that fp16 cannot hold.
    """
    builder = _OnnxBuilder(library("onnx", "onnx"), stored)
    write_graph(model, builder, ranges, ends)
    builder.write(Path(path))


class _OnnxBuilder:
    """Operations as nodes; a value is its name."""

    def __init__(self, onnx: Any, stored: str = "fp32") -> None:
        self.onnx, self.stored = onnx, stored
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.tensors: dict[str, Array] = {}
        self.small: dict[tuple[str, bytes], str] = {}  # shapes and the like, each once

    # Making nodes

    def node(self, kind: str, *inputs: Value, **attributes: Any) -> Value:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def tensor(self, array: Array, name: str = "") -> Value:
        name = name or f"constant_{len(self.tensors)}"
        while name in self.tensors:
            name += "'"
        self.tensors[name] = array
        return name

    def numbers(self, values: Sequence[float], dtype: type = np.int64) -> Value:
        array: Array = np.array(values, dtype)
        key = (array.dtype.str + str(array.shape), array.tobytes())
        if key not in self.small:
            self.small[key] = self.tensor(array)
        return self.small[key]

    # What `Builder` asks for

    def input(self, name: str, shape: tuple[int, ...], whole: bool = False) -> Value:
        kinds = self.onnx.TensorProto
        kind = kinds.UINT8 if whole else kinds.FLOAT
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, ["B", *shape]))
        return self.cast(name, kinds.FLOAT) if whole else name

    def cast(self, x: Value, kind: int) -> Value:
        return self.node("Cast", x, to=kind)

    def output(self, name: str, x: Value, shape: tuple[int, ...]) -> None:
        kind = self.onnx.TensorProto.FLOAT
        self.nodes.append(self.onnx.helper.make_node("Identity", [x], [name], name=name))
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, kind, ["B", *shape]))

    def constant(self, array: Array) -> Value:
        return self.tensor(array)

    def conv(self, x: Value, weight: Array, bias: Array | None, stride: tuple[int, int], pads: Pads) -> Value:
        parts = [self.tensor(part) for part in (weight, bias) if part is not None]
        return self.node("Conv", x, *parts, kernel_shape=weight.shape[2:], strides=stride, pads=pads)

    def max_pool(self, x: Value, kernel: int, stride: int, pads: Pads) -> Value:
        return self.node("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def group_norm(
        self, x: Value, shape: tuple[int, int, int], groups: int, scale: Array, bias: Array, eps: float
    ) -> Value:
        x = self.reshape(x, (-1, groups, shape[0] // groups * shape[1] * shape[2]))
        ones, zeros = self.numbers([1.0] * groups, np.float32), self.numbers([0.0] * groups, np.float32)
        x = self.reshape(self.node("InstanceNormalization", x, ones, zeros, epsilon=eps), (-1, *shape))
        x = self.multiply(x, self.tensor(scale[:, None, None]))
        return self.add(x, self.tensor(bias[:, None, None]))

    def linear(self, x: Value, name: str, weight: Array, bias: Array | None, int8: bool = False) -> Value:
        if int8:
            levels, scales = quantised_weight(weight)
            whole = self.tensor(levels.T, f"{name}.weight")
            zeros = self.tensor(np.zeros(len(scales), np.int8))
            kernel = self.node("DequantizeLinear", whole, self.tensor(scales), zeros, axis=1)
        else:
            kernel = self.tensor(reduced(weight.T, self.stored), f"{name}.weight")
        if int8 or self.stored == "fp32":
            y = self.matmul(x, kernel)
        elif self.stored == "bf16":
            y = self.matmul(x, self.cast(kernel, self.onnx.TensorProto.FLOAT))
        else:
            half = self.matmul(self.cast(x, self.onnx.TensorProto.FLOAT16), kernel)
            y = self.cast(half, self.onnx.TensorProto.FLOAT)
        return y if bias is None else self.add(y, self.tensor(bias, f"{name}.bias"))

    def quantise(self, x: Value, scale: float, zero_point: int) -> Value:
        grid = (self.tensor(np.array(scale, np.float32)), self.tensor(np.array(zero_point, np.uint8)))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *grid), *grid)

    def attention(self, q: Value, k: Value, v: Value, heads: int, added: Value | None) -> Value:
        q, k, v = (self.reshape(part, (0, 0, heads, -1)) for part in (q, k, v))
        logits = self.matmul(self.transpose(q, (0, 2, 1, 3)), self.transpose(k, (0, 2, 3, 1)))
        if added is not None:
            logits = self.add(logits, added)
        y = self.matmul(self.softmax(logits), self.transpose(v, (0, 2, 1, 3)))
        return self.reshape(self.transpose(y, (0, 2, 1, 3)), (0, 0, -1))

    def matmul(self, a: Value, b: Value) -> Value:
        return self.node("MatMul", a, b)

    def add(self, a: Value, b: Value) -> Value:
        return self.node("Add", a, b)

    def multiply(self, a: Value, b: Value) -> Value:
        return self.node("Mul", a, b)

    def layer_norm(self, x: Value, scale: Array, bias: Array, eps: float) -> Value:
        return self.node("LayerNormalization", x, self.tensor(scale), self.tensor(bias), axis=-1, epsilon=eps)

    def softmax(self, x: Value) -> Value:
        return self.node("Softmax", x, axis=-1)

    def gelu(self, x: Value, kind: str) -> Value:
        if kind != "quick":
            return self.node("Gelu", x, approximate="tanh" if kind == "tanh" else "none")
        scaled = self.multiply(x, self.numbers([1.702], np.float32))
        return self.multiply(x, self.node("Sigmoid", scaled))

    def silu(self, x: Value) -> Value:
        return self.multiply(x, self.node("Sigmoid", x))

    def relu(self, x: Value) -> Value:
        return self.node("Relu", x)

    def sigmoid(self, x: Value) -> Value:
        return self.node("Sigmoid", x)

    def tanh(self, x: Value) -> Value:
        return self.node("Tanh", x)

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        return self.node("Reshape", x, self.numbers(shape))

    def transpose(self, x: Value, order: tuple[int, ...]) -> Value:
        return self.node("Transpose", x, perm=order)

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        return self.node("Slice", x, *(self.numbers([n]) for n in (start, stop, axis)))

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        return self.node("Concat", *parts, axis=axis)

    def mean(self, x: Value, axis: int) -> Value:
        return self.node("ReduceMean", x, self.numbers([axis]), keepdims=0)

    def gather(self, x: Value, indices: Array, axis: int) -> Value:
        return self.node("Gather", x, self.tensor(indices.astype(np.int64)), axis=axis)

    def pad(self, x: Value, rows: int) -> Value:
        return self.node("Pad", x, self.numbers([0, rows, 0, 0, 0, 0]))

    # The file

    def write(self, path: Path) -> None:
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "vision_transformer", self.inputs, self.outputs)
        model = self.onnx.ModelProto(
            ir_version=IR_VERSION,
            producer_name="vitkit",
            producer_version=__version__,
            opset_import=[helper.make_opsetid("", OPSET)],
        )
        beside = sum(array.nbytes for array in self.tensors.values()) > LARGEST
        outside = {name for name, array in self.tensors.items() if beside and array.nbytes >= SMALL}
        heads = {name: self.head(name, array) for name, array in self.tensors.items()}
        if beside:
            self.write_beside(data_file(path), {name: heads[name] for name in outside})
        nodes = graph.SerializeToString()
        # A message is written after its length, so all lengths are needed first.
        written = {name: head.SerializeToString() for name, head in heads.items()}
        sizes = {
            name: len(head) + (0 if name in outside else _sized(self.tensors[name].nbytes))
            for name, head in written.items()
        }
        whole = len(nodes) + sum(map(_sized, sizes.values()))
        with path.open("wb") as file:
            file.write(model.SerializeToString() + GRAPH + _varint(whole) + nodes)
            for name, array in self.tensors.items():
                file.write(INITIALIZER + _varint(sizes[name]) + written[name])
                if name not in outside:
                    file.write(RAW_DATA + _varint(array.nbytes))
                    _write_array(file, array)

    def head(self, name: str, array: Array) -> Any:
        """A tensor without its numbers."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return self.onnx.TensorProto(name=name, dims=array.shape, data_type=kind)

    def write_beside(self, path: Path, heads: Mapping[str, Any]) -> None:
        """The numbers of some tensors into a file of their own; their heads learn where in it they are."""
        with path.open("wb") as file:
            for name, array in self.tensors.items():
                if name not in heads:
                    continue
                file.write(bytes(-file.tell() % ALIGNMENT))
                heads[name].data_location = self.onnx.TensorProto.EXTERNAL
                for key, value in (("location", path.name), ("offset", file.tell()), ("length", array.nbytes)):
                    heads[name].external_data.add(key=key, value=str(value))
                _write_array(file, array)


def _sized(length: int) -> int:
    """Bytes of a field of so many bytes: its tag of one byte, its length and itself."""
    return 1 + len(_varint(length)) + length


def _varint(n: int) -> bytes:
    """A number as protocol buffers write it: seven bits a byte, the lowest first, all but the last marked."""
    parts = []
    while n > 127:
        parts.append(n & 127 | 128)
        n >>= 7
    return bytes([*parts, n])


def _write_array(file: BinaryIO, array: Array) -> None:
    """Little-endian, rows first."""
    file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
