"""A run that is killed at any moment ends, when it is resumed, as one that never was: every phase, source and way to load."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from killing import facts_of, run_child, write_data

FINETUNE: dict[str, Any] = {
    "model": "scratch",
    "epochs": 2,
    "settings": {"batch_size": 8, "evaluations": 3, "ema": 0.9},
}
PRETRAIN: dict[str, Any] = {
    "recipe": "cifar10_small",
    "settings": {
        "steps": 6, "batch_size": 8, "evaluations": 3, "model.depth": 1, "model.embed_dim": 32, "model.num_heads": 2,
        "model.mlp_dim": 32, "mixing.mixup": 0.4, "optim.ema": 0.9,
    },
}  # fmt: skip
AUDIT, SURVEY = "call vitkit.finetuning.data:scan 1", "call vitkit.finetuning.data:survey 1"
PROBE, READ = "call vitkit.jobs.finetune:run_probe 1", "call vitkit.jobs.pretrain:read_recipe_data 1"
PLAN = "call vitkit.finetuning.plan:measure 1", "call vitkit.pretraining.plan:measure 1"
STEP, LOG = (
    "call vitkit.train:clip_gradients 5",
    "call vitkit.runlog:RunLog._write 1",
)  # mid-step; before a resumed run's first line
HALF, WHOLE = "half step-*.safetensors", "before step-*.safetensors"
MARK, MARKED = "before step-*.json", "after step-*.json"
EVALUATE = "call vitkit.finetuning.validation:Validation.__call__ 2"
WATCH = "call vitkit.jobs.pretrain:_Watch.__call__ 2"
RELEASE, UNKNOWN = "call vitkit.jobs.finetune:release 1", "call vitkit.finetuning.release:fit_unknown 1"
RELEASED, SCORE = "call vitkit.jobs.pretrain:released 1", "call vitkit.jobs.pretrain:score_samples 1"
WEIGHTS, CONFIG, TRAINING = "half model.safetensors", "before config.json", "before training.json"
DONE = "after report.json"
# Each row is one run: its data, its workers, and the moments at which it is killed, one after the other.
ROWS = [
    ("finetune", "folder", 0, ("before arguments.json", AUDIT, STEP, HALF, WEIGHTS)),
    ("finetune", "parquet", 2, (SURVEY, "half plan.json", WHOLE, LOG, "before model")),
    ("finetune", "tar", 0, ("before split.json", MARK, EVALUATE, "after model", DONE)),
    ("finetune", "folder", 2, (PROBE, MARKED, UNKNOWN, "half report.html")),
    ("finetune", "parquet", 0, ("before plan.json", STEP, CONFIG, TRAINING, "before report.json")),
    ("finetune", "tar", 2, (PLAN[0], HALF, RELEASE, "after predictions.csv")),
    ("pretrain", "folder", 0, ("after command.txt", "before plan.json", WHOLE, MARK, "before model")),
    ("pretrain", "parquet", 2, ("before arguments.json", "half plan.json", STEP, MARKED, LOG)),
    ("pretrain", "tar", 0, (READ, HALF, LOG, WEIGHTS, DONE)),
    ("pretrain", "folder", 2, (PLAN[1], MARK, CONFIG, "half report.html")),
    ("pretrain", "parquet", 0, ("call vitkit.jobs.pretrain:first_model 1", WATCH, TRAINING, "before report.json")),
    ("pretrain", "tar", 2, ("after plan.json", MARKED, RELEASED, SCORE)),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(options, facts of a run that nothing stopped), made once for each job and kind of source."""
    made: dict[tuple[str, str], Any] = {}

    def make(verb: str, kind: str) -> Any:
        if (verb, kind) not in made:
            root = tmp_path_factory.mktemp(f"{verb}-{kind}")
            counts = {"train": 8, "test": 3} if verb == "finetune" else {"train": 8, "val": 3, "test": 3}
            data = write_data(root / "colours", kind, counts)
            options = {**(FINETUNE if verb == "finetune" else PRETRAIN), "data": data, "workers": 0}
            code, said = run_child(verb, root / "said", out=root / "whole", **options)
            assert code == 0, said
            made[verb, kind] = options, facts_of(root / "whole")
        return made[verb, kind]

    return make


@pytest.mark.parametrize(("verb", "kind", "workers", "points"), ROWS, ids=[f"{v}-{k}-{w}" for v, k, w, _ in ROWS])
def test_a_killed_run_ends_as_if_nothing_had_happened(
    verb: str, kind: str, workers: int, points: tuple[str, ...], tmp_path: Path, undisturbed: Any
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    options, expected = undisturbed(verb, kind)
    run, said = tmp_path / "killed", tmp_path / "said"
    options = {**options, "workers": workers}
    for point in points:
        begun = (run / "arguments.json").exists()
        how = {"resume": run} if begun else {**options, "out": run}
        assert run_child(verb, said, point, **how) == (-9, ""), f"{point} was not reached"
    code, text = run_child(verb, said, resume=run)
    assert code == 0
    assert "error" not in text, text
    assert ("is finished; nothing to do" in text) == (points[-1] == DONE)
    found = facts_of(run)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert not list(run.rglob("*.partial"))
    assert len(list((run / "checkpoints").iterdir())) == 4  # the newest and the one before


def test_loader_processes_end_with_their_killed_parent(tmp_path: Path) -> None:
    data = write_data(tmp_path / "colours", "folder", {"train": 8}, side=256)
    large = {"image_size": (256, 256), "model.patch_size": (64, 64), "steps": 40}  # batches that do not fit into a pipe
    options = {**PRETRAIN, "settings": {**PRETRAIN["settings"], **large}, "data": data, "workers": 2}
    point = "call vitkit.train:clip_gradients 6"
    assert run_child("pretrain", tmp_path / "said", point, out=tmp_path / "run", **options)[0] == -9
    left = {int(pid) for pid in (tmp_path / "said.children").read_text().split()}
    assert len(left) == 2
    deadline = time.monotonic() + 1.0
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = {pid for pid in left if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}
    assert not left
