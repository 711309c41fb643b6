"""Sides of a comparison, each in a process of its own that works when it is told.

Runtimes with thread pools and packed weights disturb each other within one process. Requests and answers are lines of JSON; what a
side prints otherwise goes to its log. Standard library only: a side may run in another environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Side", "SideError", "available_mb", "machine", "peak_mb", "serve", "spread"]

PATIENCE = 600.0  # seconds after which a side that says nothing has failed


class SideError(Exception):
    """A side cannot do what it was told; the text says why."""


class Side:
    """A process started by ``command``, whose `serve` answers."""

    def __init__(self, name: str, command: Sequence[str], logs: Path, **environment: str) -> None:
        self.name = name
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}.txt"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **environment}
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer to a request.

        Raises:
            SideError: it refused, died, or said nothing for `PATIENCE` seconds.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(self.process.stdout, selectors.EVENT_READ)
                line = self.process.stdout.readline() if selector.select(PATIENCE) else b""
        except OSError:
            line = b""
        if not line:
            self.process.kill()
            raise SideError(f"it died or hung; see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise SideError(answer["failed"])
        return answer

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.process.stdin.close()
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer requests until there are no more. Standard output belongs to the answers."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # whatever a foreign library raises is for the one who asked
            traceback.print_exc()
            text = str(error).strip().split("\n")[0]
            reply = {"failed": text if isinstance(error, SideError) else f"{type(error).__name__}: {text}"[:300]}
        out.write(json.dumps(reply) + "\n")
        out.flush()


def peak_mb() -> float:
    """Peak resident set of this process, MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def available_mb() -> float:
    """Memory that a new process can have, MB."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024 / 1e6


def spread(count: int, rounds: int) -> set[int]:
    """``count`` of the rounds 0 .. rounds - 1, evenly."""
    return {number for number in range(rounds) if (number + 1) * count // rounds > number * count // rounds}


def machine() -> dict[str, Any]:
    """What a result's reader must know of the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = set(facts.get("flags", "").split())
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    return {
        "processor": facts.get("model name", platform.machine()),
        "cpu": f"family {facts.get('cpu family')} model {facts.get('model')}",
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in known if flag in flags],
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
