"""`vit pretrain` under torchrun: the losses of one process, whoever computes them, stopped and gone on with at will."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from hosts import ADDRESSES, two_hosts
from ranks import torchrun
from shared import ROOT

SMALL = [
    "model.depth=2", "model.embed_dim=32", "model.num_heads=2", "model.mlp_dim=48", "image_size=16", "model.drop_path=0.4",
    "mixing.mixup=0.4", "mixing.cutmix=1", "optim.ema=0.9", "batch_size=12", "steps=6", "evaluations=2", "optim.lr=0.01",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by colour; 7 validation images, which two ranks cannot halve."""
    root = tmp_path_factory.mktemp("stand-in")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4), ("test", 3)):
        for name, colour in (("blue", (30, 60, 200)), ("red", (210, 40, 30))):
            for i in range(count - (split == "val" and name == "red")):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(np.array(colour) + rng.normal(0, 60, (20, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    return root


def command(data: Path, run: Path, *more: str) -> list[str]:
    return [
        "-m",
        "vitkit",
        "pretrain",
        "cifar10_small",
        f"data={data}",
        *SMALL,
        "--workers",
        "0",
        *more,
        "--out",
        str(run),
    ]


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def losses(run: Path) -> list[float]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


def assert_same_run(run: Path, other: Path) -> None:
    assert losses(run) == pytest.approx(losses(other), abs=1e-5)
    mine, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, other))
    assert max((mine[name] - theirs[name]).abs().max() for name in theirs) < 1e-4
    rows = [json.loads((folder / "report.json").read_text())["rows"] for folder in (run, other)]
    assert [(row["metric"], pytest.approx(row["value"], abs=1e-4)) for row in rows[0]] == [
        (row["metric"], row["value"]) for row in rows[1]
    ]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, never stopped."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = alone(*command(data, run))
    assert done.returncode == 0, done.stderr
    assert len(losses(run)) == 6
    return run


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_have_the_losses_of_one_process(kind: str, data: Path, whole: Path, tmp_path: Path) -> None:
    """With accumulation, an average of weights, mixing, augmentation and dropped paths."""
    given = command(data, tmp_path / "run", "--parallel", kind)
    assert json.loads((whole / "plan.json").read_text())["train"]["microbatch_size"] == 6
    done = torchrun(2, *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report    ") == 1  # one rank speaks
    assert_same_run(tmp_path / "run", whole)
    assert sorted(path.name for path in (tmp_path / "run" / "model").iterdir()) == sorted(
        path.name for path in (whole / "model").iterdir()
    )


STOPS = """
import sys
from vitkit.runlog import RunLog
from vitkit.cli.main import main
step = RunLog.on_step
def stop(self, report):
    step(self, report)
    self._stop = report.step == 3 and self.world.rank == self.world.size - 1
RunLog.on_step = stop
sys.exit(main())
"""


@pytest.mark.parametrize(("kind", "first", "then"), [("ddp", 2, 1), ("fsdp2", 2, 1), ("fsdp2", 1, 2), ("ddp", 1, 2)])
def test_a_stopped_run_goes_on_on_another_number_of_ranks(
    kind: str, first: int, then: int, data: Path, whole: Path, tmp_path: Path
) -> None:
    script, run = tmp_path / "stops.py", tmp_path / "run"
    script.write_text(STOPS)
    given = [str(script), *command(data, run, "--parallel", kind)[2:]]
    stopped = torchrun(first, *given) if first > 1 else alone(*given)
    assert stopped.returncode != 0
    assert "stopped at step 3; go on with: vit pretrain --resume" in stopped.stdout
    assert (run / "checkpoints" / "step-3").is_dir() == (kind == "fsdp2" and first == 2)
    resume = ["-m", "vitkit", "pretrain", "--resume", str(run), "--parallel", kind]
    done = torchrun(then, *resume) if then > 1 else alone(*resume)
    assert done.returncode == 0, done.stderr
    assert "resume    from step 3 of 6" in done.stdout
    assert_same_run(run, whole)


DIES = """
import os, signal, sys
from vitkit.runlog import RunLog
from vitkit.cli.main import main
checkpoint = RunLog.on_checkpoint
def die(self, state):
    checkpoint(self, state)
    if state.step == 3 and self.world.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
RunLog.on_checkpoint = die
sys.exit(main())
"""


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_killed_rank_is_replaced_and_the_run_goes_on(kind: str, data: Path, whole: Path, tmp_path: Path) -> None:
    script, run = tmp_path / "dies.py", tmp_path / "run"
    script.write_text(DIES)
    done = torchrun(2, str(script), *command(data, run, "--parallel", kind)[2:], restarts=1)
    assert done.returncode == 0, done.stderr
    assert "rank 0 lost another rank, whose own message says why" in done.stderr
    assert "a bug in vitkit" not in done.stderr
    assert "resume    from step 3 of 6" in done.stdout
    assert_same_run(run, whole)


SLEEPS = """
import signal, sys, time
from vitkit.parallel.world import World
from vitkit.cli.main import main
arrive = World.arrive
def sleep(self, label):
    if label == "step 5" and self.rank == 1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # or torchrun, ending it, waits half a minute for the end of the step
        time.sleep(100)
    arrive(self, label)
World.arrive = sleep
sys.exit(main())
"""


def test_a_rank_that_sleeps_is_named_and_the_checkpoint_stays(data: Path, tmp_path: Path) -> None:
    script, run = tmp_path / "sleeps.py", tmp_path / "run"
    script.write_text(SLEEPS)
    began = time.monotonic()
    done = torchrun(2, str(script), *command(data, run, "--rank-timeout", "10s")[2:], seconds=80)
    assert done.returncode != 0
    assert "rank 1 (process" in done.stderr
    assert "did not come to the end of step 5's passes within" in done.stderr
    assert "--resume goes on from the last checkpoint" in done.stderr
    assert time.monotonic() - began < 70
    assert (run / "checkpoints" / "step-3.json").exists()


SLEEPS_INSIDE = """
import signal, sys, time
from vitkit.objectives.classify import Classify
from vitkit.cli.main import main
import os
loss, calls = Classify.loss, []
def sleep(self, module, batch):
    calls.append(0)
    if os.environ["RANK"] == "1" and len(calls) == 5:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(100)
    return loss(self, module, batch)
Classify.loss = sleep
sys.exit(main())
"""


def test_a_rank_that_hangs_inside_a_step_is_named(data: Path, tmp_path: Path) -> None:
    script, run = tmp_path / "sleeps.py", tmp_path / "run"
    script.write_text(SLEEPS_INSIDE)
    done = torchrun(2, str(script), *command(data, run, "--rank-timeout", "10s")[2:], seconds=80)
    assert done.returncode != 0
    assert "rank 1 (process" in done.stderr
    assert "did not come to the end of step 5's passes within" in done.stderr


def test_another_command_for_the_same_folder_is_refused_at_every_restart(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "report.json").unlink()
    before = (run / "metrics.jsonl").read_bytes()
    done = torchrun(2, *command(data, run, "--rank-timeout", "10s"), "seed=7", restarts=1)
    assert done.returncode != 0
    assert done.stderr.count(f"{run} already exists. Choose another --out") == 2
    assert (run / "metrics.jsonl").read_bytes() == before
    assert "--budget is measured in one process" in torchrun(2, *command(data, tmp_path / "b", "--budget", "9m")).stderr


MEMORY = """
import os, sys
import torch
from vitkit.objectives.classify import Classify
from vitkit.cli.main import main
loss, calls = Classify.loss, []
def short(self, module, batch):
    calls.append(len(batch.labels))
    if os.environ["RANK"] == "1" and len(calls) == 5:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return loss(self, module, batch)
Classify.loss = short
sys.exit(main())
"""


def test_a_rank_out_of_memory_has_all_ranks_do_the_step_again(data: Path, whole: Path, tmp_path: Path) -> None:
    script, run = tmp_path / "memory.py", tmp_path / "run"
    script.write_text(MEMORY)
    done = torchrun(2, str(script), *command(data, run)[2:])
    assert done.returncode == 0, done.stderr
    assert "out of memory at step 5 with 6 images at a time; from here on 3 at a time, with the same 12" in done.stderr
    assert_same_run(run, whole)


def test_a_rank_out_of_memory_with_a_part_of_the_model_says_what_to_change(data: Path, tmp_path: Path) -> None:
    script, run = tmp_path / "memory.py", tmp_path / "run"
    script.write_text(MEMORY)
    done = torchrun(2, str(script), *command(data, run, "--parallel", "fsdp2", "--rank-timeout", "10s")[2:])
    assert done.returncode != 0
    assert (
        "rank 1 ran out of memory at step 5 with 6 images at a time. Halve microbatch_size in the run's plan.json"
        in done.stderr
    )
    assert (run / "checkpoints" / "step-3.json").exists()


NOT_A_NUMBER = """
import os, sys
import torch
from vitkit.jobs import pretrain
from vitkit.cli.main import main
start = pretrain.start
def spoilt(module, *others, **named):
    state = start(module, *others, **named)
    def nan(_, inputs, output):
        return output * float("nan") if os.environ["RANK"] == "1" and state.step == 4 else output
    module.blocks[1].mlp.fc1.register_forward_hook(nan)
    return state
pretrain.start = spoilt
sys.exit(main())
"""


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_what_is_not_a_number_on_one_rank_is_named_by_it(kind: str, data: Path, tmp_path: Path) -> None:
    script, run = tmp_path / "nan.py", tmp_path / "run"
    script.write_text(NOT_A_NUMBER)
    done = torchrun(2, str(script), *command(data, run, "--parallel", kind)[2:])
    assert done.returncode != 0
    assert "the loss became nan at step 5" in done.stderr
    assert "First not finite: the output of blocks.1.mlp.fc1" in done.stderr
    assert "the loss of another rank became nan at step 5." in done.stderr
    assert (run / "nonfinite-step-5-rank-1.safetensors").exists()
    assert (run / "checkpoints" / "step-3.json").exists()


OTHER_DATA = """
import os, sys
from vitkit.cli.main import main
if os.environ["RANK"] == "1":
    sys.argv = [part.replace("data=" + sys.argv[1], "data=" + sys.argv[2]) for part in sys.argv]
sys.argv[1:3] = []
sys.exit(main())
"""


def test_ranks_with_other_data_or_code_are_told(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for path in data.rglob("*.png"):
        place = other / path.relative_to(data)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(place)
    script = tmp_path / "other.py"
    script.write_text(OTHER_DATA)
    done = torchrun(2, str(script), str(data), str(other), *command(data, tmp_path / "run")[2:])
    assert done.returncode != 0
    assert "the ranks do not have the same data: rank 0 has 20 images of 2 classes (" in done.stderr
    assert (
        "Traceback"
        not in done.stderr.split("torch.distributed.elastic")[0].split(
            'Traceback (most recent call last):\n  File "<frozen'
        )[0]
    )
    assert not (tmp_path / "run" / "model").exists()


def test_ctrl_c_ends_all_ranks_after_a_whole_step(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time\nfrom vitkit.runlog import RunLog\nfrom vitkit.cli.main import main\nstep = RunLog.on_step\n"
        "def wait(self, report):\n    step(self, report)\n    time.sleep(1)\nRunLog.on_step = wait\nsys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*launcher, str(slow), *command(data, run)[2:]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and not ((run / "metrics.jsonl").exists() and losses(run)):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "; go on with: vit pretrain --resume" in out
    assert process.returncode != 0
    done = alone("-m", "vitkit", "pretrain", "--resume", str(run))
    assert done.returncode == 0, done.stderr
    assert_same_run(run, whole)


def test_two_hosts_have_the_losses_of_one_process(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0",
        "TP_SOCKET_IFNAME": "eth0",
    }  # fmt: skip
    with two_hosts() as hosts:
        processes = [
            subprocess.Popen(
                ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
                 f"--node-rank={number}", f"--master-addr={ADDRESSES[0]}", "--master-port=29511", *command(data, run)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number, host in enumerate(hosts)
        ]  # fmt: skip
        told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert_same_run(run, whole)
