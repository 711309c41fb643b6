"""What each name that a pickle of weights may use stands for: functions of ours that make plain data of its arguments.

None imports, runs or allocates anything but what it is given. Source of the names: what torch.save, argparse and NumPy write.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vitkit.config import UserError
from vitkit.weights.opened import shown

__all__ = [
    "Dtype",
    "Name",
    "Namespace",
    "OddTensor",
    "Opaque",
    "Storage",
    "Stored",
    "call",
    "known",
    "plain_key",
    "plain_pairs",
    "sizes",
]


class Name(NamedTuple):
    """A global that the pickle names."""

    name: str


class Storage(NamedTuple):
    """A block of memory in the file."""

    kind: str  # "FloatStorage", ...
    key: str
    elements: int


class Stored(NamedTuple):
    """A tensor in a storage. Nothing here was checked against the file."""

    storage: Storage
    dtype: str | None  # None: the storage's
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class OddTensor(NamedTuple):
    """A tensor that is not plain numbers in a storage."""

    kind: str


class Opaque(NamedTuple):
    """A harmless value that nobody here needs."""

    kind: str


class Namespace(dict[str, Any]):
    """The attributes of an `argparse.Namespace`."""


@dataclass
class Dtype:
    """A NumPy dtype."""

    code: str
    order: str = "<"


def plain_key(key: Any) -> Any:
    """A key of a dict that is soon hashed: tuples in tuples, or very long numbers, could take for ever."""
    parts = key if type(key) is tuple else (key,)
    if len(parts) > 16 or not all(isinstance(part, str | int | float | bytes | None) for part in parts):
        raise TypeError("a key that is no plain value")
    if any(isinstance(part, int) and part.bit_length() > 64 for part in parts):
        raise TypeError("a key that is a very long number")
    return key


def plain_pairs(pairs: Any = ()) -> dict[Any, Any]:
    """A dict of pairs."""
    return pairs if isinstance(pairs, dict) else {plain_key(key): value for key, value in pairs}


def sizes(values: Any) -> tuple[int, ...]:
    """Whole numbers that are none below 0."""
    if not isinstance(values, tuple | list) or any(type(n) is not int or not 0 <= n < 2**62 for n in values):
        raise TypeError("sizes that are not numbers")
    return tuple(values)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = False, _hooks: Any = None, metadata: Any = None
) -> Stored | OddTensor:
    shape, steps = sizes(size), sizes(stride)
    if not isinstance(storage, Storage) or len(shape) != len(steps):
        raise TypeError("a tensor without a storage")
    if metadata:
        return OddTensor("lazily conjugated or negated")
    return Stored(storage, None, sizes((offset,))[0], shape, steps)


def _tensor_of_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> Stored | OddTensor:
    tensor = _tensor(storage, offset, size, stride, metadata=metadata)
    return tensor._replace(dtype=dtype.name.removeprefix("torch.")) if isinstance(tensor, Stored) else tensor


def _first(value: Any, *_: Any) -> Any:
    return value


def _of_type(function: Any, _cls: Any, arguments: Any, _state: Any) -> Any:
    return call(function, arguments)


def _instance(cls: Any, *_: Any) -> Any:
    return call(cls, ())


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError("an unknown encoding")
    return text.encode(encoding)


def _number(dtype: Any, data: Any = b"") -> Any:
    """A NumPy scalar as Python's own number."""
    form = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I",
            "u2": "H", "u1": "B", "b1": "?"}.get(dtype.code)  # fmt: skip
    if form is None:
        return Opaque("numpy scalar")
    data = data.encode("latin1") if isinstance(data, str) else data
    return struct.unpack((">" if dtype.order == ">" else "<") + form, data)[0]


def _odd(kind: str) -> Callable[..., OddTensor]:
    return lambda *_: OddTensor(kind)


def _opaque(kind: str) -> Callable[..., Opaque]:
    return lambda *_: Opaque(kind)


