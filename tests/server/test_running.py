"""A server under bad senders, too much work, and when it is told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from live import KIND, PNG, ROUTE, Asked, Gate, drained, error, gated, head, until
from shared import ROOT
from small_models import made
from vitkit.config import UserError
from vitkit.server.running import address_of, listen


def test_stopping_answers_what_was_accepted_and_refuses_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Gate(together=1)
    with gated(monkeypatch, engine) as server:
        assert server.http.get("/readyz").status_code == 200
        asked = [Asked(server) for _ in range(3)]
        until(lambda: server.state.registry.get("gate").batcher.pending == 3)
        server.running.stop()
        until(lambda: server.state.closing)
        ready = server.http.get("/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "shutting_down")
        assert server.http.get("/healthz").status_code == 200
        late = httpx.post(server.url + ROUTE, content=PNG, headers=KIND)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert "retry-after" in late.headers
        engine.gate.set()
        assert [one.status() for one in asked] == [200, 200, 200]
        server.thread.join(10)
        assert not server.thread.is_alive()
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url + "/healthz")


def test_too_much_work_is_refused_at_once_and_what_was_accepted_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Gate(together=1)
    with gated(monkeypatch, engine, queue=4) as server:
        asked = [Asked(server) for _ in range(4)]
        until(lambda: server.state.registry.get("gate").batcher.pending == 4)
        began = time.monotonic()
        late = [server.http.post(ROUTE, content=PNG, headers=KIND) for _ in range(20)]
        assert time.monotonic() - began < 5
        assert {answer.status_code for answer in late} == {429}
        assert late[0].json()["error"]["code"] == "too_busy"
        assert int(late[0].headers["retry-after"]) >= 1
        assert error(server.raw(head(10**6, "Expect: 100-continue\r\nConnection: close\r\n"))) == (429, "too_busy")
        engine.gate.set()
        assert [one.status() for one in asked] == [200] * 4
        assert server.http.post(ROUTE, content=PNG, headers=KIND).status_code == 200


def test_a_deadline_ends_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(monkeypatch, Gate(), seconds=0.3) as server:
        answer = server.http.post(ROUTE, content=PNG, headers=KIND)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


def test_the_work_of_a_client_that_goes_away_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Gate(together=1)
    with gated(monkeypatch, engine) as server:
        asked = Asked(server)
        until(lambda: engine.waiting)
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(head(len(PNG)) + PNG)
                until(lambda: server.state.under_way == 2)
            until(lambda: server.state.under_way == 1)
        engine.gate.set()
        assert asked.status() == 200
        until(lambda: server.state.registry.get("gate").batcher.pending == 0)
        assert engine.sizes == [1]
        assert server.state.held.now == 0
        assert [line["status"] for line in server.lines()].count(499) == 5


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"POST /v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_slow_head_is_cut_off(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with gated(monkeypatch, Gate(), seconds=0.3) as server:
        assert error(server.raw(sent)) == (408, "slow_head")


def test_a_slow_head_of_a_second_request_is_cut_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(monkeypatch, Gate(), seconds=0.3) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"GET /he")
            found = drained(connection)
        assert error(found[found.index(b"HTTP/1.1 408") :]) == (408, "slow_head")


def test_a_refused_body_that_goes_on_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(monkeypatch, Gate(open=True), seconds=2) as server:
        top = head(2 * 10**7).replace(b"image/png", b"text/plain")
        for size in (100, 10**6):  # a slow one, and one that sends on and on
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(top)
                for _ in range(4):
                    connection.sendall(b"x" * size)
                    time.sleep(0.05)
                assert error(drained(connection)) == (415, "unsupported_content_type")


def test_a_slow_body_is_cut_off_while_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(monkeypatch, Gate(open=True), seconds=0.5) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head(1000))
            for _ in range(3):
                connection.sendall(b"x")
                assert server.http.post(ROUTE, content=PNG, headers=KIND).status_code == 200
            assert error(drained(connection)) == (408, "slow_body")
        assert server.state.held.now == 0


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"NONSENSE\r\n\r\n", b"GET /\r\n\r\n"])
def test_what_is_no_http_is_told_so(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with gated(monkeypatch, Gate(), seconds=2) as server:
        assert error(server.raw(sent + b"\r\n\r\n")) == (400, "bad_http")


def test_chunks_that_are_none_end_the_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(monkeypatch, Gate(open=True)) as server:
        top = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert error(server.raw(top.encode() + b"3\r\nabc\r\nzz\r\n")) == (400, "bad_http")
        assert server.http.post(ROUTE, content=PNG, headers=KIND).status_code == 200
        until(lambda: server.state.held.now == 0)


def test_a_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(monkeypatch, Gate(), connections=3) as server:
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        until(lambda: error(server.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")) == (503, "too_many_connections"))
        for each in held:
            each.close()

        def served() -> bool:
            return server.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(
                b"HTTP/1.1 200"
            )

        until(served)


def test_bodies_that_hold_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with gated(monkeypatch, Gate(open=True), held_bytes=150_000) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(200_000) + b"x" * 100_000)
            until(lambda: server.state.held.now == 100_000)
            answer = server.http.post(ROUTE, content=b"x" * 60_000, headers=KIND)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_busy")
        until(lambda: server.state.held.now == 0)
        assert server.http.post(ROUTE, content=PNG, headers=KIND).status_code == 200


def test_a_taken_port_and_an_address_of_others_say_so() -> None:
    with listen("127.0.0.1", 0) as bound:
        port = int(address_of(bound).rpartition(":")[2])
        with pytest.raises(
            UserError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use. Choose another"
        ):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="no address of this machine"):
        listen("nowhere.invalid", 0)
    with pytest.raises(UserError, match="must be from 0 to 65535, got 70000"):
        listen("127.0.0.1", 70000)


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    model = made(tmp_path / "roses", ("a", "b"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "vitkit", "serve", str(model), "--port", "0", "--log-format", "json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"serving +(http://127.0.0.1:\d+) ", line):
                break
        else:
            pytest.fail("".join(lines) + (process.stderr.read() if process.stderr else ""))
        try:
            answer = httpx.post(f"{found[1]}/v1/models/roses:predict", content=PNG, headers=KIND, timeout=30)
            assert answer.status_code == 200
            assert answer.json()["predictions"][0]["prediction"] in ("a", "b")
            process.send_signal(signal.SIGHUP)
            assert httpx.get(f"{found[1]}/readyz").status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        said, log = "".join(lines), process.stderr.read() if process.stderr else ""
    assert re.search(r"model +roses: .*roses, 2 classes, 16x16 pixels", said)
    assert re.search(r"engine +tuned fp32", said)
    assert re.search(r"limits +32 MB and 64 images a request, 100 megapixels an image, 128 images waiting, 30 s", said)
    assert re.search(r"keys +none", said)
    assert [json.loads(line)["event"] for line in log.splitlines()] == [
        "model_loaded",
        "request",
        "request",
        "stopping",
    ]
