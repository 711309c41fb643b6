"""The processes that share a prediction: one, or those that torchrun started. One imports no torch for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from vitkit.config import UserError
from vitkit.parallel.launch import launched_rank
from vitkit.predicting.parts import Parts

__all__ = ["Ranks", "await_parts", "ranks", "share_outcome"]

AGAIN = "the same command goes on with the parts that are done"
LOOK = 0.5  # seconds between two looks at what other ranks have written
PATIENCE = 600.0  # seconds in which a part must come
SLOW = 10  # or so many times as long as this rank took for one of its own


class Ranks(Protocol):
    """See `vitkit.parallel.world.World`."""

    rank: int
    size: int

    @property
    def main(self) -> bool: ...
    def agree(self, facts: dict[str, str], label: str) -> None: ...
    def share(self, value: Any, label: str) -> Any: ...
    def work(self, label: str) -> None: ...
    def wait(self, label: str) -> None: ...
    def first_alone(self, label: str) -> AbstractContextManager[None]: ...


class _One:
    """A process without others."""

    rank, size, main = 0, 1, True

    def agree(self, facts: dict[str, str], label: str) -> None:
        """Nobody differs."""

    def share(self, value: Any, label: str) -> Any:  # noqa: ARG002
        return value

    def work(self, label: str) -> None:
        """Nobody waits."""

    def wait(self, label: str) -> None:
        """For nobody."""

    def first_alone(self, label: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return contextlib.nullcontext()


@contextlib.contextmanager
def ranks(report: Callable[[str], None]) -> Iterator[Ranks]:
    """This process among those of the run; ``report`` prints what a watchdog finds."""
    if launched_rank() is None:
        yield _One()
        return
    from vitkit.parallel.world import session

    with session(PATIENCE, report, AGAIN) as world:
        yield world


def share_outcome(world: Ranks, work: Callable[[], Any], label: str) -> Any:
    """What ``work`` returns on the first rank, which alone does it; JSON can hold it.

    Raises:
        UserError: on every rank, where the first one's work does.
    """
    problem, value = "", None
    with world.first_alone(label):
        if world.main:
            try:
                value = work()
            except UserError as error:
                problem = str(error)
    problem, value = world.share([problem, value], f"{label}: outcome")
    if problem:
        raise UserError(problem)
    return value


def await_parts(world: Ranks, parts: Parts, slowest: float, patience: float = PATIENCE) -> None:
    """Wait until all parts are there, whoever writes them.

    Args:
        slowest: seconds that this rank took for one part.

    Raises:
        UserError: none has come for too long.
    """
    if world.size == 1:
        return
    patience = max(patience, SLOW * slowest)
    missing, since = list(range(parts.count)), time.monotonic()
    while left := [part for part in missing if not parts.is_done(part)]:
        if len(left) < len(missing):
            since = time.monotonic()
        elif (waited := time.monotonic() - since) > patience:
            late = sorted({part % world.size for part in left})
            raise UserError(
                f"rank {', '.join(map(str, late))} {'has' if len(late) == 1 else 'have'} written no part for {waited:.0f} s, and "
                f"{len(left)} are missing, the first: {parts.place(left[0])}. {parts.kept()}"
            )
        missing = left
        time.sleep(LOOK)
    world.wait("all parts")  # before the first rank joins and removes them