def _path(*parts: str) -> str:
    return "/".join(parts)


def _values(values: Any = (), *_: Any) -> Any:
    return list(values) if isinstance(values, list | tuple) else []


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_sparse_tensor": _odd("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _odd("sparse"),
    "torch._utils._rebuild_qtensor": _odd("quantised"),
    "torch._utils._rebuild_nested_tensor": _odd("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _odd("meta (without values)"),
    "torch._utils._rebuild_wrapper_subclass": _odd("wrapped"),
    "torch._utils._rebuild_device_tensor_from_numpy": _odd("other device's"),
    "torch._utils._rebuild_xla_tensor": _odd("other device's"),
    "torch.serialization._get_layout": _opaque("layout"),
    "torch.Size": _values,
    "torch.device": _first,
    "collections.OrderedDict": plain_pairs,
    "collections.Counter": plain_pairs,
    "collections.defaultdict": lambda *_: {},
    "collections.deque": _values,
    "builtins.set": _values,
    "builtins.frozenset": _values,
    "builtins.list": _values,
    "builtins.complex": _opaque("complex number"),
    "builtins.bytearray": lambda text="", encoding="latin1": text if isinstance(text, bytes) else _encoded(text, encoding),
    "builtins.slice": _opaque("slice"),
    "builtins.range": _opaque("range"),
    "argparse.Namespace": lambda *_: Namespace(),
    "types.SimpleNamespace": lambda *_: Namespace(),
    "copyreg._reconstructor": _instance,
    "_codecs.encode": _encoded,
    "numpy.dtype": lambda code, *_: Dtype(code if isinstance(code, str) else ""),
    **{f"{core}.multiarray.scalar": _number for core in ("numpy.core", "numpy._core")},
    **{f"{core}.{make}": _opaque("numpy array") for core in ("numpy.core", "numpy._core")
       for make in ("multiarray._reconstruct", "numeric._frombuffer")},
    "builtins.bytes": lambda data=b"": data,
    **{f"{module}.{kind}": _path for module in ("pathlib", "pathlib._local")
       for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")},
}  # fmt: skip
STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat",
            "ComplexDouble", "QUInt8", "QInt8", "QInt32", "QUInt4x2", "QUInt2x4", "Untyped")  # fmt: skip
SCALARS = ("float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128", "float8_e4m3fn",
           "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "int64", "int32", "int16", "int8", "uint64", "uint32",
           "uint16", "uint8", "bool", "qint8", "quint8", "qint32")  # fmt: skip
VALUES = frozenset(
    [f"torch.{kind}Storage" for kind in STORAGES]
    + [f"torch.storage.{kind}" for kind in ("UntypedStorage", "_UntypedStorage")]
    + [f"torch.{kind}" for kind in (*SCALARS, "strided", "sparse_coo", "sparse_csr", "Tensor", "per_tensor_affine",
                                    "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")]
    + [f"builtins.{kind}" for kind in ("dict", "int", "float", "str", "bool", "tuple", "object")]
    + ["numpy.ndarray", *(f"numpy.{kind}" for kind in ("float64", "float32", "int64", "int32", "bool_"))]
)  # fmt: skip
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def known(module: str, name: str, where: str) -> Name:
    """A name that has a stand-in or is a plain value.

    Raises:
        UserError: any other.
    """
    full = f"{PYTHON_2.get(module, module)}.{name}"
    if full not in CALLS and full not in VALUES:
        raise UserError(
            f"{where} holds {shown(full)}, which is not weights. Reading it could run code from the file; nothing was "
            "run. Get the weights as .safetensors, or save the model's state_dict() alone where you trust the file."
        )
    return Name(full)


def call(function: Any, arguments: Any) -> Any:
    """What the stand-in of a name makes of its arguments."""
    if not isinstance(function, Name) or function.name not in CALLS or not isinstance(arguments, tuple):
        raise TypeError("a call of something that cannot be called")
    return CALLS[function.name](*arguments)
