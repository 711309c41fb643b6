"""Other programs' logs of a run: TensorBoard, Weights & Biases, MLflow. Used only where asked for, imported only then.

Nothing leaves the machine unless the user's own settings of these programs say so.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vitkit.config import UserError, did_you_mean

__all__ = ["TRACKERS", "Tracker", "check_trackers", "open_trackers"]


class Tracker(Protocol):
    """Where a run's numbers go beside ``metrics.jsonl``."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class _TensorBoard:
    """Event files in the run's ``tensorboard`` folder."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a resumed run will write again is hidden.
        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A W&B run, offline in the run's ``wandb`` folder unless WANDB_MODE says otherwise."""

    def __init__(self, run: Path, _: int) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb: Any = importlib.import_module("wandb")
        # One id for all parts of a run that was stopped and resumed.
        self._run: Any = wandb.init(project="vitkit", name=run.name, dir=str(run), id=_identity(run), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """An MLflow run, in the run's ``mlflow.db`` unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, run: Path, step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = self._mlflow = importlib.import_module("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{run.resolve() / 'mlflow.db'}")
        mlflow.set_experiment("vitkit")
        known = run / "mlflow-run-id"
        old = known.read_text().strip() if step and known.exists() else None
        started = mlflow.start_run(run_id=old) if old else mlflow.start_run(run_name=run.name)
        known.write_text(started.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}


def _identity(run: Path) -> str:
    return hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:16]


def check_trackers(names: Sequence[str]) -> None:
    """Can all of them be used here?

    Raises:
        UserError: an unknown name, or a program that is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"no logger {name!r}; known: {', '.join(TRACKERS)}.{did_you_mean(name, TRACKERS)}")
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise UserError(f"logging to {name} was asked for, and it is not installed: pip install {name}")


def open_trackers(names: Sequence[str], run: Path, step: int) -> dict[str, Tracker]:
    """Begin to log a run, or go on after ``step``.

    Raises:
        UserError: an unknown name, a program that is not installed, or one that does not start.
    """
    check_trackers(names)
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = TRACKERS[name](run, step)
        except Exception as error:
            for tracker in opened.values():
                tracker.close()
            raise UserError(f"{name} does not start: {error}. Mend it, or leave it out.") from None
    return opened
