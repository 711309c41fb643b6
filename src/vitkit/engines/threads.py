"""Python threads that compute with one processor thread each.

How a product is shared out between processor threads decides the order of its sums, so that last digits differ between
machines, and between one process and ranks that share the processors. Work is therefore cut into pieces that do not depend
on how many threads there are, and each piece is computed by one of them.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["compute_pool", "compute_threads", "each_alone"]

T = TypeVar("T")
R = TypeVar("R")


def compute_threads() -> int:
    """How many pieces are computed at a time: as many as PyTorch would use processor threads."""
    return torch.get_num_threads()


def compute_pool(threads: int | None = None) -> ThreadPoolExecutor:
    """The threads, made at the first call. Work that waits for other work of the same pool never ends: do not submit such."""
    return _pool(os.getpid(), threads or compute_threads())


def each_alone(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``work`` of each item, in order, each computed by one processor thread."""
    return list(compute_pool().map(work, items))


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked process has none of the threads
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "vitkit-compute", initializer=_alone)
    everybody = threading.Barrier(threads)
    list(pool.map(lambda _: everybody.wait(), range(threads)))  # all have started
    torch.set_num_threads(before)  # what `_alone` says holds for its thread, but also for threads that start later
    return pool


def _alone() -> None:
    torch.get_num_threads()  # a thread's first question sets it to the number of the process, which would undo the next line later
    torch.set_num_threads(1)
