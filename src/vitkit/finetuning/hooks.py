"""What a fine-tuning run does beside its steps: log them, show them, evaluate, and save checkpoints."""

from __future__ import annotations

import json
import signal
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch
from torch import Tensor

from vitkit.checkpoint import TrainState, save_checkpoint
from vitkit.config import UserError
from vitkit.console import Console, percent
from vitkit.data.sources import Sample
from vitkit.engines.eager import EagerEngine
from vitkit.evals.scoring import outputs_of
from vitkit.evals.tasks import Task
from vitkit.finetuning.arguments import Arguments
from vitkit.models.lora import plain_state
from vitkit.models.vit import VisionTransformer
from vitkit.recipes.finetune import Plan
from vitkit.train import StepReport
from vitkit.zoo.adapt import resize

__all__ = ["RunHooks"]


class RunHooks:
    """Writes ``metrics.jsonl``, keeps the live line, evaluates on the validation part, saves checkpoints."""

    def __init__(
        self,
        run: Path,
        plan: Plan,
        val: Sequence[Sample],
        task: Task,
        arguments: Arguments,
        state: TrainState,
        console: Console,
    ) -> None:
        self.run, self.plan, self.val, self.task = run, plan, val, task
        self.select_by, self.max_pixels = arguments.select_by, arguments.max_pixels
        self.state, self.console = state, console
        self.targets = task.targets(val)
        self.losses: list[tuple[int, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self._recent: deque[StepReport] = deque(maxlen=20)
        self._log: TextIO | None = None
        self._stop = False
        self._old_handler: Any = None

    def __enter__(self) -> RunHooks:
        path = self.run / "metrics.jsonl"
        kept = self._lines_until(path, self.state.step)
        try:
            self._log = path.open("w", encoding="utf-8")
            self._log.writelines(kept)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}.") from None
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        self._line = self.console.live(self.plan.train.steps, "training")
        self._line.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._line.__exit__()
        if self._log:
            self._log.close()
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
        if kind is KeyboardInterrupt:
            self.console.say(f"stopped at step {self.state.step}; go on with: vit finetune --resume {self.run}")

    def _on_interrupt(self, *_: object) -> None:
        """The first Ctrl-C waits for the end of the step; a second one does not."""
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def stop_requested(self) -> bool:
        """Was the run interrupted?"""
        return self._stop

    def _lines_until(self, path: Path, step: int) -> list[str]:
        """Log lines of a resumed run up to its checkpoint; later ones will be written again."""
        if not step or not path.exists():
            return []
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
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
        self.losses.append((report.step, report.loss))
        self._write({"step": report.step, "loss": report.loss, "lr": report.lr})
        self._recent.append(report)
        seconds = sum(r.seconds for r in self._recent)
        waited = sum(r.waited for r in self._recent) / seconds
        loss = sum(r.loss for r in self._recent) / len(self._recent)
        best = max((e[self.task.headline] for e in self.evaluations), default=None)
        shown = f"best {self.task.shown} {percent(best)}  " if best is not None else ""
        memory = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else psutil.Process().memory_info().rss
        rate = len(self._recent) * self.plan.train.batch_size / seconds
        text = f"loss {loss:.3f}  {shown}{rate:.0f} img/s  data wait {waited:.0%}  {memory / 2**30:.1f} GiB"
        self._line.update(report.step, text)

    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        """Score weights on the validation part, at the size the released model will run at."""
        model = VisionTransformer(self.state.model.config)
        model.load_state_dict(plain_state(weights))
        sized = resize(model, self.plan.preprocess.image_size)
        train = self.plan.train
        engine = EagerEngine(sized, precision=train.precision, fused_attention=train.fused_attention, group=16)
        logits = outputs_of(
            engine, self.plan.preprocess, self.val, self.console, "validating", max_pixels=self.max_pixels
        ).logits
        scores = self.task.score_logits(logits, self.targets)
        entry = {"step": step, **{k: v for k, v in scores.values.items() if k in self.task.metrics}}
        self.evaluations.append(entry)
        self._write({**entry, "split": "val"})
        return scores.selection_key(self.select_by)[0], scores.floor(self.select_by)

    def on_checkpoint(self, state: TrainState) -> None:
        """Save what a stopped run needs."""
        save_checkpoint(self.run / "checkpoints", state)
