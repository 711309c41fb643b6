"""What every training run does beside its steps: log them, show them, heed Ctrl-C, save checkpoints."""

from __future__ import annotations

import json
import signal
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import psutil
import torch
from torch import Tensor

from vitkit.checkpoint import TrainState, save_checkpoint
from vitkit.config import UserError, write_file
from vitkit.console import Console
from vitkit.train import StepReport, TrainConfig

__all__ = ["Evaluated", "RunLog"]


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
    ) -> None:
        """Begin, or go on, at ``step``; ``resume`` is the command that goes on with a stopped run."""
        self.run, self.config, self.step, self.resume = run, config, step, resume
        self._evaluate, self.console = evaluate, console
        self.losses: list[tuple[int, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self._shown = ""  # of the last evaluation, in the live line
        self._recent: deque[StepReport] = deque(maxlen=20)
        self._log: TextIO | None = None
        self._stop = False
        self._old_handler: Any = None

    def __enter__(self) -> RunLog:
        path = self.run / "metrics.jsonl"
        kept = self._lines_until(path)
        try:
            write_file(path, "".join(kept).encode())  # in one piece: the lines of earlier steps exist nowhere else
            self._log = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}.") from None
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        self._line = self.console.live(self.config.steps, "training")
        self._line.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._line.__exit__()
        if self._log:
            self._log.close()
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
        if kind is KeyboardInterrupt:
            self.console.say(f"stopped at step {self.step}; go on with: {self.resume}")

    def _on_interrupt(self, *_: object) -> None:
        """The first Ctrl-C waits for the end of the step; a second one does not."""
        if self._stop:
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
        self._recent.append(report)
        seconds = sum(r.seconds for r in self._recent)
        waited = sum(r.waited for r in self._recent) / seconds
        loss = sum(r.loss for r in self._recent) / len(self._recent)
        memory = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else psutil.Process().memory_info().rss
        rate = len(self._recent) * self.config.batch_size / seconds
        text = f"loss {loss:.3f}  {self._shown}{rate:.0f} img/s  data wait {waited:.0%}  {memory / 2**30:.1f} GiB"
        self._line.update(report.step, text)

    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        """Evaluate weights and log it."""
        found = self._evaluate(weights, step)
        if not found.values:  # nothing to evaluate on
            return found.value, found.floor
        entry = {"step": step, **found.values}
        self.evaluations.append(entry)
        self._shown = f"{found.shown}  "
        self._write({**entry, "split": found.split})
        return found.value, found.floor

    def on_checkpoint(self, state: TrainState) -> None:
        """Save what a stopped run needs."""
        save_checkpoint(self.run / "checkpoints", state)
