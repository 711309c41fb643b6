"""An opened file of weights: names, shapes and dtypes at once, values when asked for, always in memory of their own."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from vitkit.config import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "Stamp",
    "WeightsFile",
    "check_count",
    "described",
    "meta_tensor",
    "raw_bytes",
    "read_exactly",
    "shown",
    "stamp_of",
]

MOST_TENSORS = 200_000  # the largest published models have some thousands
MOST_DIMENSIONS = 32
MOST_VALUES = 2**48


class Stamp(NamedTuple):
    """What tells that a file is still the one that was opened."""

    device: int
    inode: int
    size: int
    modified: int


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, or several shards of one, whose header was read and found sound."""

    path: Path  # what the user named
    container: str  # "safetensors" | "npz" | "torch"
    header: dict[str, Tensor]  # meta tensors: names, shapes, dtypes; nothing is allocated
    metadata: dict[str, Any]  # what the file says beside its tensors, plain values only
    wrappers: tuple[str, ...]  # keys that were unwrapped, outermost first
    files: tuple[Path, ...]  # all files that hold the tensors, and the index of shards
    stamps: tuple[Stamp, ...] = field(repr=False)  # one of each of ``files``, from before the header was read
    load: Callable[[Collection[str]], dict[str, Tensor]] = field(repr=False)  # use `read`

    def __post_init__(self) -> None:
        if not self.header:
            raise UserError(f"{self.path} holds no tensors.")

    def read(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Tensors on the CPU that share no memory with the file nor with each other, all or those of ``names``.

        Raises:
            UserError: damaged or changed since it was opened, or more than fits into memory.
            KeyError: a name that is not in the header.
        """
        import psutil

        wanted = self.header if names is None else {name: self.header[name] for name in names}
        need, free = sum(map(_nbytes, wanted.values())), psutil.virtual_memory().available
        if need > free:
            raise UserError(
                f"{self.path}: its tensors need {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free."
            )
        self._check_unchanged()
        tensors = self.load(frozenset(wanted))
        self._check_unchanged()
        return {name: tensors[name] for name in wanted}

    def _check_unchanged(self) -> None:
        for path, stamp in zip(self.files, self.stamps, strict=True):
            if stamp_of(path) != stamp:
                raise UserError(f"{path} changed while it was read. Open it again.")


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def stamp_of(path: Path) -> Stamp:
    """Facts of a regular file; nothing else is ever opened, since a pipe or device would hang or never end.

    Raises:
        UserError: missing, a folder, or a pipe, device or socket.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError as error:  # a NUL in the name
        raise UserError(f"cannot read {str(path)!r}: {error}.") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a folder; name the file of weights in it.")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a regular file but a pipe, device or socket; copy the weights into a file.")
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_count(tensors: int, path: Path) -> None:
    """Before a header of very many tensors is built.

    Raises:
        UserError: more than any model has.
    """
    if tensors > MOST_TENSORS:
        raise UserError(f"{path} claims {tensors} tensors; more than {MOST_TENSORS} are not read.")


def meta_tensor(shape: Sequence[int], dtype: torch.dtype, what: str) -> Tensor:
    """A tensor (shape) without memory.

    Raises:
        UserError: no shape that a tensor in a file can have.
    """
    import torch

    if (
        len(shape) > MOST_DIMENSIONS
        or any(type(n) is not int or n < 0 for n in shape)
        or math.prod(max(n, 1) for n in shape) > MOST_VALUES
    ):
        raise UserError(f"{what} claims a shape that no tensor has.")
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def raw_bytes(size: int, what: str) -> Tensor:
    """Memory of its own for ``size`` bytes, uint8 (size,), not yet written to.

    Raises:
        UserError: no memory is left.
    """
    import torch

    try:
        return torch.empty(size, dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        raise UserError(f"no memory is left for the {size} bytes of {what}.") from None


def described(raw: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The values (shape) that the bytes (size,) are of."""
    import torch

    # Any byte but 0 is true; torch itself knows 0 and 1 only.
    return (raw != 0 if dtype == torch.bool else raw.view(dtype)).reshape(tuple(shape))


def read_exactly(file: BinaryIO, raw: Tensor, what: str) -> None:
    """Fill uint8 memory (size,) from a file.

    Raises:
        UserError: the file ends too early.
    """
    view = raw.numpy().data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise UserError(f"{what} ends too early: truncated. Fetch it again.")
        view = view[count:]


def shown(text: object, most: int = 80) -> str:
    """A name out of a file, quoted and cut, so that it cannot disturb a terminal."""
    string = str(text)
    return repr(string if len(string) <= most else string[:most] + "...")
