"""What every training run decides by memory and by time before step 0."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn

from vitkit.checkpoint import TrainState, save_checkpoint
from vitkit.config import UserError, from_dict, read_json
from vitkit.console import duration
from vitkit.data.loader import Batch
from vitkit.optim import OptimConfig
from vitkit.parallel.launch import ranks_here
from vitkit.train import Objective, TrainConfig, start, step_once

__all__ = [
    "PRETRAIN", "REPORT_SECONDS", "Trial", "check_budget", "free_memory", "is_pretrain_plan", "read_train_config",
    "saving_seconds", "steps_within", "try_steps",
]  # fmt: skip

PRETRAIN = "pretrain"  # the kind that the plan of a run from a recipe tells
MEMORY_SHARE = 0.5  # of the free memory that training may plan with
TIME_SHARE = 0.9  # of what is left of a budget that steps are planned for: later ones may be slower than those measured
TRIAL_SHARE = 0.04  # of a budget that steps are tried for
REPORT_SECONDS = 1.0  # that writing bundle and report takes beside the weights
LEAST_TRIED, MOST_TRIED = 2, 40  # steps; the first is not timed


def free_memory() -> int:
    """Bytes that training may plan with."""
    shared = psutil.virtual_memory().available // ranks_here()
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else shared
    return int(MEMORY_SHARE * free)


def read_train_config(values: Mapping[str, Any], where: str) -> TrainConfig:
    """The loop's configuration from its JSON form.

    Raises:
        UserError: unknown or missing fields.
    """
    optim = from_dict(OptimConfig, values.get("optim", {}), f"{where}: optim")
    return from_dict(TrainConfig, {**values, "optim": optim}, f"{where}: train")


def is_pretrain_plan(run: Path) -> bool:
    """Is the plan of this run that of a run from a recipe?"""
    stored = read_json(run / "plan.json")
    return isinstance(stored, dict) and stored.get("kind") == PRETRAIN


def check_budget(budget: float | None) -> None:
    """Refuse a budget that is no time.

    Raises:
        UserError: not above 0.
    """
    if budget is not None and not 0 < budget < math.inf:
        raise UserError(f"--budget must be above 0 seconds, got {budget}.")


class Trial(NamedTuple):
    """What steps with the run's own loading of data took."""

    seconds: float  # of a step
    state: TrainState  # after the trial, to be thrown away


def try_steps(
    model: nn.Module, config: TrainConfig, objective: Objective, batches: Iterator[Batch], budget: float
) -> Trial:
    """Train a copy of the model for a small part of the budget."""
    state = start(copy.deepcopy(model), config)
    began, marks = time.perf_counter(), []
    while state.step < MOST_TRIED and (batch := next(batches, None)) is not None:
        step_once(state, config, objective, batch)
        state.step += 1
        marks.append(time.perf_counter())
        if state.step >= LEAST_TRIED and marks[-1] - began > TRIAL_SHARE * budget:
            break
    first = marks[0] if len(marks) > 1 else began  # the first waits for the loader to start
    return Trial((marks[-1] - first) / max(1, len(marks) - 1), state)


def saving_seconds(run: Path, state: TrainState) -> float:
    """What a checkpoint of a trial takes to write into the run's folder; nothing of it stays."""
    folder = run / "trial"
    state.best_weights = {name: tensor.clone() for name, tensor in state.current_weights().items()}
    began = time.perf_counter()
    try:
        save_checkpoint(folder, state)
        return time.perf_counter() - began
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def steps_within(budget: float, left: float, seconds: float, wanted: int) -> int:
    """How many of the wanted steps, each taking ``seconds``, fit into the ``left`` of a budget.

    Raises:
        UserError: not even one.
    """
    steps = min(wanted, int(TIME_SHARE * left / seconds))
    if steps < 1:
        raise UserError(
            f"a budget of {duration(budget)} is spent before the first step; one step takes {seconds:.1f} s here. "
            "Allow more, or take a smaller model or image size."
        )
    return steps
