"""Times engines in turn, each in a process of its own, and compares their outputs with those of plain PyTorch in fp32.

Whatever the machine does meanwhile, it does to all of them: figures are medians of rounds, and ratios are taken round by round.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit.analysis.flops import forward_macs
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines.measured.apart import Apart, ApartError
from vitkit.engines.measured.cells import Agreement, Cell, agreement, summary
from vitkit.engines.measured.machine import Peak

__all__ = ["BASE", "MOST_ROUNDS", "LeftOut", "Measured", "Plan", "measure"]

Array = np.ndarray[Any, Any]
Pair = tuple[str, str]  # engine, precision
BASE: Pair = ("eager", "fp32")  # what all others are compared with
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
READY = 900.0  # seconds that making an engine may take: it may compile, and keeps what it compiled
SHARES = 6  # fair shares of the time that one cell may take before it is left out
GLANCE = 0.1  # seconds for the pace of a cell
REST = 0.05  # seconds in which threads of one runtime go to sleep before the next begins
COMPARING = 0.25  # share of the time in which plain PyTorch answers the images that answers are compared on
PEAK = 1.5  # seconds for the matrix products of one precision, before the rounds and after them
AGAIN = 5.0  # seconds of a run from which on they are measured after the rounds, too
WARM = 8  # images of the call that tells about how fast plain PyTorch is
PROCESS = 2**30  # bytes that an engine's process takes beside its weights


class LeftOut(NamedTuple):
    """What was not measured."""

    engine: str
    precision: str
    batch: int | None  # None: nothing of it
    reason: str


class Plan(NamedTuple):
    """What to measure."""

    pairs: Sequence[Pair]
    batches: Sequence[int]
    seconds: float  # for comparing and timing; making the engines comes on top
    compare: tuple[int, int] = (16, 512)  # images that answers are compared on: at least, at most
    peaks: bool = True  # also the machine's matrix products


@dataclass
class Measured:
    """What was found."""

    cells: list[Cell] = field(default_factory=list)
    agreements: dict[Pair, Agreement] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    peaks: dict[str, Peak] = field(default_factory=dict)
    together: bool = True  # in turn; False: one after the other, for want of memory
    base: Pair = BASE  # what the others are compared with


@dataclass
class _Side:
    """One engine in its process, and its times."""

    pair: Pair
    process: Apart
    made: Mapping[str, Any]
    memory: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)  # by batch, of processor and GPU
    pace: dict[int, float] = field(default_factory=dict)  # seconds of a call, by batch
    rounds: dict[int, list[list[float]]] = field(default_factory=dict)


def measure(
    bundle: Bundle,
    plan: Plan,
    images: Array,
    real: bool,
    tell: Callable[[str], None],
    progress: Callable[[float, str], None],
) -> Measured:
    """Measure the engines of ``plan`` and, in any case, `BASE`; of an exported artefact its runtime alone.

    Args:
        images: float32 (n, C, H, W), preprocessed; timing uses them again and again.
        real: they were given; else they are random numbers.
        tell: takes a line of what is being done.
        progress: takes the share of the time that is over, and what is being done.

    Raises:
        UserError: plain PyTorch itself cannot be measured.
    """
    found = Measured(base=BASE if bundle.artefact is None else plan.pairs[0])
    pairs = list(dict.fromkeys([found.base, *plan.pairs]))
    found.together = len(pairs) * _bytes_of(bundle) < 0.7 * _free_memory()
    groups = [pairs] if found.together else [[pair] for pair in pairs]
    with tempfile.TemporaryDirectory(prefix="vit-benchmark-") as name:
        folder = Path(name)
        if bundle.artefact is None:
            bundle.save(folder / "model")
        np.save(folder / "images.npy", images)
        if plan.peaks:
            _find_peaks(sorted({precision for _, precision in pairs}), found, tell)
        sides: list[_Side] = []
        clock = _Clock(plan.seconds, progress)
        for group in groups:
            with ExitStack() as stack:
                here = list(_start(group, bundle, folder, stack, found, tell))
                if group[0] == found.base and (not here or here[0].pair != found.base):
                    raise UserError(f"{_named(found.base)} could not be measured: {found.left_out[0].reason}.")
                clock.share(len(group) / len(pairs))
                _compare(here, bundle, folder, plan, real, found, clock)
                cells = len(plan.batches) * len(pairs)
                _first_pass(here, sorted(plan.batches), SHARES * plan.seconds / cells, found, clock)
                _take_turns(here, found, clock)
                sides += here
        if plan.peaks and plan.seconds >= AGAIN:
            _find_peaks(list(found.peaks), found, tell)
    flops = 2 * forward_macs(bundle.config)
    found.cells = list(_cells(sides, found, flops))
    return found


class _Clock:
    """The time there is."""

    def __init__(self, seconds: float, progress: Callable[[float, str], None]) -> None:
        self.seconds, self.used, self._progress = seconds, 0.0, progress
        self.began, self.end = time.monotonic(), time.monotonic()

    def share(self, part: float) -> None:
        """Begin a part of the time."""
        self.began = time.monotonic()
        self.end = self.began + part * self.seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def show(self, text: str) -> None:
        """Say what is being done."""
        done = (self.seconds - max(0.0, self.left)) / self.seconds
        self._progress(min(1.0, done), text)


def _named(pair: Pair) -> str:
    return "plain PyTorch" if pair == BASE else " ".join(pair)


def _bytes_of(bundle: Bundle) -> int:
    """About what an engine's process takes: the weights as read, in its own order, and once more while it makes that."""
    return PROCESS + 3 * 4 * sum(tensor.numel() for tensor in bundle.model.parameters())


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _find_peaks(precisions: Sequence[str], found: Measured, tell: Callable[[str], None]) -> None:
    if not found.peaks:
        tell("measuring the machine's matrix products")
    with Apart() as process:
        for precision in precisions:
            try:
                answer = process.ask({"do": "peak", "precision": precision, "seconds": PEAK}, 120)
            except ApartError:
                continue  # no operator of this precision: there is no share to tell
            peak = Peak(**{**answer, "shape": tuple(answer["shape"])})
            if precision not in found.peaks or peak.gflops > found.peaks[precision].gflops:
                found.peaks[precision] = peak


