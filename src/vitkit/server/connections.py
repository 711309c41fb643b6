"""What stands between a socket and uvicorn: how many connections there are, how long a request's head may take, and goodbyes
that a client which is still sending can read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from h11 import IDLE

from vitkit.server.errors import Refused, error_body
from vitkit.server.limits import Limits
from vitkit.server.shedding import busy_answer, plain_head

__all__ = ["Guard", "guard_maker"]

Full = Callable[[str], Refused | None]
HEAD_SECONDS = 10.0  # for a request's head, after its first byte or after connecting
MOST_UNREAD = 2**20  # bytes of a refused body that are read so that its connection may be kept
IDLE_SECONDS = 15.0  # between requests
LINGER_SECONDS = 5.0  # that a client may go on sending after it was refused


class Open:
    """The connections of one server."""

    def __init__(self, limits: Limits, note: Callable[[int], None], full: Full) -> None:
        self.limits, self.note, self.full, self.count = limits, note, full, 0
        self.head_seconds = min(HEAD_SECONDS, limits.seconds)


def guard_maker(limits: Limits, note: Callable[[int], None], full: Full) -> Callable[..., Guard]:
    """What uvicorn makes a connection's protocol with.

    Args:
        limits: of the server.
        note: told the status of what is refused here.
        full: of a model's name, how a request for it is refused at once; None where there is room, or no such model.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    seen = Open(limits, note, full)

    def make(**settings: Any) -> Guard:
        return Guard(AutoHTTPProtocol(**settings), seen)

    return make


class Guard:
    """One connection: passes events on to uvicorn's protocol. An `asyncio.Protocol` by its methods."""

    def __init__(self, inner: Any, seen: Open) -> None:
        self.inner, self.seen = inner, seen
        self.refused = False  # there was no place for it
        self.alarm: asyncio.TimerHandle | None = None
        self.transport: Any = None
        self.lingering = False
        self.unread = 0  # bytes of a body that came after its answer
        self.skipped = 0  # bytes that are still to come of a request that was refused unparsed
        inner.send_400_response = self._malformed

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.seen.count += 1
        if self.seen.count > self.seen.limits.connections:
            self.refused = True
            self._say(503, "too_many_connections", "all connections are taken; try again later.", "Retry-After: 1\r\n")
            self._linger()
            return
        self._set_alarm(self.seen.head_seconds, self._slow_head)
        self.inner.connection_made(Leaving(transport, self))

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            return  # of a request that was refused
        if self.skipped:
            data = self._skip(data)
        while data and self._idle() and (rest := self._shed(data)) is not None:
            data = rest
        if data:
            self.inner.data_received(data)
            self._watch(len(data))

    def _idle(self) -> bool:
        """Is the parser at the very beginning of a request?"""
        parser = getattr(self.inner, "conn", None)  # another parser than h11 is quick enough
        return (
            parser is not None
            and parser.our_state is IDLE
            and parser.their_state is IDLE
            and not parser.trailing_data[0]
        )

    def _shed(self, data: bytes) -> bytes | None:
        """Refuse a request that there is no room for, and give what follows it; None where it is to be parsed."""
        head = plain_head(data)
        refused = None if head is None else self.seen.full(head.model)
        if head is None or refused is None:
            return None
        self.transport.write(busy_answer(refused))
        self.inner._unset_keepalive_if_required()
        self._stop_alarm()
        self._set_alarm(IDLE_SECONDS, self._close_idle)
        self.skipped = head.length
        return self._skip(data[head.end :])

    def _skip(self, data: bytes) -> bytes:
        count = min(self.skipped, len(data))
        self.skipped -= count
        return data[count:]

    def _close_idle(self) -> None:
        self.alarm = None
        if self._between():
            self.transport.close()

    def _watch(self, count: int) -> None:
        """After ``count`` bytes: is a head, or a body that nobody wants, on its way?"""
        if self.lingering:
            return
        if not self._between():
            if self.alarm is not None:
                self._stop_alarm()
            self.unread = 0
            return
        if self.alarm is None:
            self._set_alarm(self.seen.head_seconds, self._slow_head)
        if self._owes_body():
            self.unread += count
            if self.unread > MOST_UNREAD:
                self.leave()

    def eof_received(self) -> bool | None:
        return None if self.refused else self.inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.seen.count -= 1
        self._stop_alarm()
        if not self.refused:
            self.inner.connection_lost(error)

    def pause_writing(self) -> None:
        if not self.refused:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if not self.refused:
            self.inner.resume_writing()

    def leave(self) -> None:
        """Close; a client that is still sending may read its answer first, else its own data would cut it off."""
        if self._owes_body() and not self.lingering and not self.transport.is_closing():
            self._linger()
        elif not self.lingering:
            self.transport.close()

    def _between(self) -> bool:
        """Is no request under way, or only the body of one that is answered?"""
        cycle = self.inner.cycle
        return cycle is None or cycle.response_complete

    def _owes_body(self) -> bool:
        cycle = self.inner.cycle
        return cycle is not None and cycle.more_body

    def _slow_head(self) -> None:
        self.alarm = None
        if self._between() and not self.transport.is_closing():
            if self._owes_body():
                self.leave()
                return
            self._say(408, "slow_head", f"no whole request in {self.seen.head_seconds:g} s; send it faster.")
            self.transport.close()

    def _malformed(self, _message: str) -> None:
        """Instead of uvicorn's own answer to what is no HTTP."""
        cycle = self.inner.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._say(400, "bad_http", "this is no HTTP request; expected HTTP/1.1 as of RFC 9112.")
        self.transport.close()

    def _say(self, status: int, code: str, message: str, more: str = "") -> None:
        body = error_body(status, code, message)
        reason = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}[status]
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{more}Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.seen.note(status)

    def _linger(self) -> None:
        self.lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self._stop_alarm()
        self._set_alarm(LINGER_SECONDS, self.transport.close)

    def _set_alarm(self, seconds: float, ring: Callable[[], object]) -> None:
        self.alarm = asyncio.get_running_loop().call_later(seconds, ring)

    def _stop_alarm(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None


class Leaving:
    """A transport whose `close` is the guard's."""

    def __init__(self, transport: asyncio.Transport, guard: Guard) -> None:
        self._transport, self._guard = transport, guard
        self.write = transport.write  # the two that are called often
        self.is_closing = lambda: guard.lingering or transport.is_closing()

    def close(self) -> None:
        """Leave."""
        self._guard.leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
