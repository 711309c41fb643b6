"""Other programs' logs: only what was asked for is imported, nothing goes out unless the user's settings say so."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.runlog import Evaluated, RunLog
from vitkit.trackers import TRACKERS, check_trackers, open_trackers
from vitkit.train import StepReport, TrainConfig

CONFIG = TrainConfig(
    steps=4, batch_size=8, microbatch_size=8, seed=0, eval_every=2, patience=0, precision="fp32", fused_attention=True
)


class Recorder:
    """Stands in for each program; keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.calls.append((name, *values, *sorted(named.items())))


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def fake(name: str, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Install a stand-in for a program; TensorBoard's is torch's module around it."""
    seen, module = Recorder(), ModuleType(name)
    if name == "tensorboard":
        inner = ModuleType("torch.utils.tensorboard")
        inner.SummaryWriter = lambda *a, **k: seen.calls.append(("open", *a, *sorted(k.items()))) or seen  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", inner)
    elif name == "wandb":

        def init(**named: Any) -> Recorder:
            seen.calls.append(("init", os.environ["WANDB_MODE"], *sorted(named.items())))
            return seen

        module.init = init  # type: ignore[attr-defined]
    else:
        for call in ("set_tracking_uri", "set_experiment", "log_metrics", "end_run"):
            setattr(module, call, getattr(seen, call))

        def start_run(**named: Any) -> Any:
            seen.calls.append(("start_run", *sorted(named.items())))
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        module.start_run = start_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return seen


def log(run: Path, names: tuple[str, ...], steps: range, console: Console | None = None) -> None:
    """A run's log over some steps, with an evaluation after each second one."""

    def evaluate(weights: Any, step: int) -> Evaluated:
        return Evaluated({"top1": 0.5}, "val", "", 0.5, 0.4)

    run.mkdir(exist_ok=True)
    with RunLog(run, CONFIG, steps.start, evaluate, "vit again", console or Console(io.StringIO()), names) as hooks:
        for step in steps:
            hooks.on_step(StepReport(step + 1, 1 / (step + 1), 0.25, 1.0, 0.0))
            if step % 2:
                hooks.evaluate({}, step + 1)


def test_tensorboard_gets_every_step_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake("tensorboard", monkeypatch)
    log(tmp_path / "run", ("tensorboard",), range(2))
    log(tmp_path / "run", ("tensorboard",), range(1, 2))
    folder = str(tmp_path / "run" / "tensorboard")
    second = [
        ("add_scalar", "train/loss", 0.5, 2), ("add_scalar", "train/lr", 0.25, 2), ("add_scalar", "val/top1", 0.5, 2), ("close",),
    ]  # fmt: skip
    assert seen.calls == [
        ("open", folder, ("purge_step", None)),
        ("add_scalar", "train/loss", 1.0, 1),
        ("add_scalar", "train/lr", 0.25, 1),
        *second,
        ("open", folder, ("purge_step", 2)),
        *second,
    ]


def test_wandb_stays_offline_unless_the_user_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake("wandb", monkeypatch)
    log(tmp_path / "run", ("wandb",), range(1))
    name, mode, *settings = seen.calls[0]
    assert (name, mode) == ("init", "offline")
    assert dict(settings)["resume"] == "allow"
    assert dict(settings)["dir"] == str(tmp_path / "run")
    assert seen.calls[1:] == [("log", {"train/loss": 1.0, "train/lr": 0.25}, ("step", 1)), ("finish",)]
    monkeypatch.setenv("WANDB_MODE", "online")
    log(tmp_path / "run", ("wandb",), range(1, 2))
    again = next(call for call in seen.calls[2:] if call[0] == "init")
    assert again[1] == "online"
    assert dict(again[2:])["id"] == dict(settings)["id"]


def test_mlflow_writes_into_the_run_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = fake("mlflow", monkeypatch)
    log(tmp_path / "run", ("mlflow",), range(1))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert seen.calls == [
        ("set_tracking_uri", f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}"),
        ("set_experiment", "vitkit"),
        ("start_run", ("run_name", "run")),
        ("log_metrics", {"train/loss": 1.0, "train/lr": 0.25}, ("step", 1)),
        ("end_run",),
    ]
    seen.calls.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    log(tmp_path / "run", ("mlflow",), range(1, 2))
    assert seen.calls[:2] == [("set_experiment", "vitkit"), ("start_run", ("run_id", "abc"))]


def test_what_is_not_there_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in TRACKERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(
            UserError, match=f"logging to {name} was asked for, and it is not installed: pip install {name}"
        ):
            check_trackers([name])
    with pytest.raises(UserError, match=r"no logger 'tensorbord'; known: .* Did you mean 'tensorboard'\?"):
        open_trackers(["tensorbord"], tmp_path, 0)


def test_one_that_does_not_start_is_told_and_the_others_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, broken = fake("wandb", monkeypatch), fake("mlflow", monkeypatch)

    def fail(name: str) -> None:
        raise RuntimeError("no server")

    sys.modules["mlflow"].set_experiment = fail  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"mlflow does not start: no server\. Mend it, or leave it out\."):
        open_trackers(["wandb", "mlflow"], tmp_path, 0)
    assert first.calls[-1] == ("finish",)
    assert broken.calls


def test_one_that_fails_on_the_way_is_dropped_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = fake("wandb", monkeypatch)

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is gone")

    seen.log = fail  # type: ignore[method-assign]
    err = io.StringIO()
    log(tmp_path / "run", ("wandb",), range(4), Console(io.StringIO(), err))
    assert err.getvalue() == (
        "warning: wandb gets no more of this run: the server is gone. metrics.jsonl has everything.\n"
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_itself_reads_what_was_written(tmp_path: Path) -> None:
    log(tmp_path / "run", ("tensorboard",), range(4))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("val/top1")] == [0.5, 0.5]
