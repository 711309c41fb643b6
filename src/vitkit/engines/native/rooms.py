"""Memory that the steps of a training use again, instead of giving it back to the system and asking for it anew each time.

The system clears new memory page by page as it is touched, which took a tenth of a step. What is lent here stays with the process
while it is in use now and then, in pages as large as the system gives.
"""

from __future__ import annotations

import mmap
import sys
import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["room"]

LARGE = 1 << 20  # bytes; PyTorch's allocator keeps smaller ones anyway
PAGE = 2 << 20  # bytes of a large page
SELDOM = 10_000  # rooms lent since this one was: it is given back


@dataclass
class _Memory:
    whole: mmap.mmap
    used: int = 0  # when it was lent, counted in rooms

    @property
    def is_free(self) -> bool:
        return sys.getrefcount(self.whole) == FREE  # every tensor over it refers to it


@dataclass
class _Lent:
    """What there is, and how many rooms were lent so far."""

    memories: list[_Memory] = field(default_factory=list)
    count: int = 0


FREE = 2  # references to memory that no tensor uses: this module's and the argument of getrefcount
_lent = _Lent()
_one_at_a_time = threading.Lock()


def room(size: int) -> Tensor:
    """``size`` bytes (size,), uint8, of any content; they are lent out again once no tensor refers to them."""
    if size < LARGE:
        return torch.empty(size, dtype=torch.uint8)
    whole = -(-size // PAGE) * PAGE
    with _one_at_a_time:
        _lent.count += 1
        found = next((one for one in _lent.memories if len(one.whole) == whole and one.is_free), None)
        if found is None:
            kept = [one for one in _lent.memories if not one.is_free or _lent.count - one.used < SELDOM]
            found = _Memory(_new(whole))
            _lent.memories = [*kept, found]
        found.used = _lent.count
        return torch.frombuffer(found.whole, dtype=torch.uint8)[:size]


def _new(whole: int) -> mmap.mmap:
    made = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        made.madvise(mmap.MADV_HUGEPAGE)
    return made
