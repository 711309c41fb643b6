"""What torchrun tells a process that it started. Imports no torch."""

from __future__ import annotations

import os

__all__ = ["attempt", "is_restart", "launched_rank"]


def launched_rank() -> int | None:
    """This process's rank as torchrun told it; None where it was not started by torchrun, or is the only one."""
    size = os.environ.get("WORLD_SIZE", "1")
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ or size == "1":
        return None
    return int(os.environ["RANK"])


def attempt() -> int:
    """How often torchrun has started this run's ranks before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_restart() -> bool:
    """Did a rank of this run end, so that torchrun started all of them again?"""
    return attempt() > 0
