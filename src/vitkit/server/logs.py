"""What happened, a line each: never what is in an image, nor what its file is called."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from vitkit.config import UserError, did_you_mean

__all__ = ["FORMATS", "Log"]

FORMATS = ("text", "json")


class Log:
    """Lines of JSON, or the same as ``name=value`` for people."""

    def __init__(self, kind: str = "text", stream: TextIO | None = None) -> None:
        if kind not in FORMATS:
            raise UserError(f"--log-format is {kind!r}; known: {', '.join(FORMATS)}.{did_you_mean(kind, FORMATS)}")
        self.kind, self._stream, self._lock = kind, stream, threading.Lock()

    def write(self, event: str, facts: Mapping[str, Any]) -> None:
        """One line. A reader that went away stops nothing."""
        now = time.time()
        if self.kind == "json":
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
            line = json.dumps({"time": stamp, "event": event, **facts})
        else:
            shown = " ".join(f"{name}={json.dumps(value)}" for name, value in facts.items())
            line = f"{time.strftime('%H:%M:%S', time.localtime(now))} {event} {shown}"
        try:
            with self._lock:
                stream = self._stream or sys.stderr
                stream.write(line + "\n")
                stream.flush()
        except (OSError, ValueError):
            return
