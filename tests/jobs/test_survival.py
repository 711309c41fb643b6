"""Runs that meet a fault on the way: what the user is told, what stays whole, and how the run goes on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import vitkit
from faults import in_backward
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.finetuning import training
from vitkit.jobs import pretrain as recipe_job
from vitkit.pretraining import plan as recipe_plan
from vitkit.recipes import finetune as finetune_recipe
from vitkit.runlog import RunLog

RECIPE = {
    "steps": 10, "batch_size": 16, "evaluations": 5, "model.depth": 4, "model.embed_dim": 32, "model.num_heads": 2,
    "model.mlp_dim": 64, "model.dropout": 0.0, "model.drop_path": 0.0,
}  # fmt: skip
FINETUNE = {"batch_size": 6, "evaluations": 5, "ema": 0.9, "drop_path": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by colour, train and test."""
    root = tmp_path_factory.mktemp("stand-in")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for name, colour in (("blue", (30, 60, 200)), ("red", (210, 40, 30))):
            for i in range(count):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(np.array(colour) + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    return root


class Job:
    """One kind of run, small; ``said`` is all that the last one printed."""

    def __init__(self, kind: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind, self.data, self.monkeypatch, self.said = kind, data, monkeypatch, ""

    def begin(self, out: Path) -> Path:
        if self.kind == "pretrain":
            settings = {**RECIPE, "optim.ema": 0.9}
            return self._run(vitkit.pretrain, "cifar10_small", data=self.data, out=out, settings=settings, workers=0)
        return self._run(vitkit.finetune, self.data, model="scratch", out=out, settings=FINETUNE, epochs=4, workers=0)

    def resume(self, run: Path) -> Path:
        return self._run(vitkit.pretrain if self.kind == "pretrain" else vitkit.finetune, resume=run)

    def _run(self, verb: Callable[..., Any], *values: Any, **named: Any) -> Path:
        out = io.StringIO()
        try:
            return verb(*values, **named, console=Console(out, out)).run
        finally:
            self.said = out.getvalue()

    def before_step(self, number: int, act: Callable[[Any], Any]) -> None:
        """Call ``act`` with the training state just before a step (1 ..), in the next run only."""
        place: Any = recipe_job if self.kind == "pretrain" else training
        train, on_step = place.train, RunLog.on_step
        patch = pytest.MonkeyPatch()

        def watched(state: Any, *others: Any) -> None:
            def told(log: RunLog, report: Any) -> None:
                on_step(log, report)
                if report.step == number - 1:
                    act(state)

            patch.setattr(RunLog, "on_step", told)
            try:
                train(state, *others)
            finally:
                patch.undo()

        patch.setattr(place, "train", watched)

    def plan(self, run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """(all of plan.json, what the loop obeys in it)."""
        plan = json.loads((run / "plan.json").read_text())
        return plan, plan["train"]


@pytest.fixture(params=["pretrain", "finetune"])
def job(request: pytest.FixtureRequest, data: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    for place in (
        recipe_plan,
        finetune_recipe,
    ):  # bfloat16 rounds the gradient of each part, to about 1e-4 of the losses here
        monkeypatch.setattr(place, "best_precision", lambda: ("fp32", True))
    return Job(request.param, data, monkeypatch)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def stop(_: Any) -> None:
    raise RuntimeError("killed")


def test_a_run_out_of_memory_at_step_5_has_the_losses_of_one_that_was_not(job: Job, tmp_path: Path) -> None:
    whole = job.begin(tmp_path / "whole")
    job.before_step(5, lambda state: in_backward(state.model.blocks[1].attn, 3))
    run = job.begin(tmp_path / "run")
    size = job.plan(run)[1]["microbatch_size"]
    assert f"warning: out of memory at step 5 with {size} images at a time; from here on " in job.said
    assert losses(run) == pytest.approx(losses(whole), abs=1e-5)
    newest = max((run / "checkpoints").glob("*.json"), key=lambda path: int(path.stem[5:]))
    assert json.loads(newest.read_text())["microbatch_size"] == {8: 2, 6: 3}[size]


def test_the_smaller_size_is_what_a_resumed_run_goes_on_with(job: Job, tmp_path: Path) -> None:
    sizes: list[int] = []
    save = RunLog.on_checkpoint

    def shrink_and_die(state: Any) -> None:
        in_backward(state.model.blocks[1].attn, 3)
        job.monkeypatch.setattr(RunLog, "on_checkpoint", saved_then(stop))

    def saved_then(act: Callable[[Any], None]) -> Callable[[RunLog, Any], None]:
        def both(log: RunLog, state: Any) -> None:
            save(log, state)
            if state.microbatch_size < 4:
                act(state)

        return both

    job.before_step(3, shrink_and_die)
    with pytest.raises(RuntimeError, match="killed"):
        job.begin(tmp_path / "run")
    job.monkeypatch.setattr(RunLog, "on_checkpoint", save)
    after = json.loads(max((tmp_path / "run" / "checkpoints").glob("*.json")).read_text())["step"] + 1
    job.before_step(after + 1, lambda state: sizes.append(state.microbatch_size))
    job.resume(tmp_path / "run")
    assert sizes == [{"pretrain": 2, "finetune": 3}[job.kind]]
    assert "out of memory" not in job.said


def test_nan_in_block_3_is_named_and_a_lower_rate_goes_on_from_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("pretrain", data, monkeypatch)
    run = tmp_path / "run"
    before: dict[str, str] = {}

    def break_(state: Any) -> None:
        before.update(files(run / "checkpoints"))
        state.model.blocks[3].mlp.fc1.register_forward_hook(lambda m, i, o: torch.where(o == o.max(), float("nan"), o))

    job.before_step(6, break_)
    with pytest.raises(UserError) as caught:
        job.begin(run)
    assert re.fullmatch(
        r"the loss became nan at step 6 \(learning rate \S+\)\. First not finite: the output of blocks\.3\.mlp\.fc1; the batch "
        r"and all weights are finite\. This step updated nothing, and nothing was released from this run\. "
        rf"The batch is saved in {run}/nonfinite-step-6\.safetensors\. The checkpoint of step 4 is untouched; "
        rf"vit pretrain --resume {run} goes on from it\. It comes to this step again: first lower lr, under optim in its "
        r"plan\.json\.",
        str(caught.value),
    )
    assert files(run / "checkpoints") == before
    assert list(before) == ["step-2.json", "step-2.safetensors", "step-4.json", "step-4.safetensors"]
    batch = load_file(run / "nonfinite-step-6.safetensors")
    assert batch["images"].shape == (16, 3, 32, 32)
    assert batch["places"].tolist() == list(range(80, 96))
    assert len(batch["labels"]) == 16
    plan, obeyed = job.plan(run)
    obeyed["optim"]["lr"] /= 10
    (run / "plan.json").write_text(json.dumps(plan))
    job.resume(run)
    assert "resume    from step 4 of 10" in job.said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["lr"] for line in lines if "lr" in line}
    assert list(rates) == list(range(1, 11))
    assert rates[5] < rates[4] / 5


def test_a_fine_tuning_run_with_a_bad_gradient_says_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("finetune", data, monkeypatch)
    run = tmp_path / "run"

    def break_(state: Any) -> None:
        state.model.get_parameter("blocks.1.attn.qkv.bias").register_hook(lambda gradient: gradient / 0)

    job.before_step(2, break_)
    with pytest.raises(UserError, match=r"norm became .* at step 2 .*: the gradient of blocks\.1\.attn\.qkv\.bias;"):
        job.begin(run)
    assert (run / "nonfinite-step-2.safetensors").is_file()
    plan, obeyed = job.plan(run)
    obeyed["optim"]["lr"] /= 10
    (run / "plan.json").write_text(json.dumps(plan))
    job.resume(run)
    assert (run / "report.html").is_file()


def test_where_the_batch_cannot_be_saved_the_cause_is_still_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("pretrain", data, monkeypatch)

    def break_(state: Any) -> None:
        (tmp_path / "run" / "nonfinite-step-2.safetensors").mkdir()
        state.model.blocks[0].register_forward_hook(lambda m, i, o: o * float("nan"))

    job.before_step(2, break_)
    with pytest.raises(
        UserError, match=r"the output of blocks\.0; .* The batch is not saved: cannot write .*There is no chec"
    ):
        job.begin(tmp_path / "run")


def test_a_checkpoint_cut_short_is_refused_with_the_way_out_and_the_way_out_leads_to_the_same_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job("pretrain", data, monkeypatch)
    whole = job.begin(tmp_path / "whole")
    job.before_step(8, stop)
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        job.begin(run)
    newest = run / "checkpoints" / "step-6.safetensors"
    os.truncate(newest, 1000)
    assert main(["pretrain", "--resume", str(run)]) == 1
    said = capsys.readouterr().err
    assert f"{newest} is cut short: 1000 of its " in said
    assert (
        f"The previous checkpoint, of step 4, is whole: remove {newest} and resume again to go on from there." in said
    )
    newest.unlink()
    job.resume(run)
    assert "resume    from step 4 of 10" in job.said
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    one, two = (load_file(r / "model" / "model.safetensors") for r in (whole, run))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_full_disk_stops_with_the_last_checkpoint_and_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("pretrain", data, monkeypatch)
    whole = job.begin(tmp_path / "whole")
    run = tmp_path / "run"
    patch = pytest.MonkeyPatch()

    def fill(_: Any) -> None:
        from vitkit import checkpoint

        write_file = checkpoint.write_file

        def full(path: Path, content: bytes) -> None:
            with patch.context() as inner:
                inner.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
                write_file(path, content)

        patch.setattr(checkpoint, "write_file", full)

    job.before_step(6, fill)
    with pytest.raises(UserError) as caught:
        job.begin(run)
    patch.undo()
    assert str(caught.value) == (
        f"cannot write {run}/checkpoints/step-6.safetensors: No space left on device. Free space or choose another place. "
        f"The checkpoint of step 4 is untouched; vit pretrain --resume {run} goes on from it."
    )
    job.resume(run)
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_the_log_of_a_stopped_run_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming rewrites it up to the checkpoint; a process killed right then must not lose the lines before."""
    from test_trackers import CONFIG

    lines = "".join(json.dumps({"step": n, "loss": 1.0, "lr": 0.1}) + "\n" for n in range(1, 6))
    (tmp_path / "metrics.jsonl").write_text(lines)

    def killed(_: int) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        RunLog(tmp_path, CONFIG, 3, lambda *_: None, "", Console(io.StringIO())).__enter__()  # type: ignore[arg-type,return-value]
    assert (tmp_path / "metrics.jsonl").read_text() == lines
