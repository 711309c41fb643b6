"""Runs test code on several ranks, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from shared import ROOT

PRELUDE = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from vitkit.parallel.world import session
OUT = Path(sys.argv[1])
def keep(world, value):
    (OUT / f"rank-{world.rank}.json").write_text(json.dumps(value))
"""
# As the command line ends: threads of a process group can abort a finished process as it is torn down.
END = """
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
"""


def torchrun(ranks: int, *command: str, restarts: int = 0, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run ``command``, arguments of python, on ranks of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    environment.pop("RANK", None)
    return subprocess.run(
        [*launcher, f"--max-restarts={restarts}", *command],
        env=environment, capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip


def on_ranks(ranks: int, code: str, out: Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run ``code`` after PRELUDE on each rank; ``keep(world, value)`` leaves a value for `kept`."""
    script = out / "ranks.py"
    script.write_text(PRELUDE + textwrap.dedent(code) + END)
    return torchrun(ranks, str(script), str(out), seconds=seconds)
