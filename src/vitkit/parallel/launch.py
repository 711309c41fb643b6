"""What torchrun tells a process that it started. Imports no torch."""

from __future__ import annotations

import os

__all__ = ["is_restart", "launch_name", "launched_rank", "ranks_here"]


def launched_rank() -> int | None:
    """This process's rank as torchrun told it; None where it was not started by torchrun, or is the only one."""
    size = os.environ.get("WORLD_SIZE", "1")
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ or size == "1":
        return None
    return int(os.environ["RANK"])


def launch_name() -> str:
    """The name of this start of torchrun, the same through its restarts; empty without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "") if launched_rank() is not None else ""


def is_restart(began_by: str) -> bool:
    """Is this the same start of torchrun as one of that name, whose ranks were started again?

    A name that was not chosen ("none") is shared by all starts on fixed hosts; then torchrun's own count has to say it.
    """
    name = launch_name()
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return bool(name) and name == began_by and (name != "none" or restarted)


def ranks_here() -> int:
    """Ranks of the run on this machine, which share its memory and processors."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched_rank() is not None else 1
