"""How ranks that were started together find each other in a store that may still hold what earlier ones left."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from datetime import timedelta
from typing import Any

from torch.distributed import DistStoreError

from vitkit.config import UserError

__all__ = ["agreed_name"]

ROUND = timedelta(seconds=2)  # after which the first rank looks again who has come


def agreed_name(store: Any, rank: int, size: int, patience: float) -> str:
    """A name that only the ranks of this start know, to keep their keys apart from those of ranks that have ended.

    torchrun's count of restarts would not do: the agents of several machines may count differently. Each rank leaves a word of
    its own; the first proposes a name to the words that it sees, and takes it when all of them have said yes.

    Raises:
        UserError: a rank that does not come within ``patience`` seconds.
    """
    mine = uuid.uuid4().hex
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(DistStoreError):
            if name := _propose(store, size) if rank == 0 else _answer(store, rank, size, mine):
                return name
    come = [other for other in range(1, size) if store.check([f"join/{other}"])]
    missing = [str(other) for other in range(1, size) if other not in come]
    who = f"rank {', '.join(missing)} did" if rank == 0 and missing else "the other ranks did"
    raise UserError(
        f"{who} not come to the start within {patience:.0f} s: start every part of the run, and see their messages."
    )


def _propose(store: Any, size: int) -> str:
    name = uuid.uuid4().hex
    others = [f"join/{rank}" for rank in range(1, size)]
    store.wait(others, ROUND)
    words = [store.get(key).decode() for key in others]
    store.set("table", json.dumps([name, *words]))
    store.wait([f"{name}/{rank}" for rank in range(1, size)], ROUND)
    store.set(f"{name}/go", "1")
    return name


def _answer(store: Any, rank: int, size: int, mine: str) -> str:
    store.set(f"join/{rank}", mine)
    store.wait(["table"], ROUND)
    name, *words = json.loads(store.get("table"))
    if len(words) != size - 1 or words[rank - 1] != mine:
        time.sleep(0.1)  # a proposal to ranks that have ended, or from before this one had come
        return ""
    store.set(f"{name}/{rank}", "1")
    store.wait([f"{name}/go"], ROUND)
    return str(name)