def _start(
    pairs: Sequence[Pair], bundle: Bundle, folder: Path, stack: ExitStack, found: Measured, tell: Callable[[str], None]
) -> Iterator[_Side]:
    place = None if bundle.place is None else str(bundle.place.resolve())
    model = str(folder / "model") if bundle.artefact is None else place
    for engine, precision in pairs:
        tell(f"making {engine} {precision}")
        process = stack.enter_context(Apart())
        request = {
            "do": "make", "bundle": model, "images": str(folder / "images.npy"), "place": place,
            "engine": engine, "precision": precision,
        }  # fmt: skip
        try:
            yield _Side((engine, precision), process, process.ask(request, READY))
        except ApartError as error:
            found.left_out.append(LeftOut(engine, precision, None, str(error)))
            process.close()


def _compare(
    sides: Sequence[_Side], bundle: Bundle, folder: Path, plan: Plan, real: bool, found: Measured, clock: _Clock
) -> None:
    """Agreement of every side with `BASE`, on as many images as there is time for."""
    answers, plain = bundle.answers, folder / "plain.npy"
    for side in sides:
        clock.show(f"comparing {' '.join(side.pair)}")
        out = plain if side.pair == found.base else folder / "other.npy"
        try:
            count = _affordable(side, plan) if side.pair == found.base else len(np.load(plain, mmap_mode="r"))
            side.process.ask({"do": "outputs", "out": str(out), "count": count}, READY)
        except ApartError as error:
            if side.pair == found.base:
                raise UserError(f"{_named(found.base)} could not be measured: {error}.") from None
            found.left_out.append(LeftOut(*side.pair, None, str(error)))
            continue
        found.agreements[side.pair] = agreement(answers.task, answers.cuts, np.load(plain), np.load(out), real)


