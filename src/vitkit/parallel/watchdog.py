"""Names the rank that the others wait for, and ends the run, in place of waiting forever."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

__all__ = ["EXIT_CODE", "RESUME", "Place", "Store", "Watchdog", "missing_ranks"]

EXIT_CODE = 75  # temporary failure: torchrun --max-restarts starts the ranks again
STALLED = (
    3  # times the patience: so long may ranks that have come equally far, or wait for the first one's own work, take
)

RESUME = "--resume goes on from the last checkpoint"


class Store(Protocol):
    """What the ranks leave messages in: torch's."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


class Place(NamedTuple):
    """How far a rank has come."""

    reached: int  # places that it has come to
    busy: bool  # does it work alone while the others wait, as was agreed?
    host: str
    process: str
    label: str


def missing_ranks(places: Sequence[Place]) -> list[int]:
    """Ranks that have come less far than the furthest, and not by agreement."""
    most = max(place.reached for place in places)
    return [rank for rank, place in enumerate(places) if place.reached < most and not place.busy]


class Watchdog:
    """A thread in each rank. A rank that has waited for others for too long says for whom, and ends."""

    def __init__(
        self, store: Store, rank: int, size: int, patience: float, report: Callable[[str], None], again: str = RESUME
    ) -> None:
        self.again = again
        self.store, self.rank, self.size, self.patience, self.report = store, rank, size, patience, report
        self._count, self._busy = 0, False
        self._label = "the start"
        self._since = time.monotonic()
        self._stopped = threading.Event()
        self._post()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def arrive(self, label: str, *, busy: bool = False) -> None:
        """Note that this rank has come to the next place; all ranks come to the same ones.

        ``busy``: it has work to do there for which the others wait.
        """
        self._count, self._busy, self._label, self._since = self._count + 1, busy, label, time.monotonic()
        self._post()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _post(self) -> None:
        words = (self._count, int(self._busy), socket.gethostname(), os.getpid(), self._label)
        self.store.set(str(self.rank), " ".join(map(str, words)))

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.patience / 4)):
            if time.monotonic() - self._since < self.patience:
                continue
            try:
                places = [self._place(rank) for rank in range(self.size)]
            except Exception:  # the store is gone with the rank that held it: torch itself ends the run
                return
            waited = time.monotonic() - self._since  # anew: this rank may have gone on while it read
            if waited >= self.patience and (found := self._found(places, waited)):
                self.report(f"{found} Rank {self.rank} ends the run; {self.again}.")
                sys.stderr.flush()
                os._exit(EXIT_CODE)  # the main thread waits in an exchange and cannot be woken

    def _found(self, places: Sequence[Place], waited: float) -> str:
        """What to say, if anything."""
        missing = missing_ranks(places)
        if missing and self.rank not in missing:
            names = ", ".join(
                f"rank {rank} (process {places[rank].process} on {places[rank].host})" for rank in missing
            )
            return (
                f"{names} did not come to {self._label} within {waited:.0f} s; the last that was heard of it is "
                f"{places[missing[0]].label}."
            )
        if not missing and not self._busy and waited >= STALLED * self.patience:
            return f"no rank has gone on from {self._label} for {waited:.0f} s."
        return ""

    def _place(self, rank: int) -> Place:
        if not self.store.check([str(rank)]):
            return Place(-1, False, "?", "?", "nothing")
        count, busy, host, process, label = self.store.get(str(rank)).decode().split(" ", 4)
        return Place(int(count), busy == "1", host, process, label)
