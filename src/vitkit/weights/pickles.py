"""Pickles read without running them: a pickle is a small program, and this interpreter has no way to call or import anything.

Torch's own files are pickles. `torch.load(weights_only=True)` calls torch on numbers of the file, which may allocate or
resize what they please, and admits further classes for the whole process only. Here each known name has a stand-in that
makes plain data of its arguments; any other name is refused by name.

Source of the opcodes: Python's pickletools. Of the names: what torch.save, argparse and NumPy write.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from vitkit.config import UserError
from vitkit.weights.opened import shown

__all__ = ["Dtype", "Name", "Namespace", "OddTensor", "Opaque", "Storage", "Stored", "read_pickle"]

MOST_STEPS = 2_000_000  # a training checkpoint of ViT-B/16 has about 30 thousand


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


def read_pickle(file: IO[bytes], where: str) -> tuple[Any, dict[str, Storage]]:
    """(value, the storages it refers to, by key) of the pickle that ``file`` stands at; ``file`` stands behind it afterwards.

    Dicts of any class become dicts, sets lists, tensors `Stored` and `OddTensor`; see the classes above for the rest.

    Raises:
        UserError: not a whole pickle, one that names what is not known to be harmless, or an endless one.
    """
    machine = _Machine(where)
    try:
        return machine.run(file), machine.storages
    except UserError:
        raise
    # What Python raises on operands that are missing or of the wrong kind.
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        struct.error,
        Warning,
    ) as error:
        raise UserError(f"{where} is not a whole pickle: {shown(error)}. It is damaged; fetch it again.") from None


def _key(key: Any) -> Any:
    """A plain key of a dict: to hash nested tuples could take for ever."""
    if not all(isinstance(part, str | int | float | bytes | None) for part in (key if type(key) is tuple else (key,))):
        raise TypeError("a key that is no plain value")
    return key


def _mapping(pairs: Any = ()) -> dict[Any, Any]:
    return pairs if isinstance(pairs, dict) else {_key(key): value for key, value in pairs}


def _ints(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or any(type(n) is not int or not 0 <= n < 2**62 for n in values):
        raise TypeError("sizes that are not numbers")
    return tuple(values)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = False, _hooks: Any = None, metadata: Any = None
) -> Stored | OddTensor:
    sizes, strides = _ints(size), _ints(stride)
    if not isinstance(storage, Storage) or len(sizes) != len(strides):
        raise TypeError("a tensor without a storage")
    if metadata:
        return OddTensor("lazily conjugated or negated")
    return Stored(storage, None, _ints((offset,))[0], sizes, strides)


def _tensor_of_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> Stored | OddTensor:
    tensor = _tensor(storage, offset, size, stride, metadata=metadata)
    return tensor._replace(dtype=dtype.name.removeprefix("torch.")) if isinstance(tensor, Stored) else tensor


def _first(value: Any, *_: Any) -> Any:
    return value


def _of_type(function: Any, _cls: Any, arguments: Any, _state: Any) -> Any:
    return _call(function, arguments)


def _instance(cls: Any, *_: Any) -> Any:
    return _call(cls, ())


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
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
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


def _known(module: str, name: str, where: str) -> Name:
    full = f"{PYTHON_2.get(module, module)}.{name}"
    if full not in CALLS and full not in VALUES:
        raise UserError(
            f"{where} holds {shown(full)}, which is not weights. Reading it could run code from the file; nothing was "
            "run. Get the weights as .safetensors, or save the model's state_dict() alone where you trust the file."
        )
    return Name(full)


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Name) or function.name not in CALLS or not isinstance(arguments, tuple):
        raise TypeError("a call of something that cannot be called")
    return CALLS[function.name](*arguments)


class _Machine:
    """The stack, the marks and the memo that pickle's opcodes work on."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def run(self, file: IO[bytes]) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            self.spend(1)
            if opcode.name in LITERALS:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name]())
            elif opcode.name == "STOP":
                return self.stack.pop()
            else:
                STEPS[opcode.name](self, argument)
        raise ValueError("no end")

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise UserError(f"{self.where} is a pickle of more than {MOST_STEPS} steps; no weights need so many.")

    def call(self, function: Any, arguments: Any) -> None:
        """Stand-ins copy what they are given: a small pickle could have one large value copied over and over."""
        for value in arguments:
            self.spend(len(value) // (64 if isinstance(value, str | bytes) else 1) if hasattr(value, "__len__") else 0)
        self.stack.append(_call(function, arguments))

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def get(self, index: Any) -> None:
        self.stack.append(self.memo[int(index)])

    def put(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else int(index)] = self.stack[-1]

    def named(self, argument: Any) -> None:
        if argument is None:  # STACK_GLOBAL
            name, module = self.stack.pop(), self.stack.pop()
        else:
            module, _, name = argument.rpartition(" ")
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        self.stack.append(_known(module, name, self.where))

    def take(self, count: int) -> tuple[Any, ...]:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count:
            raise ValueError("too few values")
        del self.stack[len(self.stack) - count :]
        return items

    def reduce(self, _: Any) -> None:
        self.call(*self.take(2))

    def new_with_names(self, _: Any) -> None:
        self.call(*self.take(3)[:2])

    def old_object(self, argument: Any) -> None:
        items = self.since_mark()
        if argument is not None:  # INST
            self.named(argument)
            function = self.stack.pop()
        else:
            function = items.pop(0)
        self.call(function, tuple(items))

    def build(self, _: Any) -> None:
        target, state = self.take(2)
        if isinstance(target, Namespace):
            self.spend(len(state))
            target.update({str(key): value for key, value in _mapping(state).items()})
        elif isinstance(target, Dtype):
            target.order = state[1] if state[1] == ">" else "<"
        self.stack.append(target)

    def persistent(self, _: Any) -> None:
        kind, cls, key, _location, count, *view = self.stack.pop()
        name = cls.name.rpartition(".")[2] if isinstance(cls, Name) else ""
        if (
            kind not in ("storage", b"storage")
            or not name.endswith("Storage")
            or not isinstance(key, str)
            or any(v is not None for v in view)
        ):
            raise TypeError("a reference to something that is not a storage")
        storage = Storage(name.removeprefix("_"), key, *_ints((count,)))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("two storages of one key")
        self.stack.append(storage)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for something that is not a dict")
        target.update({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def old_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("items for something that is not a list")
        target.extend(items)

    def push(self, value: Any) -> None:
        self.stack.append(value)


# The argument that pickletools gives is the value.
LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
))  # fmt: skip
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list,
}  # fmt: skip
STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.since_mark().clear(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.named),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    "NEWOBJ_EX": _Machine.new_with_names,
    **dict.fromkeys(("INST", "OBJ"), _Machine.old_object),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
    "TUPLE1": lambda m, _: m.push(m.take(1)),
    "TUPLE2": lambda m, _: m.push(m.take(2)),
    "TUPLE3": lambda m, _: m.push(m.take(3)),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "FROZENSET": lambda m, _: m.push(m.since_mark()),
    "DICT": _Machine.old_dict,
    "SETITEM": lambda m, _: m.set_items(list(m.take(2))),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "APPEND": lambda m, _: m.append(list(m.take(1))),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m.append(m.since_mark())),
}
