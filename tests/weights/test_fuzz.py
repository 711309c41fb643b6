"""Ten thousand damaged files of every kind: each is read or refused; no other exception, crash, hang or large allocation."""

from __future__ import annotations

import json
import subprocess
import sys

from shared import ROOT


def test_ten_thousand_damaged_files_are_read_or_refused() -> None:
    script = ROOT / "benchmarks" / "fuzz_weights.py"  # limits its own memory and the time of each file
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    facts = json.loads(done.stdout)
    assert facts["read"] + facts["refused"] == 10_000
    assert facts["read"] > 200
    assert facts["refused"] > 5000
    assert facts["slowest"] < 10
    assert facts["grown_mib"] < 200
