"""A web server on this machine for tests: files by path, pages that list folders, tags, ranges, and answers cut short."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

__all__ = ["Web", "serving"]


class Web(http.server.ThreadingHTTPServer):
    """``cut`` ends the next answers early; ``status`` answers a path with an error; ``log`` keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.status: dict[str, int] = {}
        self.cut: int | None = None
        self.log: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is expected."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Web

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        server.log.append((self.command, self.path, self.headers.get("Range", "")))
        if code := server.status.get(path):
            return self._send(code, b"", server.headers.get(path, {}))
        below = sorted(
            {rest.split("/")[0] + "/" * ("/" in rest) for f in server.files if (rest := f.removeprefix(path)) != f}
        )
        if path.endswith("/") and below:
            page = "".join(f'<a href="{name}">{name}</a>' for name in ["../", "?sort=name", *below])
            return self._send(200, page.encode() if body else b"", {"Content-Type": "text/html"})
        if path not in server.files:
            if any(file.startswith(f"{path}/") for file in server.files):
                return self._send(301, b"", {"Location": f"{path}/"})
            return self._send(404, b"", server.headers.get("404", {}))
        data, start = server.files[path], 0
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', **server.headers.get(path, {})}
        if self.headers.get("Range") and self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        end = len(data) if server.cut is None else min(server.cut, len(data))
        return self._send(206 if start else 200, data[start:end] if body else b"", headers, len(data) - start)

    def _send(self, code: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        if length is not None and len(body) < length:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def serving() -> Iterator[Web]:
    """A running server."""
    with Web() as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield web
        finally:
            web.shutdown()
            thread.join()
