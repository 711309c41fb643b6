"""The pickle interpreter has no way to run anything, and small pickles cannot make it work or allocate for long."""

from __future__ import annotations

import contextlib
import io
import pickle
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest

from vitkit.config import UserError
from vitkit.weights.pickles import read_pickle
from vitkit.weights.torch_file import _unwrap

VALUES = [
    None, True, False, 0, 1, 255, 256, 65536, -1, 2**31, -(2**63), 2**100, 1.5, float("inf"), "", "text", "ü€\n'\"", b"", b"ab",
    [], [1], [1, [2, [3]]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": 1}, {1: {2: 3}, None: b"x", ("a", 1): 2.5},
    ["x" * 300], list(range(3000)), {str(n): n for n in range(3000)},
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_pickle_reads_them(protocol: int) -> None:
    for value in [*VALUES, VALUES, {"all": VALUES, "again": VALUES}]:
        file = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
        assert read_pickle(file, "here") == (value, {})
        assert file.read() == b"rest"


def test_sets_and_byte_arrays_become_plain_values() -> None:
    for protocol in range(6):
        value, _ = read_pickle(io.BytesIO(pickle.dumps(({1}, frozenset([2]), bytearray(b"ab")), protocol)), "here")
        assert value == ([1], [2], b"ab")


def refused(code: bytes, match: str = "is not a whole pickle|steps") -> None:
    with pytest.raises(UserError, match=match):
        read_pickle(io.BytesIO(b"\x80\x02" + code), "here")


def called(name: str, arguments: bytes) -> bytes:
    return b"c" + name.replace(".", "\n").encode() + b"\n" + arguments + b"R."


@pytest.mark.parametrize(
    "code",
    [b"", b".", b"0.", b"t.", b"(.", b"R.", b"b.", b"N)R.", b"}}s.", b"]NNs.", b"K\x01K\x02a.", b"h\x07.", b"NQ.",
     b"X\xff\xff\xff\xffab.", b"\x8a\x05ab.", b"\x8b\xff\xff\xff\x7fab.", b"\x82\x01.", b"\x97.", b"P1\n.", b"G12.",
     b"\x93.", b"K\x01K\x02\x93.", b"S'\\xzz'\n.", b"F1.2.3\n.", b"I99x\n.", b"}]K\x01s.", b"}(]tK\x01s.", b"(K\x01d.",
     called("collections.OrderedDict", b"]"), called("collections.OrderedDict", b"K\x05\x85"),
     called("_codecs.encode", b"X\x01\x00\x00\x00aX\x03\x00\x00\x00rot\x86"), called("copyreg._reconstructor", b"N)"),
     called("torch.FloatStorage", b")"), called("numpy.dtype", b"X\x02\x00\x00\x00f8\x85")[:-1] + b"Nb."],
)  # fmt: skip
def test_pickles_that_are_not_whole_are_refused(code: bytes) -> None:
    refused(code)


@pytest.mark.filterwarnings("ignore:invalid escape")
def test_an_odd_escape_is_refused_or_read() -> None:
    with contextlib.suppress(UserError):
        read_pickle(io.BytesIO(b"\x80\x02S'\\d'\n."), "here")


def doubled_tuples() -> bytes:
    """A tuple of two, of two, of two, ... : its hash, its text and its copy would take 2**60 steps."""
    return b")" + b"2\x86" * 60


BOMBS: dict[str, Callable[[], bytes]] = {
    "a key of tuples in tuples": lambda: b"}" + doubled_tuples() + b"K\x01s.",
    "a set of tuples in tuples": lambda: b"\x8f(" + doubled_tuples() + b"\x90.",
    "tuples in tuples": lambda: doubled_tuples() + b".",
    "a name of tuples in tuples": lambda: doubled_tuples() + b"2\x93.",
    "a storage of tuples in tuples": lambda: (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + doubled_tuples() + b"NK\x01tQ."),
    "a list in itself": lambda: b"]2a.",
    "lists in lists": lambda: b"]" * 500_000 + b"a" * 499_999 + b".",
    "tuples of one": lambda: b")" + b"\x85" * 1_000_000 + b".",
    "one text encoded again and again": lambda: (
        b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x000("
        + b"c_codecs\nencode\nh\x00\x85R" * 20_000 + b"t."),
    "one list copied again and again": lambda: (
        b"](" + b"N" * 100_000 + b"eq\x000(" + b"cbuiltins\nset\nh\x00\x85R" * 20_000 + b"t."),
    "one list of pairs again and again": lambda: (
        b"](" + b"NN\x86" * 100_000 + b"eq\x000(" + b"ccollections\nOrderedDict\nh\x00\x85R" * 20_000 + b"t."),
    "one state for many namespaces": lambda: (
        b"}(" + b"".join(b"J" + n.to_bytes(4, "little") + b"N" for n in range(100_000)) + b"uq\x000("
        + b"cargparse\nNamespace\n)\x81h\x00b" * 20_000 + b"t."),
    "calls in calls": lambda: (
        b"ctorch._tensor\n_rebuild_from_type_v2\nq\x000N" + b"q\x010(h\x00Nh\x01Nt" * 100_000 + b"q\x010h\x00h\x01R."),
    "very many steps": lambda: b"(" + b"}" * 3_000_000 + b"t.",
    "a far place in the memo": lambda: b"Nr\xff\xff\xff\xff.",
    "a long number as a key again and again": lambda: (
        b"\x8b" + (4 * 10**6).to_bytes(4, "little") + b"\x7f" * 4 * 10**6 + b"q\x00}(" + b"h\x00N" * 500_000 + b"u."),
    "a long tuple as a key again and again": lambda: b"(" + b"N" * 500_000 + b"tq\x00}(" + b"h\x00N" * 500_000 + b"u.",
    "a long number": lambda: b"\x8b" + (4 * 10**6).to_bytes(4, "little") + b"\x7f" * 4 * 10**6 + b".",
    "a long number as a size": lambda: (
        b"ctorch._utils\n_rebuild_tensor\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01tQ"
        b"K\x00\x8b" + (4 * 10**6).to_bytes(4, "little") + b"\x7f" * 4 * 10**6 + b"\x85K\x01\x85tR."),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_pickles_take_neither_long_nor_much_memory(bomb: str) -> None:
    code = BOMBS[bomb]()
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with contextlib.suppress(UserError):
        read_pickle(io.BytesIO(b"\x80\x02" + code), "here")
    assert time.perf_counter() - begin < 20  # 2 million steps of the interpreter on a busy machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


def shared_by_all() -> Any:
    """Tables that hold each other and one large one under every key that is looked at."""
    from vitkit.weights.torch_file import WRAPPERS

    large = {n: n for n in range(100_000)}
    tables: list[dict[Any, Any]] = [{**large} for _ in range(4)]
    for table in tables:
        for number, key in enumerate(WRAPPERS):
            table[key] = tables[number % 4]
        table.update({str(n): large for n in range(10_000)})
    return tables[0]


def itself() -> Any:
    value: list[Any] = []
    value.extend([value] * 1000)
    return {"model": {"w": read_tensor()}, "args": value}


def read_tensor() -> Any:
    from vitkit.weights.stand_ins import Storage, Stored

    return Stored(Storage("FloatStorage", "0", 1), None, 0, (1,), (1,))


def test_looking_for_the_weights_ends_soon_in_trees_that_hold_themselves(tmp_path: Any) -> None:
    begin = time.perf_counter()
    with pytest.raises(UserError, match="holds no tensors by name"):
        _unwrap(tmp_path, shared_by_all())
    found, metadata, wrappers = _unwrap(tmp_path, itself())
    assert (list(found), wrappers) == (["w"], ("model",))
    assert list(metadata) == ["args"]
    assert time.perf_counter() - begin < 5
