"""An engine in a process of its own, that computes when it is told to: so that thread pools and packed weights of one engine
disturb no other, and memory is told of each.

The process reads a line of JSON for each request and answers with one. Importing this imports no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vitkit.config import UserError

__all__ = ["Apart", "ApartError", "main", "peak_memory"]

Array = np.ndarray[Any, Any]
SIGN = "APART "  # begins an answer; libraries may print what they like
PART = 32  # images that are answered at once


class ApartError(Exception):
    """The process refused, failed, ended or was too slow; the text says which."""


class Apart:
    """The process. Ask it; leave the ``with`` block to end it."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vitkit.engines.measured.apart"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            ApartError: it was refused, failed, or took longer than ``timeout`` seconds; the process may then be at its end.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout)
        except OSError:  # the pipe has no reader any more
            line = None
        except queue.Empty:
            self._process.kill()
            self._process.wait()
            raise ApartError(f"it took longer than {timeout:.0f} s") from None
        if line is None:
            raise ApartError(self._end())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ApartError(answer["error"])
        return answer

    @property
    def ended(self) -> bool:
        """Is the process over?"""
        return self._process.poll() is not None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(SIGN):
                self._lines.put(line.removeprefix(SIGN))
        self._lines.put(None)

    def _end(self) -> str:
        """How the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._errors.seek(0)
        said = [line for line in self._errors.read().splitlines() if line.strip()]
        code = self._process.returncode
        killed = " (killed: perhaps there was not enough memory)" if code == -9 else ""
        return f"its process ended with {code}{killed}{': ' + said[-1] if said else ''}"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(1)  # the pipe is at its end
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()


class _Process:
    """What the process holds between requests."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.images: Array = np.empty((0, 3, 1, 1), np.float32)  # (n, C, H, W)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        work = {"make": self.make, "time": self.time, "outputs": self.outputs, "peak": self.peak}[request["do"]]
        return work(request)

    def make(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load the bundle folder ``bundle``, that was read from ``place``, or the artefact there, into ``engine``."""
        from vitkit.artefact import find_artefact, read_artefact

        began = time.perf_counter()
        self.images = np.load(request["images"], mmap_mode="r")
        if folder := find_artefact(Path(request["bundle"])):
            from vitkit.engines.exported import exported_engine

            self.engine = exported_engine(read_artefact(folder), request["engine"], request["precision"])
        else:
            from vitkit.bundle import Bundle
            from vitkit.engines.book import make_engine

            bundle = Bundle.read(request["bundle"])
            bundle.place = Path(request["place"]) if request["place"] else None
            self.engine = make_engine(bundle, request["engine"], request["precision"])
        return {
            "facts": self.engine.facts._asdict(), "seconds": time.perf_counter() - began, "memory": peak_memory(),
        }  # fmt: skip

    def time(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Seconds of each call with ``batch`` images, for ``seconds`` and at least ``calls`` times, after one uncounted."""
        batch = request["batch"]
        images = np.ascontiguousarray(self.images[np.arange(batch) % len(self.images)])
        times: list[float] = []
        self.engine(images)
        began = time.perf_counter()
        while len(times) < request["calls"] or time.perf_counter() - began < request["seconds"]:
            start = time.perf_counter()
            self.engine(images)
            times.append(time.perf_counter() - start)
        return {"times": times, "memory": peak_memory(), "device_memory": _device_memory()}

    def outputs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write the logits of the first ``count`` images to the file ``out``."""
        began = time.perf_counter()
        count = min(request["count"], len(self.images))
        parts = [self.engine(np.ascontiguousarray(self.images[at : min(at + PART, count)])).logits
                 for at in range(0, count, PART)]  # fmt: skip
        np.save(request["out"], np.concatenate(parts))
        return {"seconds": time.perf_counter() - began, "memory": peak_memory()}

    def peak(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """`matrix_peak` of ``precision``."""
        from vitkit.engines.measured.machine import matrix_peak

        return matrix_peak(request["precision"], seconds=request["seconds"])._asdict()


def peak_memory() -> int | None:
    """The most bytes that this process had in memory so far; None where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return None


def _device_memory() -> int | None:
    """The most bytes of a GPU's memory so far; None where none is used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_reserved())


def main() -> None:
    """Answer the requests on standard input until it ends."""
    process = _Process()
    for number in itertools.count():
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:  # the terminal's; who asks is interrupted as well
            return
        if not line:
            return
        try:
            answer = process.answer(json.loads(line))
        except UserError as error:
            answer = {"error": str(error)}
        except KeyboardInterrupt:
            return
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error} (request {number + 1})"}
        print(f"\n{SIGN}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
