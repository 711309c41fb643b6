"""The processes of a run, called ranks: who they are, which part of a batch is whose, and what they tell each other.

One process is a world of one rank, and all of this then costs nothing. Several are started by torchrun.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vitkit.config import UserError
from vitkit.parallel.launch import launched_rank
from vitkit.parallel.meeting import agreed_name
from vitkit.parallel.watchdog import RESUME, Watchdog

__all__ = ["ALONE", "PATIENCE", "World", "session"]

PATIENCE = 600.0  # seconds that ranks wait for another one before the run is ended
LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")  # words of torch's own errors
START = (
    60.0  # seconds that ranks have to come to the start at least: importing torch takes some, on a busy machine many
)
LONGEST = timedelta(hours=24)  # of one exchange; the watchdog, which can name who is missing, ends the run long before


class World:
    """This process among those of the run. Every rank calls the same methods in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, watchdog: Watchdog | None = None) -> None:
        self.rank, self.size = rank, size
        self._watchdog = watchdog

    @property
    def main(self) -> bool:
        """Is this the rank that prints and writes?"""
        return self.rank == 0

    def part(self, count: int, together: int = 1) -> range:
        """Which of ``count`` examples of a global batch are this rank's.

        The batch is cut between groups of ``together`` examples, as one process with such microbatches cuts it: in bfloat16
        the gradient of a group depends on who else is in it. Where there are fewer groups than ranks, it is cut anywhere.

        Raises:
            UserError: fewer examples than ranks.
        """
        if count < self.size:
            raise UserError(
                f"a batch of {count} cannot be shared by {self.size} ranks: raise batch_size or start fewer."
            )
        groups = -(-count // together)
        if groups < self.size:
            together, groups = 1, count
        first, last = (groups * rank // self.size * together for rank in (self.rank, self.rank + 1))
        return range(first, min(last, count))

    def arrive(self, label: str) -> None:
        """Tell the watchdog that this rank has come to ``label``, e.g. a step."""
        if self._watchdog:
            self._watchdog.arrive(label)

    def work(self, label: str) -> None:
        """Tell the watchdog that every rank now works by itself, for as long as that takes."""
        if self._watchdog:
            self._watchdog.arrive(label, busy=True)

    @contextlib.contextmanager
    def first_alone(self, label: str) -> Iterator[None]:
        """A stretch in which the first rank may work for long while the others wait at its end."""
        if self._watchdog:
            self._watchdog.arrive(label, busy=self.main)
        yield
        self.wait(f"the end of {label}")

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def any(self, flag: bool) -> bool:
        """Is it so on one rank at least?"""
        return self.sum([float(flag)])[0] > 0

    def share(self, value: Any, label: str) -> Any:
        """Rank 0's ``value``, which JSON can hold, on every rank; the others' is not read."""
        self.arrive(label)
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.main else b""
        length = torch.tensor([len(text)])
        dist.broadcast(length, 0)
        data = (
            torch.frombuffer(bytearray(text), dtype=torch.uint8)
            if self.main
            else torch.empty(int(length), dtype=torch.uint8)
        )
        dist.broadcast(data, 0)
        return json.loads(bytes(data.numpy()))

    def gather(self, values: Tensor, label: str) -> list[Tensor]:
        """Every rank's values, in the order of ranks; all of one shape but for the first dimension, on the CPU."""
        self.arrive(label)
        if self.size == 1:
            return [values]
        counts = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(values)]))
        most = max(int(count) for count in counts)
        padded = torch.zeros(most, *values.shape[1:], dtype=values.dtype)
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        return [each[: int(count)] for each, count in zip(found, counts, strict=True)]

    def wait(self, label: str) -> None:
        """Go on when every rank has come here."""
        self.arrive(label)
        if self.size > 1:
            self.sum([0.0])

    def agree(self, facts: dict[str, str], label: str) -> None:
        """Check that what must be equal is equal on all ranks.

        Raises:
            UserError: on every rank; names the first fact that differs and the ranks that do not have rank 0's.
        """
        if self.size == 1:
            return
        text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        everybody = [json.loads(bytes(each.numpy())) for each in self.gather(text, label)]
        for name, value in everybody[0].items():
            others = [rank for rank, each in enumerate(everybody) if each.get(name) != value]
            if others:
                raise UserError(
                    f"the ranks do not have the same {name}: rank 0 has {value}, rank {others[0]} has "
                    f"{everybody[others[0]].get(name)}"
                    + (f" ({len(others)} ranks differ from rank 0)" if len(others) > 1 else "")
                    + ". Every rank must run the same command with the same code on the same data."
                )


ALONE = World()


@contextlib.contextmanager
def session(patience: float, report: Callable[[str], None], again: str = RESUME) -> Iterator[World]:
    """The world that torchrun started, or a world of one; ``report`` prints what the watchdog found.

    Args:
        patience: seconds after which ranks that wait for another one end the run and say for whom they waited.
        again: how to go on after that, a sentence's part.

    Raises:
        UserError: a rank that did not come, or that ended in the middle of an exchange.
    """
    if launched_rank() is None:
        yield ALONE
        return
    store, rank, size = next(rendezvous("env://"))
    store.set_timeout(LONGEST)
    store = _prefixed(agreed_name(store, rank, size, max(patience, START)), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, store=_prefixed("exchange", store), rank=rank, world_size=size, timeout=LONGEST)
    watchdog = Watchdog(_prefixed("watchdog", store), rank, size, patience, report, again)
    world = World(rank, size, watchdog)
    try:
        yield world
        # Ranks leave together: a process group that is taken down while another rank still uses it fails there.
        world.wait("the end")
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        raise UserError(
            f"rank {rank} lost another rank, whose own message says why ({str(error).splitlines()[0]:.120}). {again}; "
            "torchrun --max-restarts does so by itself."
        ) from None
    finally:
        watchdog.stop()
        dist.destroy_process_group()


def _prefixed(name: str, store: Any) -> Any:
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]
