"""Fetching, against real servers on this machine: whole or not at all, resumed, checked, refused, and never when offline."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitkit.config import UserError
from vitkit.data import download, hub
from vitkit.zoo import fetch
from vitkit.zoo.fetch import cached, place
from vitkit.zoo.record import Checkpoint
from vitkit.zoo.rows import find_row

BODY = bytes(range(256)) * 20_000  # 5 MB, several pieces
SHA = hashlib.sha256(BODY).hexdigest()
COMMIT = "c" * 40


class Server(http.server.ThreadingHTTPServer):
    """Files by path; ``cut`` ends the next answers early, ``log`` keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.status: dict[str, int] = {}
        self.cut: int | None = None
        self.log: list[tuple[str, str, str]] = []
        self.etag = '"first"'
        self.wait: threading.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is expected."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server, path = self.server, self.path
        server.log.append((self.command, path, self.headers.get("Range", "")))
        if path in server.status:
            self.send_response(server.status[path])
            for name, value in server.headers.get(path, {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path not in server.files:
            self.send_response(404)
            for name, value in server.headers.get("404", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, start = server.files[path], 0
        if self.headers.get("Range") and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        own = server.headers.get(path, {})
        for name, value in {"ETag": server.etag, **own}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        if server.wait is not None:
            server.wait.wait(20)
        end = len(data) if server.cut is None else min(server.cut, len(data))
        self.wfile.write(data[start:end])
        if end < len(data):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("VITKIT_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def published(server: Server, **changes: object) -> Checkpoint:
    """A row whose file is on the server."""
    server.files["/weights/vit_b.pth"] = BODY
    row = find_row("deit_tiny_patch16_224")
    told = {"url": f"{server.url}/weights/vit_b.pth", "sha256": (), "digest": f"sha256:{SHA[:8]}", **changes}
    return dataclasses.replace(row, name="served", **told)


def test_a_file_is_fetched_once_and_its_size_licence_and_checksum_are_told(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    row = published(server)
    assert cached(row) is None
    path = fetch.fetch(row)
    assert path == place(row) == cached(row)
    assert path.read_bytes() == BODY
    told = capsys.readouterr()
    assert told.out == ""
    assert f"fetching {row.url}: 4.9 MiB, licence Apache-2.0" in told.err
    assert f"kept as {path}, SHA-256 {SHA} (as published)" in told.err
    assert fetch.fetch(row) == path
    assert len(server.log) == 1
    left = sorted(p.name for p in path.parent.iterdir())
    assert left == ["vit_b.pth", "vit_b.pth.download.json", "vit_b.pth.lock"] or left == left[:2]
    assert json.loads(download.record_of(path).read_text()) == {"url": row.url, "size": len(BODY), "sha256": SHA}


def test_quiet_says_nothing(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    fetch.fetch(published(server), quiet=True)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch.fetch(published(server))
    assert "vit_b.pth:" in terminal.getvalue()
    assert "B/s" in terminal.getvalue()


@pytest.mark.parametrize(
    "told", [{"digest": "sha256:00000000"}, {"digest": "md5:000000"}, {"digest": "", "sha256": ("0" * 64,)}]
)
def test_a_file_of_another_checksum_is_refused_and_deleted(server: Server, told: dict[str, object]) -> None:
    row = published(server, **told)
    with pytest.raises(
        UserError, match=r"cannot have served: vit_b\.pth is not the published file: it has (SHA256|MD5) \w+, and"
    ):
        fetch.fetch(row, quiet=True)
    assert not place(row).exists()
    assert not place(row).with_name("vit_b.pth.partial").exists()


def test_googles_own_checksum_is_compared(server: Server) -> None:
    row = published(server, digest="")
    right = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    server.headers["/weights/vit_b.pth"] = {
        "x-goog-hash": f"crc32c=AAAAAA==, md5={base64.b64encode(bytes(16)).decode()}"
    }
    with pytest.raises(UserError, match="and the server states 00000000000000000000000000000000"):
        fetch.fetch(row, quiet=True)
    server.headers["/weights/vit_b.pth"] = {"x-goog-hash": f"crc32c=AAAAAA==, md5={right}"}
    assert fetch.fetch(row, quiet=True).read_bytes() == BODY


def test_a_connection_that_ends_early_is_noticed_and_gone_on_with(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    row = published(server)
    server.cut = 3_000_000
    with pytest.raises(
        UserError, match=r"ended after 2\.9 MiB of 4\.9 MiB\. Run the command again: it goes on from there\."
    ):
        fetch.fetch(row, quiet=True)
    assert cached(row) is None
    server.cut = None
    assert fetch.fetch(row).read_bytes() == BODY
    assert "going on after 2.9 MiB" in capsys.readouterr().err
    assert [asked for _, _, asked in server.log] == ["", "bytes=3000000-"]


def test_a_part_of_an_older_edition_is_not_gone_on_with(server: Server) -> None:
    row = published(server)
    server.cut = 1000
    with pytest.raises(UserError, match="ended after 1000 bytes"):
        fetch.fetch(row, quiet=True)
    server.cut, server.etag = None, '"second"'
    server.files["/weights/vit_b.pth"] = newer = BODY[::-1]
    row = dataclasses.replace(row, digest=f"sha256:{hashlib.sha256(newer).hexdigest()[:8]}")
    assert fetch.fetch(row, quiet=True).read_bytes() == newer


def test_a_part_as_long_as_the_file_is_fetched_anew(server: Server) -> None:
    row = published(server)
    server.cut = 1000
    with pytest.raises(UserError, match="ended after"):
        fetch.fetch(row, quiet=True)
    server.cut = None
    place(row).with_name("vit_b.pth.partial").write_bytes(bytes(len(BODY)))
    assert fetch.fetch(row, quiet=True).read_bytes() == BODY


def test_without_a_tag_of_the_edition_a_part_is_thrown_away(server: Server) -> None:
    row = published(server)
    server.etag, server.cut = "", 1000
    with pytest.raises(UserError, match="ended after"):
        fetch.fetch(row, quiet=True)
    server.cut = None
    assert fetch.fetch(row, quiet=True).read_bytes() == BODY
    assert [asked for _, _, asked in server.log] == ["", ""]


def test_a_file_that_was_cut_in_the_cache_is_noticed(server: Server) -> None:
    row = published(server)
    path = fetch.fetch(row, quiet=True)
    path.write_bytes(BODY[:-1])
    assert cached(row) is None
    with pytest.raises(
        UserError, match="is damaged, of another size than it came with, and nothing is fetched offline"
    ):
        fetch.fetch(row, offline=True)
    assert fetch.fetch(row, quiet=True).read_bytes() == BODY


def test_a_file_put_there_by_hand_is_checked_once(server: Server) -> None:
    row = published(server)
    place(row).parent.mkdir(parents=True)
    place(row).write_bytes(BODY[:-1])
    with pytest.raises(UserError, match=r"is not the published file.*delete it"):
        fetch.fetch(row, offline=True)
    place(row).write_bytes(BODY)
    assert fetch.fetch(row, offline=True) == place(row)
    assert download.record_of(place(row)).exists()
    assert server.log == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"127\.0\.0\.1 has no such file any more \(404\)\."),
        (403, r"127\.0\.0\.1 does not give this file to everybody \(403\)\."),
        (401, r"127\.0\.0\.1 does not give this file to everybody \(401\)\."),
        (503, r"127\.0\.0\.1 answers 503 Service Unavailable; try again later\."),
    ],
)
def test_a_server_that_refuses_is_one_message(server: Server, status: int, message: str) -> None:
    row = published(server)
    server.status["/weights/vit_b.pth"] = status
    with pytest.raises(
        UserError, match=f"cannot have served: {message} Tried {row.url}. By hand: put {row.url} at .*vit_b.pth, or"
    ):
        fetch.fetch(row, quiet=True)


def test_without_a_network_the_message_says_what_was_tried_and_what_to_do(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    row = published(server, url=f"http://127.0.0.1:{port}/a.npz")
    with pytest.raises(
        UserError, match=r"127\.0\.0\.1 does not answer \(.*refused.*\)\. Tried .*/a\.npz\. By hand: put .* at .*a\.npz"
    ):
        fetch.fetch(row, quiet=True)


@pytest.mark.parametrize(
    "url", ["http://example.com/a.npz", "ftp://127.0.0.1/a.npz", "file:///etc/passwd", "http://localhost.evil.com/a"]
)
def test_only_https_is_fetched(server: Server, url: str) -> None:
    with pytest.raises(UserError, match="only https addresses"):
        fetch.fetch(published(server, url=url), quiet=True)
    assert server.log == []


def test_a_redirection_to_plain_http_is_refused(server: Server) -> None:
    row = published(server)
    server.status["/weights/vit_b.pth"] = 302
    server.headers["/weights/vit_b.pth"] = {"Location": "http://example.com/vit_b.pth"}
    with pytest.raises(UserError, match=r"http://example\.com/vit_b\.pth is not fetched: only https"):
        fetch.fetch(row, quiet=True)
    server.headers["/weights/vit_b.pth"] = {"Location": f"{server.url}/moved.pth"}
    server.files["/moved.pth"] = BODY
    assert fetch.fetch(row, quiet=True).read_bytes() == BODY


def test_too_little_space_is_told_before_anything_comes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    row = published(server)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(
        UserError, match=r"vit_b\.pth needs 4\.9 MiB and .* has 1000 bytes left\. Free some, or set VITKIT_CACHE"
    ):
        fetch.fetch(row, quiet=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_one_message(server: Server) -> None:
    row = published(server)
    place(row).parent.mkdir(parents=True)
    place(row).with_name("vit_b.pth.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"no space is left for .*vit_b\.pth\. Free some, or set VITKIT_CACHE"):
        fetch.fetch(row, quiet=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_cache_that_cannot_be_written_is_one_message(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot write to"):
        fetch.fetch(published(server), quiet=True)


def test_a_cache_that_is_a_file_is_one_message(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"cannot write to .*Not a directory"):
        fetch.fetch(published(server), quiet=True)


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("how", ["argument", "VITKIT_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k", "imagenet21k/ViT-B_16"])
@pytest.mark.usefixtures("no_sockets")
def test_offline_opens_no_socket_and_says_where_the_file_would_be(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if how != "argument":
        monkeypatch.setenv(how, "1")
    row = find_row(name)
    with pytest.raises(UserError) as caught:
        fetch.fetch(row, offline=how == "argument")
    message = str(caught.value)
    assert f"{row.file} is not on this machine, and nothing is fetched offline." in message
    assert row.address in message
    assert str(place(row)) in message
    place(row).parent.mkdir(parents=True)
    place(row).write_bytes(b"weights")
    if row.digest:
        with pytest.raises(UserError, match="is not the published file"):
            fetch.fetch(row, offline=True)
    else:
        assert fetch.fetch(row, offline=True) == place(row)


RACE = """
import dataclasses, sys
from vitkit.zoo.fetch import fetch
from vitkit.zoo.rows import find_row
row = dataclasses.replace(find_row("deit_tiny_patch16_224"), name="served", url=sys.argv[1], sha256=(), digest="")
print(fetch(row, quiet=True))
"""


def test_two_processes_fetch_one_file_once(server: Server) -> None:
    row = published(server)
    server.wait = threading.Event()
    command = [sys.executable, "-c", RACE, row.url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while not server.log:
        threading.Event().wait(0.02)
    threading.Event().wait(0.5)  # the other comes to the lock meanwhile
    server.wait.set()
    paths = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert paths == {str(place(row))}
    assert place(row).read_bytes() == BODY
    assert len(server.log) == 1


# The hub


@pytest.fixture
def small_hub(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """As much of the hub as fetching a file needs."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    server.headers["404"] = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    return server


def put(server: Server, repo: str, file: str, data: bytes, sha: str | None = None) -> None:
    path = f"/{repo}/resolve/main/{file}"
    server.files[path] = data
    git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    etag = hashlib.sha256(data).hexdigest() if file.endswith((".safetensors", ".bin")) else git
    server.headers[path] = {"ETag": f'"{sha or etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}


TIMM = "timm/vit_tiny_patch16_224.augreg_in21k"


def test_a_hub_file_comes_with_its_sidecars_and_is_found_offline(
    small_hub: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    put(small_hub, TIMM, "model.safetensors", BODY)
    put(small_hub, TIMM, "config.json", b"{}")
    row = find_row(TIMM)
    assert cached(row) is None
    path = fetch.fetch(row)
    assert path.name == "model.safetensors"
    assert path.read_bytes() == BODY
    assert (path.parent / "config.json").read_bytes() == b"{}"
    assert not (path.parent / "preprocessor_config.json").exists()
    told = capsys.readouterr()
    assert told.out == ""
    assert f"fetching {TIMM}/model.safetensors: 4.9 MiB, licence Apache-2.0" in told.err
    assert f"SHA-256 {SHA}" in told.err
    asked = len(small_hub.log)
    assert cached(row) == path
    assert fetch.fetch(row, offline=True) == path
    assert fetch.fetch(row) == path
    assert len(small_hub.log) == asked


def test_where_there_is_no_safetensors_file_the_older_one_comes(small_hub: Server) -> None:
    put(small_hub, TIMM, "pytorch_model.bin", BODY)
    assert fetch.fetch(find_row(TIMM), quiet=True).name == "pytorch_model.bin"
    assert cached(find_row(TIMM)).name == "pytorch_model.bin"


def test_a_damaged_hub_file_is_refused_and_deleted(small_hub: Server) -> None:
    put(small_hub, TIMM, "model.safetensors", BODY, sha="0" * 64)
    with pytest.raises(UserError, match=rf"came damaged: its SHA-256 is {SHA}, the hub states 0+\. It is deleted"):
        fetch.fetch(find_row(TIMM), quiet=True)
    assert cached(find_row(TIMM)) is None


def test_a_small_hub_file_is_compared_with_gits_checksum(tmp_path: Path) -> None:
    data = b'{"a": 1}'
    blob = tmp_path / hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    blob.write_bytes(data)
    assert hub.check_file(blob) == f"Git checksum {blob.name}"
    blob.write_bytes(b"other")
    with pytest.raises(UserError, match="its Git checksum is"):
        hub.check_file(blob)
    assert not blob.exists()


def test_a_repository_without_weights_is_one_message(small_hub: Server) -> None:
    with pytest.raises(UserError, match=r"has none of the files model\.safetensors, pytorch_model\.bin any more"):
        fetch.fetch(find_row(TIMM), quiet=True)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", r"is given only to those who accept its licence.*set HF_TOKEN"),
        (
            401,
            "RepoNotFound",
            r"has no repository timm/vit_tiny_patch16_224\.augreg_in21k, or it is private \(then set HF_TOKEN\)",
        ),
        (418, "", r"answers 418; try again later"),
    ],
)
def test_a_hub_that_refuses_is_one_message(small_hub: Server, status: int, code: str, message: str) -> None:
    path = f"/{TIMM}/resolve/main/model.safetensors"
    small_hub.status[path] = status
    small_hub.headers[path] = {"X-Error-Code": code} if code else {}
    with pytest.raises(UserError, match=f"cannot have vit_tiny.*{message}.*By hand: put https://huggingface.co/.* at "):
        fetch.fetch(find_row(TIMM), quiet=True)


def test_without_a_network_the_hub_is_one_message(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(
        UserError, match=r"does not answer \(.*\)\. Tried model\.safetensors\. By hand: put https://huggingface\.co"
    ):
        fetch.fetch(find_row(TIMM), quiet=True)


def test_a_hub_file_that_ends_early_is_one_message(small_hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again a few times
    put(small_hub, TIMM, "model.safetensors", BODY)
    small_hub.cut = 3_000_000
    with pytest.raises(
        UserError, match=r"cannot have vit_tiny_patch16_224\.augreg_in21k: http://127.* (did not come|does not answer)"
    ):
        fetch.fetch(find_row(TIMM), quiet=True)
    assert cached(find_row(TIMM)) is None
