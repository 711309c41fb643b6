"""Names the rank that the others wait for, and ends the run, in place of waiting forever."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["EXIT_CODE", "Store", "Watchdog", "missing_ranks"]

EXIT_CODE = 75  # temporary failure: torchrun --max-restarts starts the ranks again


class Store(Protocol):
    """What the ranks leave messages in: torch's."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


def missing_ranks(arrived: list[int]) -> list[int]:
    """Ranks that have come less far than the furthest, given how many places each has come to."""
    return [rank for rank, count in enumerate(arrived) if count < max(arrived)]


class Watchdog:
    """A thread in each rank. A rank that has waited for others for too long says for whom, and ends."""

    def __init__(self, store: Store, rank: int, size: int, patience: float, report: Callable[[str], None]) -> None:
        self.store, self.rank, self.size, self.patience, self.report = store, rank, size, patience, report
        self._count = 0
        self._label = "the start"
        self._since = time.monotonic()
        self._stopped = threading.Event()
        self._post()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def arrive(self, label: str) -> None:
        """Note that this rank has come to the next place; all ranks come to the same ones."""
        self._count, self._label, self._since = self._count + 1, label, time.monotonic()
        self._post()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _post(self) -> None:
        self.store.set(str(self.rank), f"{self._count} {socket.gethostname()} {os.getpid()} {self._label}")

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.patience / 4)):
            waited = time.monotonic() - self._since
            if waited < self.patience:
                continue
            try:
                places = [self._place(rank) for rank in range(self.size)]
            except Exception:  # the store is gone with the rank that held it: torch itself ends the run
                return
            missing = missing_ranks([int(place[0]) for place in places])
            if not missing or self.rank in missing:
                continue
            names = ", ".join(f"rank {rank} (process {places[rank][2]} on {places[rank][1]})" for rank in missing)
            last = places[missing[0]][3]
            self.report(
                f"{names} did not come to {self._label} within {waited:.0f} s; the last that was heard of it is {last}. "
                f"Rank {self.rank} ends the run; --resume goes on from the last checkpoint."
            )
            sys.stderr.flush()
            os._exit(EXIT_CODE)  # the main thread waits in an exchange and cannot be woken

    def _place(self, rank: int) -> tuple[str, str, str, str]:
        if not self.store.check([str(rank)]):
            return "-1", "?", "?", "nothing"
        count, host, process, label = self.store.get(str(rank)).decode().split(" ", 3)
        return count, host, process, label
