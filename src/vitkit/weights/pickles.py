"""Pickles read without running them: a pickle is a small program, and this interpreter has no way to call or import anything.

Torch's own files are pickles. `torch.load(weights_only=True)` calls torch on numbers of the file, which may allocate or
resize what they please, and admits further classes for the whole process only. Here each known name has a stand-in that
makes plain data of its arguments; any other name is refused by name.

Source of the opcodes: Python's pickletools.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import IO, Any

from vitkit.config import UserError
from vitkit.weights.opened import shown
from vitkit.weights.stand_ins import Dtype, Name, Namespace, Storage, call, known, plain_key, plain_pairs, sizes

__all__ = ["read_pickle"]

MOST_STEPS = 2_000_000  # a training checkpoint of ViT-B/16 has about 30 thousand


def read_pickle(file: IO[bytes], where: str) -> tuple[Any, dict[str, Storage]]:
    """(value, the storages it refers to, by key) of the pickle that ``file`` stands at; ``file`` stands behind it afterwards.

    Dicts of any class become dicts, sets lists, tensors `Stored` and `OddTensor`; see `stand_ins` for the rest.

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
        self.stack.append(call(function, arguments))

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
        self.stack.append(known(module, name, self.where))

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
            target.update({str(key): value for key, value in plain_pairs(state).items()})
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
        storage = Storage(name.removeprefix("_"), key, *sizes((count,)))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("two storages of one key")
        self.stack.append(storage)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for something that is not a dict")
        target.update({plain_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

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