def _affordable(base: _Side, plan: Plan) -> int:
    """Images that plain PyTorch answers in its part of the time."""
    least, most = plan.compare
    times = base.process.ask({"do": "time", "batch": WARM, "seconds": 0, "calls": 1}, READY)["times"]
    return min(most, max(least, int(COMPARING * plan.seconds * WARM / min(times))))


def _first_pass(sides: Sequence[_Side], batches: Sequence[int], most: float, found: Measured, clock: _Clock) -> None:
    """A few calls of each, which are not counted: the pace, and what is too slow for the time there is."""
    lost = {(each.engine, each.precision) for each in found.left_out if each.batch is None}
    for batch in batches:
        for side in sides:
            if side.pair in lost:
                continue
            clock.show(f"{' '.join(side.pair)}, batch {batch}")
            expected = max((pace * batch / smaller for smaller, pace in side.pace.items()), default=0.0)
            if expected * (LEAST_ROUNDS + 1) > most:
                reason = f"a call takes about {expected:.1f} s, too long for the time there is: give more --seconds"
                found.left_out.append(LeftOut(*side.pair, batch, reason))
                continue
            try:
                answer = side.process.ask({"do": "time", "batch": batch, "seconds": GLANCE, "calls": 1}, READY)
            except ApartError as error:
                found.left_out.append(LeftOut(*side.pair, batch, str(error)))
                if side.process.ended:
                    lost.add(side.pair)
                continue
            side.pace[batch] = min(answer["times"])
            side.memory[batch] = answer["memory"], answer["device_memory"]


def _take_turns(sides: Sequence[_Side], found: Measured, clock: _Clock) -> None:
    """Rounds of all that could be called, until the time is over."""
    visits = [(batch, side) for batch in sorted({b for side in sides for b in side.pace})
              for side in sides if batch in side.pace]  # fmt: skip
    if not visits:
        return
    least = sum(2 * side.pace[batch] + REST for batch, side in visits)
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, int(clock.left / least)))
    each = clock.left / rounds / len(visits) - REST
    for number in range(rounds):
        if number >= LEAST_ROUNDS and clock.left <= 0:
            return
        for batch, side in visits[number % len(visits) :] + visits[: number % len(visits)]:
            if side.process.ended:
                continue
            clock.show(f"round {number + 1} of {rounds}: {' '.join(side.pair)}, batch {batch}")
            time.sleep(REST)
            seconds = max(0.0, each - 2 * side.pace[batch])  # the call that is not counted, and the one under way
            try:
                answer = side.process.ask({"do": "time", "batch": batch, "seconds": seconds, "calls": 1}, READY)
            except ApartError as error:
                found.left_out.append(LeftOut(*side.pair, batch, f"{error}, in round {number + 1}"))
                continue
            side.rounds.setdefault(batch, []).append(answer["times"])


def _cells(sides: Sequence[_Side], found: Measured, flops: int) -> Iterator[Cell]:
    base = next((side for side in sides if side.pair == found.base), None)
    for side in sides:
        for batch, rounds in sorted(side.rounds.items()):
            rate, p50, p99, calls = summary(batch, rounds)
            peak = found.peaks.get(side.pair[1])
            memory, device_memory = (None if n is None else n / 1e6 for n in side.memory[batch])
            facts = side.made["facts"]
            yield Cell(
                *side.pair,
                batch,
                facts["library"],
                facts["ours"],
                facts["threads"],
                rate,
                p50,
                p99,
                calls,
                len(rounds),
                memory,
                device_memory,
                None if peak is None else rate * flops / (1e9 * peak.gflops),
                _speedup(base.rounds.get(batch) if base else None, rounds, found.together),
                side.made["seconds"],
                tuple(facts["notes"]),
            )


def _speedup(base: list[list[float]] | None, rounds: list[list[float]], together: bool) -> float | None:
    """Over `BASE`: the median of the rounds' ratios, where they were in turn."""
    if not base:
        return None
    mine, plain = ([statistics.fmean(times) for times in each] for each in (rounds, base))
    if together and len(mine) == len(plain):
        return statistics.median(b / a for a, b in zip(mine, plain, strict=True))
    return statistics.median(plain) / statistics.median(mine)
