"""An application on a socket, from its first request to a goodbye that answers all it accepted."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vitkit.config import UserError
from vitkit.server.connections import guard_maker

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vitkit.server.state import State

__all__ = ["Running", "address_of", "listen"]

SWITCH = 0.0005  # s that a thread which decodes or computes may keep the event loop from its next step
TICK = 0.02  # s between looks at what is still under way


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes a free one.

    Raises:
        UserError: the address is taken, or none of this machine.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must be from 0 to 65535, got {port}.")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host} is no address of this machine; 127.0.0.1 is for this machine alone.") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        bound.listen(1024)
    except OSError as error:
        bound.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port; 0 takes a free one."
        ) from None
    bound.setblocking(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """``http://host:port`` of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Running:
    """One server. `run` returns when it was stopped and has said goodbye.

    Args:
        app: what `app.create_app` made.
        bound: a socket of `listen`.
        reload: look for models that were replaced.
        started: called when requests are answered.
    """

    def __init__(
        self, app: FastAPI, bound: socket.socket, *, reload: bool = True, started: Callable[[], object] = bool
    ) -> None:
        import uvicorn

        self.state: State = app.state.server
        self._bound, self._reload, self._started = bound, reload, started
        limits = self.state.limits
        settings: dict[str, Any] = {
            "http": guard_maker(
                limits, lambda status: self.state.metrics.answered("connection", status, 0.0), self.state.full
            ),
            "ws": "none",
            "lifespan": "off",
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "timeout_keep_alive": 15,
            "timeout_graceful_shutdown": int(limits.seconds) + 1,
        }
        self._server = uvicorn.Server(uvicorn.Config(app, **settings))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Serve until `stop` is called, or SIGTERM or SIGINT comes."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        try:
            asyncio.run(self._run())
        finally:
            sys.setswitchinterval(before)

    def stop(self) -> None:
        """Begin to say goodbye; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_to_stop)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        ended = threading.Event()
        serving = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(TICK / 4)
        self._handle_signals()
        watcher = threading.Thread(target=self.state.registry.watch, args=(ended,), name="vitkit-watch", daemon=True)
        if self._reload:
            watcher.start()
        self._started()
        try:
            await serving
        finally:
            ended.set()
            self.state.close()

    def _handle_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        assert self._loop is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._begin_to_stop)
        if hasattr(signal, "SIGHUP"):
            self._loop.add_signal_handler(signal.SIGHUP, self._refresh)

    def _refresh(self) -> None:
        assert self._loop is not None
        self._loop.run_in_executor(None, lambda: self.state.registry.refresh(force=True))

    def _begin_to_stop(self) -> None:
        if self._stopping is not None:  # asked twice: at once
            self._server.force_exit = self._server.should_exit = True
            return
        self.state.closing = True
        self.state.log.write("stopping", {"under_way": self.state.under_way})
        self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        """New work is refused meanwhile; what was accepted has as long as any request."""
        end = asyncio.get_running_loop().time() + self.state.limits.seconds
        while self.state.under_way and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(TICK)
        self._server.should_exit = True
