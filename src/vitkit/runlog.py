"""What every training run does beside its steps: log them, show them, heed Ctrl-C, save checkpoints."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import psutil
import torch
from torch import Tensor

from vitkit.checkpoint import TrainState, last_step, save_checkpoint
from vitkit.config import UserError, write_file
from vitkit.console import Console, duration, percent
from vitkit.data.loader import Batch
from vitkit.diagnose import NotFiniteError
from vitkit.parallel.world import ALONE, World
from vitkit.trackers import Tracker, open_trackers
from vitkit.train import StepReport, TrainConfig

__all__ = ["Evaluated", "RunLog"]


STOPS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what torchrun and cluster schedulers send


class Evaluated(NamedTuple):
    """What an evaluation during a run found."""

    values: dict[str, float]  # for the log; empty where there was nothing to evaluate on
    split: str
    shown: str  # for the live line
    value: float  # that chooses the weights to keep; higher is better
    floor: float  # lower end of its interval


class RunLog:
    """The loop's `Hooks`: writes ``metrics.jsonl``, keeps the live line, saves checkpoints; a context manager around the loop."""

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        step: int,
        evaluate: Callable[[dict[str, Tensor], int], Evaluated],
        resume: str,
        console: Console,
        trackers: Sequence[str] = (),
        world: World = ALONE,
    ) -> None:
        """Begin, or go on, at ``step``; ``resume`` is the command that goes on with a stopped run.

        Of several ranks the first one writes the log. ``trackers`` are names of
        `vitkit.trackers.TRACKERS` that get what ``metrics.jsonl`` gets.
        """
        self.run, self.config, self.step, self.resume = run, config, step, resume
        self._evaluate, self.console = evaluate, console
        self._tracker_names, self._trackers = trackers if world.main else (), dict[str, Tracker]()
        self.world = world
        self.losses: list[tuple[int, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self._seconds, self._waited, self._steps = 0.0, 0.0, 0  # of all steps of this process
        self._shown = ""  # of the last evaluation, in the live line
        self._recent: deque[StepReport] = deque(maxlen=20)
        self._log: TextIO | None = None
        self._stop = False
        self._old_handlers: dict[int, Any] = {}

    def __enter__(self) -> RunLog:
        if self.world.main:
            self._open_log(self.run / "metrics.jsonl")
        self._trackers = open_trackers(self._tracker_names, self.run, self.step)
        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                self._old_handlers[number] = signal.signal(number, self._on_interrupt)
        self._line = self.console.live(self.config.steps, "training")
        self._line.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._line.__exit__()
        if self._log:
            self._log.close()
        for name in list(self._trackers):
            self._track(name, lambda tracker: tracker.close())
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            self.console.say(f"stopped at step {self.step}; go on with: {self.resume}")

    def _open_log(self, path: Path) -> None:
        # whole or not at all, should the process be killed here
        write_file(path, "".join(self._lines_until(path)).encode())
        try:
            self._log = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}.") from None

    def _on_interrupt(self, *_: object) -> None:
        """The first Ctrl-C waits for the end of the step; a second one does not, unless other ranks would be left waiting."""
        if self._stop and self.world.size == 1:
            raise KeyboardInterrupt
        self._stop = True

    def stop_requested(self) -> bool:
        """Was the run interrupted?"""
        return self._stop

    def _lines_until(self, path: Path) -> list[str]:
        """Log lines of a resumed run up to its checkpoint; later ones will be written again."""
        if not self.step or not path.exists():
            return []
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        for entry in map(json.loads, kept):
            if "loss" in entry:
                self.losses.append((entry["step"], entry["loss"]))
            else:
                self.evaluations.append({k: v for k, v in entry.items() if k != "split"})
        return kept

    def _write(self, entry: dict[str, object]) -> None:
        if not self.world.main:
            return
        try:
            assert self._log is not None
            self._log.write(json.dumps(entry) + "\n")
            self._log.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self.run / 'metrics.jsonl'}: {error.strerror}. Free space and --resume."
            ) from None

    def on_step(self, report: StepReport) -> None:
        """Log a step and rewrite the live line."""
        self.step = report.step
        self.losses.append((report.step, report.loss))
        self._write({"step": report.step, "loss": report.loss, "lr": report.lr})
        self._tell(report.step, {"train/loss": report.loss, "train/lr": report.lr})
        self._recent.append(report)
        self._steps += 1
        self._seconds += report.seconds
        self._waited += report.waited
        seconds = sum(r.seconds for r in self._recent)
        waited = sum(r.waited for r in self._recent) / seconds
        loss = sum(r.loss for r in self._recent) / len(self._recent)
        memory = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else psutil.Process().memory_info().rss
        rate = len(self._recent) * self.config.batch_size / seconds
        text = f"loss {loss:.3f}  {self._shown}{rate:.0f} img/s  data wait {waited:.0%}  {memory / 2**30:.1f} GiB"
        self._line.update(report.step, text)

    def describe_time(self) -> str:
        """How long the steps of this process took, and which part of that they waited for data; empty without a step."""
        if not self._steps:
            return ""
        return f"{self._steps} steps in {duration(self._seconds)}, data wait {percent(self._waited / self._seconds)}"

    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        """Evaluate weights and log it."""
        found = self._evaluate(weights, step)
        if not found.values:  # nothing to evaluate on
            return found.value, found.floor
        entry = {"step": step, **found.values}
        self.evaluations.append(entry)
        self._shown = f"{found.shown}  "
        self._write({**entry, "split": found.split})
        self._tell(step, {f"{found.split}/{name}": value for name, value in found.values.items()})
        return found.value, found.floor

    def _tell(self, step: int, values: dict[str, float]) -> None:
        for name in list(self._trackers):
            self._track(name, lambda tracker: tracker.log(step, values))

    def _track(self, name: str, call: Callable[[Tracker], None]) -> None:
        """A tracker that fails is dropped; the run goes on."""
        try:
            call(self._trackers[name])
        except Exception as error:
            del self._trackers[name]
            self.console.warn(f"{name} gets no more of this run: {error}. metrics.jsonl has everything.")

    def on_checkpoint(self, state: TrainState) -> None:
        """Save what a stopped run needs; its log reaches the disk first."""
        try:
            if self._log:
                os.fsync(self._log.fileno())
            save_checkpoint(self.run / "checkpoints", state, self.world)
        except (UserError, OSError) as error:
            raise UserError(f"{error} {self._how_to_go_on()}") from None

    def _how_to_go_on(self) -> str:
        saved = last_step(self.run / "checkpoints")
        if saved is None:
            return "There is no checkpoint yet; begin the run again."
        return f"The checkpoint of step {saved} is untouched; {self.resume} goes on from it."

    def on_note(self, text: str) -> None:
        """Say it beside the live line."""
        self.console.warn(text)

    def on_not_finite(self, fault: NotFiniteError, batch: Batch) -> str:
        """Keep the batch of the step that failed beside the log; say where, and how to go on."""
        from safetensors.torch import save

        rank = f"-rank-{self.world.rank}" if self.world.size > 1 else ""
        path = self.run / f"nonfinite-step-{fault.step}{rank}.safetensors"
        fields = {name: field for name, field in batch._asdict().items() if field is not None}
        try:
            write_file(path, save({name: field.detach().cpu().contiguous() for name, field in fields.items()}))
            kept = f"The batch is saved in {path}."
        except UserError as error:
            kept = f"The batch is not saved: {error}"
        change = f"It comes to this step again: first {fault.change}." if fault.change else ""
        return f"{kept} {self._how_to_go_on()} {change}".strip()
