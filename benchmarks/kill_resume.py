"""Kill runs at random moments (SIGKILL of the whole process group), resume them, and compare with an undisturbed run.

    python benchmarks/kill_resume.py [--kills 20] [--seed 0] [--job finetune|pretrain]

The real commands run as subprocesses on small generated data as class folders, Parquet tables and tar files, with 0 and 2 loader
processes in turn. Moments are spread over the time that an undisturbed run takes from its first file on, one drawn from each
part of it, and one from before; every third run is killed twice more as it resumes. A run is identical where the released
weights, log and predictions are the same bytes and all numbers of report.json but times are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from killing import facts_of, write_data

JOBS = {
    "finetune": ["--epochs", "4", "--set", "batch_size=8", "--set", "evaluations=6", "--set", "ema=0.9"],
    "pretrain": ["steps=30", "batch_size=12", "evaluations=6", "model.depth=2", "model.embed_dim=32", "model.num_heads=2",
                 "model.mlp_dim=64", "mixing.mixup=0.4", "optim.ema=0.9"],
}  # fmt: skip
KINDS, WORKERS = ("folder", "parquet", "tar"), (0, 2)
VIT = [sys.executable, "-c", "import sys; from vitkit.cli.main import main; sys.exit(main())"]


def command(job: str, data: Path, out: Path, workers: int) -> list[str]:
    first = [str(data)] if job == "finetune" else ["cifar10_small", f"data={data}"]
    return [*VIT, job, *first, *JOBS[job], "--out", str(out), "--workers", str(workers)]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            pass
    return found


def phase(run: Path) -> str:
    """What the run was doing, by what it left."""
    if list(run.rglob("*.partial")):
        return "between temporary file and rename"
    if (run / "report.json").exists():
        return "finished"
    if not (run / "arguments.json").exists():
        return "start of Python"
    if (run / "report.html").exists():
        return "report"
    if (run / "model").exists():
        return "scoring the bundle"
    steps = run / "metrics.jsonl"
    if steps.exists():
        done = sum('"loss"' in line for line in steps.read_text(encoding="utf-8").splitlines())
        planned = json.loads((run / "plan.json").read_text(encoding="utf-8"))["train"]["steps"]
        return "steps and evaluations" if done < planned else "after the last step: calibration, bundle"
    if (run / "plan.json").exists():
        return "before the first step"
    return "probe, plan" if (run / "split.json").exists() else "reading, audit, plan"


def killed(words: list[str], moment: float, parent_only: bool, log: Path) -> bool:
    """Run and kill at a moment; the loader's processes too, or only their parent. False where it had ended by itself."""
    process = start(words, log)
    try:
        process.wait(moment)
        return False
    except subprocess.TimeoutExpired:
        (os.kill if parent_only else os.killpg)(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 1.0
    while (left := members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        raise SystemExit(f"processes are left a second after the kill: {left}")
    return True


def undisturbed(words: list[str], run: Path, log: Path) -> tuple[float, float]:
    """Seconds until the run's first file, and of all of it."""
    began, first = time.perf_counter(), 0.0
    process = start(words, log)
    while process.poll() is None:
        if not first and (run / "arguments.json").exists():
            first = time.perf_counter() - began
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(log.read_text(encoding="utf-8"))
    return first, time.perf_counter() - began


def finish(words: list[str], log: Path) -> None:
    process = start(words, log)
    if process.wait(300):
        raise SystemExit(f"exit code {process.returncode} of {' '.join(words)}:\n{log.read_text(encoding='utf-8')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="runs of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=JOBS, help="only this one")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        root, log = Path(folder), Path(folder) / "log"
        sets = {kind: write_data(root / kind / "colours", kind, {"train": 12, "val": 4, "test": 4}) for kind in KINDS}
        for job in [given.job] if given.job else JOBS:
            whole, first, seconds = {}, 0.0, 0.0
            for kind, data in sets.items():
                run = root / f"{job}-{kind}"
                first, seconds = undisturbed(command(job, data, run, 0), run, log)
                whole[kind] = facts_of(run)
            print(f"{job}: {seconds:.1f} s undisturbed, {first:.1f} s to its first file", flush=True)
            for number in range(given.kills):
                kind, workers = KINDS[number % 3], WORKERS[number // 3 % 2]
                run = root / f"{job}-{number}"
                words = command(job, sets[kind], run, workers)
                hit = []
                moment = first + (seconds - first) * (number - 1 + rng.random()) / (given.kills - 1)
                for _ in range(3 if number % 3 == 2 else 1):
                    if not killed(words, moment, number % 2 == 1, log):
                        break
                    hit.append(f"{moment:.1f} s: {phase(run)}")
                    moment = first + (seconds - first) * rng.random()
                    if (run / "arguments.json").exists():
                        words = [*VIT, job, "--resume", str(run)]
                if (run / "arguments.json").exists():
                    words = [*VIT, job, "--resume", str(run)]
                finish(words, log)
                found = facts_of(run)
                other = [name for name in whole[kind] if found.get(name) != whole[kind][name]]
                left = [path.name for path in run.rglob("*.partial")]
                different += bool(other or left)
                verdict = "identical" if not other and not left else f"DIFFERENT: {', '.join(other + left)}"
                print(
                    f"{number + 1:3} {kind:8} workers {workers}  {verdict}  killed at {'; '.join(hit) or 'none: ended'}",
                    flush=True,
                )
    print(f"{different} runs differ")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
