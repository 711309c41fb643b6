"""Servers for tests: real ones on a free port of this machine, and engines that answer when they are let."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pictures import encoded
from vitkit.answers import Answers, Outputs
from vitkit.data.pixels import Preprocess
from vitkit.engines.engine import EngineFacts
from vitkit.engines.kept.ready import Ready
from vitkit.server import models
from vitkit.server.app import create_app
from vitkit.server.limits import Limits
from vitkit.server.logs import Log
from vitkit.server.running import Running, address_of, listen

__all__ = ["KIND", "PNG", "ROUTE", "Asked", "Gate", "Live", "drained", "error", "gated", "head", "live", "until"]

PNG = encoded(Image.new("RGB", (8, 8), (250,) * 3))
ROUTE = "/v1/models/gate:predict"
KIND = {"Content-Type": "image/png"}


class Live:
    """A server that runs."""

    def __init__(self, running: Running, url: str, log: StringIO, thread: threading.Thread) -> None:
        self.running, self.url, self.log, self.thread = running, url, log, thread
        self.state = running.state
        self.http = httpx.Client(base_url=url, timeout=20)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def lines(self, event: str = "request") -> list[dict[str, Any]]:
        """What was logged."""
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]

    def raw(self, data: bytes, *, seconds: float = 10) -> bytes:
        """What comes back for bytes on a connection of its own, until the server closes it or so many seconds passed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            return drained(connection)


def drained(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except (TimeoutError, ConnectionError):
        pass
    return found


@contextmanager
def live(
    given: Sequence[str | Path], *, reload: bool = False, limits: Limits | None = None, **options: Any
) -> Iterator[Live]:
    """A server in a thread."""
    log, ready = StringIO(), threading.Event()
    app = create_app(given, limits=limits, log=Log("json", log), **options)
    bound = listen("127.0.0.1", 0)
    running = Running(app, bound, reload=reload, started=ready.set)
    thread = threading.Thread(target=running.run)
    thread.start()
    found = Live(running, address_of(bound), log, thread)
    try:
        assert ready.wait(20)
        yield found
    finally:
        found.http.close()
        running.stop()
        thread.join(20)
        assert not thread.is_alive()


def until(true: Any, seconds: float = 10) -> None:
    """Wait for something that is to happen."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Gate:
    """An engine whose threads wait until they are let through. An image's first logit is its mean; it counts what it computed."""

    def __init__(
        self, *, threads: int = 1, together: int = 4, open: bool = False, fault: Exception | None = None
    ) -> None:
        self.group, self.together, self.threads = 1, together, threads
        self.pool = ThreadPoolExecutor(threads)
        self.gate, self.sizes, self.fault = threading.Event(), list[int](), fault
        self.waiting = 0
        if open:
            self.gate.set()

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts("gate", "fp32", "tests", True, self.threads)

    def __call__(self, images: np.ndarray) -> Outputs:
        return self.outputs_of_group(images)

    def outputs_of_group(self, images: np.ndarray) -> Outputs:
        self.waiting += 1
        assert self.gate.wait(30)
        self.waiting -= 1
        self.sizes.append(len(images))
        if self.fault is not None:
            raise self.fault
        means = images.mean(axis=(1, 2, 3))
        return Outputs(np.stack([means, -means], axis=1), means[:, None])

    def ready(self) -> Ready:
        """A model of it, of 8x8 pixels."""
        return Ready(Answers(2, ("light", "dark")), Preprocess((8, 8)), (), self)


@contextmanager
def gated(monkeypatch: pytest.MonkeyPatch, engine: Gate, **limits: Any) -> Iterator[Live]:
    """A server whose engine is ``engine``."""
    monkeypatch.setattr(models, "open_for_answers", lambda *_: engine.ready())
    monkeypatch.setattr(models, "warm", lambda _: None)
    with live(["gate"], limits=Limits(**limits)) as server:
        try:
            yield server
        finally:
            engine.gate.set()


class Asked(threading.Thread):
    """A request that is under way."""

    def __init__(self, server: Live, content: bytes = PNG) -> None:
        super().__init__()
        self.url, self.content, self.answer = server.url + ROUTE, content, httpx.Response(0)
        self.start()

    def run(self) -> None:
        self.answer = httpx.post(self.url, content=self.content, headers=KIND, timeout=30)

    def status(self) -> int:
        self.join(30)
        return self.answer.status_code


def head(length: int, more: str = "") -> bytes:
    return f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{more}Content-Length: {length}\r\n\r\n".encode()


def error(answer: bytes) -> tuple[int, str]:
    """Status and code of an error in the one form."""
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in top
    found = json.loads(body)["error"]
    assert int(top[9:12]) == found["status"]
    return found["status"], found["code"]
