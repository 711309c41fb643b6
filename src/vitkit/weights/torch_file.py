"""Torch's files (`.pth .pt .bin .ckpt`): zip archives and the older run of pickles. Neither is ever unpickled by torch.

Source of the layouts: torch/serialization.py of github.com/pytorch/pytorch (`_save`, `_legacy_save`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.weights.archive import Archive, read_all
from vitkit.weights.opened import (
    Stamp,
    WeightsFile,
    check_count,
    described,
    meta_tensor,
    raw_bytes,
    read_exactly,
    shown,
)
from vitkit.weights.pickles import read_pickle
from vitkit.weights.stand_ins import Dtype, Name, OddTensor, Opaque, Storage, Stored

__all__ = ["WRAPPERS", "open_torch_pickles", "open_torch_zip"]

# Where training code keeps the weights beside other things, the preferred first: the model itself (DeiT, MAE, timm), then what
# the paper evaluates where there are two (DINO's teacher, I-JEPA's target encoder), then averages and the rest.
WRAPPERS = (
    "model", "state_dict", "model_state_dict", "module", "teacher", "target_encoder", "student", "encoder",
    "model_ema", "state_dict_ema", "ema", "net", "network", "weights",
)  # fmt: skip
MOST_WRAPPERS = 4
MOST_PICKLE = 64 << 20  # bytes
MOST_NODES = 200_000  # of what is kept beside the weights
MOST_DEPTH = 30
MOST_SHARING = 16  # bytes of tensors per byte of the file
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's older files
DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
    **{name: getattr(torch, name) for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "int16", "int8",
        "uint64", "uint32", "uint16", "uint8", "bool", "complex64", "complex128")},
}  # fmt: skip


Reader = Callable[[], AbstractContextManager[Callable[[str], Tensor]]]  # the bytes of a storage by its key


def open_torch_zip(path: Path, archive: Archive, stamp: Stamp) -> WeightsFile:
    """Open what torch.save writes since 2020.

    Raises:
        UserError: a TorchScript program, a pickle of anything but plain data and tensors, or records that do not fit.
    """
    pickles = [name for name in archive.members if name.rpartition("/")[2] == "data.pkl"]
    root = min(pickles, key=len).removesuffix("data.pkl")
    if any(name.startswith(root + "code/") or name == root + "constants.pkl" for name in archive.members):
        raise UserError(
            f"{path} is a TorchScript archive: a program together with its weights. It was not run. Get the same weights "
            f"as {path.stem}.safetensors from their publisher, or write that file from the model's state_dict() "
            "(safetensors.torch.save_file) where you trust the program."
        )
    order = root + "byteorder"
    if order in archive.members and archive.read(order, 16) != b"little":
        raise UserError(f"{path} was written on a big-endian machine, which is not read. Save it again on another.")
    tree, storages = read_pickle(io.BytesIO(archive.read(root + "data.pkl", MOST_PICKLE)), str(path))
    sizes = {
        key: archive.members[root + "data/" + key].file_size
        for key in storages
        if root + "data/" + key in archive.members
    }

    @contextlib.contextmanager
    def reader() -> Iterator[Callable[[str], Tensor]]:
        with archive.opened() as zipped:

            def read(key: str) -> Tensor:
                what = f"{path}: storage {shown(key)}"
                raw = raw_bytes(sizes[key], what)
                with archive.stream(zipped, root + "data/" + key) as stream:
                    read_all(stream, raw, what)
                return raw

            yield read

    return _opened(path, stamp, tree, sizes, reader)


def open_torch_pickles(path: Path, stamp: Stamp) -> WeightsFile:
    """Open what torch.save wrote before 2020: five pickles, then the storages one after another.

    Raises:
        UserError: another pickle, one of anything but plain data and tensors, or a truncated file.
    """
    try:
        with path.open("rb") as file:
            head = io.BytesIO(file.read(MOST_PICKLE))
            if read_pickle(head, str(path))[0] != MAGIC:
                raise UserError(f"{path} is a Python pickle, but none that torch wrote: not a file of weights.")
            protocol, system = (read_pickle(head, str(path))[0] for _ in range(2))
            if protocol != PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
                raise UserError(f"{path} was written by another version of torch or on a big-endian machine.")
            tree, storages = read_pickle(head, str(path))
            keys, _ = read_pickle(head, str(path))
            places = _places(path, file, head.tell(), stamp.size, keys, storages)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None

    @contextlib.contextmanager
    def reader() -> Iterator[Callable[[str], Tensor]]:
        with path.open("rb", buffering=0) as file:

            def read(key: str) -> Tensor:
                start, size = places[key]
                raw = raw_bytes(size, f"{path}: storage {shown(key)}")
                file.seek(start)
                read_exactly(file, raw, str(path))
                return raw

            yield read

    return _opened(path, stamp, tree, {key: size for key, (_, size) in places.items()}, reader)


def _places(
    path: Path, file: BinaryIO, at: int, end: int, keys: Any, storages: Mapping[str, Storage]
) -> dict[str, tuple[int, int]]:
    """(first byte, bytes) of each storage: eight bytes say the number of elements, then they follow."""
    places: dict[str, tuple[int, int]] = {}
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    for key in keys if listed else [""]:
        storage = storages.get(key)
        if storage is None or storage.kind not in DTYPES or key in places:
            raise UserError(f"{path}: its list of storages does not fit its tensors: damaged. Fetch it again.")
        file.seek(at)
        count = int.from_bytes(file.read(8), "little")
        size = count * DTYPES[storage.kind].itemsize
        if count != storage.elements or at + 8 + size > end:
            raise UserError(f"{path} ends before its tensors do, or is damaged. Fetch it again.")
        places[key] = (at + 8, size)
        at += 8 + size
    return places


def _opened(path: Path, stamp: Stamp, tree: Any, sizes: Mapping[str, int], reader: Reader) -> WeightsFile:
    found, metadata, wrappers = _unwrap(path, tree)
    check_count(len(found), path)
    header = {name: _checked(path, name, tensor, sizes) for name, tensor in found.items()}
    total = sum(tensor.numel() * tensor.element_size() for tensor in header.values())
    if total > MOST_SHARING * stamp.size:
        raise UserError(f"{path}: its tensors claim {total} bytes of a file of {stamp.size}; no weights share so much.")

    def load(names: Collection[str]) -> dict[str, Tensor]:
        by_key: dict[str, list[str]] = {}
        for name in header:
            if name in names:
                by_key.setdefault(found[name].storage.key, []).append(name)
        tensors = {}
        with reader() as read:
            for key, sharers in by_key.items():
                raw = read(key)
                for name in sharers:
                    values = _view(raw, found[name], header[name])
                    alone = len(sharers) == 1 and values.is_contiguous() and values.nbytes == raw.nbytes
                    tensors[name] = values if alone else values.clone(memory_format=torch.contiguous_format)
        return tensors

    return WeightsFile(
        path=path,
        container="torch",
        header=header,
        metadata=metadata,
        wrappers=wrappers,
        files=(path,),
        stamps=(stamp,),
        load=load,
    )


def _checked(path: Path, name: str, stored: Stored, sizes: Mapping[str, int]) -> Tensor:
    """The meta tensor of a tensor that lies within its storage, and claims no more than it."""
    what, kind = f"{path}: tensor {shown(name)}", stored.storage.kind
    dtype = DTYPES.get(stored.dtype or kind)
    if dtype is None or kind not in DTYPES:
        raise UserError(f"{what} is of type {shown(stored.dtype or kind)} (quantised?), which is not read. Known: "
                        f"{', '.join(sorted(str(known).removeprefix('torch.') for known in set(DTYPES.values())))}.")  # fmt: skip
    meta = meta_tensor(stored.size, dtype, what)
    size = sizes.get(stored.storage.key)
    if size is None or size != stored.storage.elements * DTYPES[kind].itemsize:
        raise UserError(
            f"{what} refers to a storage of {stored.storage.elements} values that is not in the file: damaged."
        )
    last = stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
    if meta.numel() and (max(last + 1, meta.numel()) * dtype.itemsize > size or stored.offset > size):
        raise UserError(
            f"{what} of shape {stored.size} claims more than the {size} bytes of its storage: damaged, or made to harm."
        )
    return meta


def _view(raw: Tensor, stored: Stored, meta: Tensor) -> Tensor:
    typed = described(raw[: raw.numel() // meta.element_size() * meta.element_size()], meta.dtype, (-1,))
    return (
        typed.as_strided(stored.size, stored.stride, stored.offset) if meta.numel() else typed[:0].reshape(stored.size)
    )


def _unwrap(path: Path, tree: Any) -> tuple[dict[str, Stored], dict[str, Any], tuple[str, ...]]:
    """(tensors by name, everything else in plain values, keys on the way there) of what a torch file holds."""
    rest: dict[Any, Any] = {}
    wrappers: list[str] = []
    while isinstance(tree, dict) and len(wrappers) < MOST_WRAPPERS:
        seen = set[int]()
        key = next((key for key in WRAPPERS if _leads_to_tensors(tree.get(key), seen)), None)
        if key is None and not _has_tensors(tree):  # an unusual key is taken where there is no choice
            tables = {
                id(value): name for name, value in tree.items() if isinstance(name, str) and isinstance(value, dict)
            }
            others = [name for name in tables.values() if _has_tensors(tree[name])]
            key = others[0] if len(others) == 1 else None
        if key is None:
            break
        rest = {**{name: value for name, value in tree.items() if name != key}, **rest}
        wrappers.append(key)
        tree = tree[key]
    if not _has_tensors(tree):
        raise UserError(
            f"{path} holds no tensors by name, but {_sort_of(tree)}. Expected a state_dict, alone or under one of the keys "
            f"{', '.join(WRAPPERS)}."
        )
    tensors = {}
    for name, value in tree.items():
        if isinstance(value, OddTensor):
            raise UserError(
                f"{path}: {shown(name)} is a {value.kind} tensor, which is not read. Get the plain weights."
            )
        if isinstance(value, Stored) and isinstance(name, str):
            tensors[name] = value
        else:
            rest.setdefault(name, value)
    return tensors, _metadata(rest), tuple(wrappers)


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, Stored | OddTensor) for item in value.values())


def _leads_to_tensors(value: Any, seen: set[int], depth: int = MOST_WRAPPERS) -> bool:
    """Each table is looked at once, ``seen`` holds those that led nowhere: they may hold each other."""
    if not isinstance(value, dict) or depth == 0 or id(value) in seen:
        return False
    seen.add(id(value))
    return _has_tensors(value) or any(_leads_to_tensors(value.get(key), seen, depth - 1) for key in WRAPPERS)


def _sort_of(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a table of {', '.join(shown(key) for key in list(tree)[:8]) or 'nothing'}"
    return "one tensor" if isinstance(tree, Stored | OddTensor) else f"a {type(tree).__name__}"


def _metadata(rest: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain values as they are; of what holds tensors (optimisers, averages, other networks) their number only."""
    plain: dict[str, Any] = {}
    others: dict[str, int] = {}
    budget = _Budget(MOST_NODES)
    for key, value in rest.items():
        before = budget.tensors
        kept = _plain(value, budget, 0)
        if budget.tensors == before:
            plain[str(key)] = kept
        else:
            others[str(key)] = budget.tensors - before
    return {**plain, **({"other_tensors": others} if others else {})}


@dataclass
class _Budget:
    """A small pickle can describe a huge tree, or one that holds itself."""

    nodes: int
    tensors: int = 0


def _plain(value: Any, budget: _Budget, depth: int) -> Any:
    budget.nodes -= 1
    if budget.nodes < 0 or depth > MOST_DEPTH:
        return "..."
    if isinstance(value, Stored | OddTensor):
        budget.tensors += 1
        return None
    if isinstance(value, Name | Opaque):
        return value[0]
    if isinstance(value, Dtype):
        return value.code
    if isinstance(value, int) and value.bit_length() > 1024:  # Python refuses to print very long ones
        return "..."
    if isinstance(value, dict):
        return {key: _plain(item, budget, depth + 1) for key, item in itertools.islice(value.items(), budget.nodes + 1)}
    if isinstance(value, list | tuple):
        return [_plain(item, budget, depth + 1) for item in itertools.islice(value, budget.nodes + 1)]
    return value
