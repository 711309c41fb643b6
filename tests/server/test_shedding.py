"""Requests that are refused unparsed: only such as can be read in one way."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from live import PNG, ROUTE, Asked, Gate, drained, error, gated, head, until
from vitkit.server.errors import Refused
from vitkit.server.shedding import busy_answer, plain_head

PLAIN = (
    b"POST /v1/models/m:predict?top=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Type: image/png\r\n\r\nabc"
)


def test_a_plain_head_is_read() -> None:
    assert plain_head(PLAIN) == ("m", len(PLAIN) - 3, 3)
    assert plain_head(PLAIN + b"POST /") == ("m", len(PLAIN) - 3, 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"POST", b"GET"),
        (b"1.1", b"1.0"),
        (b":predict", b":explain"),
        (b"/m:", b"/../m:"),
        (b"\r\n\r\n", b"\r\n"),
        (b"Content-Length: 3\r\n", b""),
        (b"Content-Length: 3", b"Content-Length: 3\r\nContent-Length: 4"),
        (b"Content-Length: 3", b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
        (b"Content-Length: 3", b"Content-Length : 3"),
        (b"Content-Length: 3", b"Content-Length: +3"),
        (b"Content-Length: 3", b"Content-Length: 3, 3"),
        (b"Content-Length: 3", b"Content-Length: 3000000"),
        (b"Content-Length: 3", b"X: content-length: 3"),
        (b"Host: x", b"Host: x\r\n folded"),
        (b"Host: x", b"Expect: 100-continue"),
        (b"Host: x", b"Connection: close"),
        (b"Host: x", b"Host: \xff"),
        (b"Host: x\r\n", b"Host: x\n"),
    ],
)
def test_what_leaves_a_doubt_is_not(old: bytes, new: bytes) -> None:
    assert old in PLAIN
    assert plain_head(PLAIN.replace(old, new, 1)) is None


def test_the_answer_is_in_the_one_form() -> None:
    assert error(busy_answer(Refused(429, "too_busy", "later", {"Retry-After": "3"}))) == (429, "too_busy")
    assert b"retry-after: 3\r\n" in busy_answer(Refused(429, "too_busy", "later", {"Retry-After": "3"}))


def test_refused_requests_leave_the_connection_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """However bytes arrive, each request gets its own answer, in order."""
    engine = Gate(together=1)
    with gated(monkeypatch, engine, queue=1) as server:
        first = Asked(server)
        until(lambda: server.state.registry.get("gate").batcher.pending == 1)
        ask, health = head(len(PNG)) + PNG, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        stream = (
            ask
            + ask
            + health
            + ask
            + head(5000)
            + b"POST " * 1000
            + health.replace(b"Host", b"Connection: close\r\nHost")
        )
        for size in (7, 100, len(stream)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for start in range(0, len(stream), size):
                    connection.sendall(stream[start : start + size])
                found = drained(connection)
            assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [
                b"429",
                b"429",
                b"200",
                b"429",
                b"429",
                b"200",
            ]
        engine.gate.set()
        assert first.status() == 200
        counted: dict[str, Any] = {}
        for line in server.http.get("/metrics").text.splitlines():
            counted[line.rpartition(" ")[0]] = line.rpartition(" ")[2]
        assert float(counted[f'vitkit_requests_total{{route="{ROUTE.replace("gate", "{name}")}",status="429"}}']) == 12
        assert [line["status"] for line in server.lines()].count(429) == 12
        assert json.dumps(server.lines()[-1])
