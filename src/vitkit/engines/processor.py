"""What a runtime must know of the processor, without asking torch."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path

__all__ = ["has_instructions", "processor_sign", "processor_threads"]


def processor_threads() -> int:
    """Threads to compute with: what OMP_NUM_THREADS says, which torch obeys too, else the processors this process may use."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if said.isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_instructions(name: str) -> bool:
    """Has the processor instructions of this name, as Linux calls them; False where it does not tell."""
    return name in _flags()


@functools.cache
def processor_sign() -> str:
    """A short sign of the processor's kind and instructions: what a runtime compiled for others may not run here."""
    told = platform.machine() + (" ".join(sorted(_flags())) or platform.processor())
    return hashlib.sha256(told.encode()).hexdigest()[:8]


@functools.cache
def _flags() -> frozenset[str]:
    """The processor's instructions; empty where the system is not Linux."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip().lower() in ("flags", "features"):
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset()
