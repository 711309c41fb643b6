"""Around every request: its id, its key, its count, its line in the log, and one form for whatever goes wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vitkit.server.bodies import Gone
from vitkit.server.errors import Refused, error_body
from vitkit.server.state import State

__all__ = ["Surround", "add_errors"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
OPEN = frozenset(("/", "/healthz", "/readyz", "/docs", "/openapi.json"))  # without a key, as is /static
NOBODY = 499  # the status of the log and the metrics where the client went away
SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
)


class Surround:
    """ASGI middleware of one application."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, request_id = time.perf_counter(), f"{random.getrandbits(64):016x}"
        note: dict[str, Any] = {}
        scope["vitkit"] = note
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SAFE, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if len(self.state.keys) and scope["path"] not in OPEN and not scope["path"].startswith("/static/"):
                self.state.keys.require(
                    {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
                )
            await self.app(scope, receive, answer)
        except Gone:
            await Response(status_code=400)(
                scope, receive, send
            )  # that nobody reads, so that the server is done with it
            status = NOBODY
        except Refused as error:
            await refusal(error)(scope, receive, answer)
        except Exception as error:
            self.state.log.write("bug", {"request": request_id, "error": f"{type(error).__name__}: {error}"[:500]})
            if status:
                raise
            bug = Refused(500, "internal_error", f"a bug in the server; its log tells more of request {request_id}.")
            await refusal(bug)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self.state.metrics.answered(route, status, seconds)
            line = {"request": request_id, "method": scope["method"], "route": route, "status": status,
                    "ms": round(1000 * seconds, 1), **note}  # fmt: skip
            self.state.log.write("request", line)


def add_errors(app: FastAPI) -> None:
    """Let all that an application refuses have one form."""

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(error)

    async def by_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:200]
        said = {
            404: ("not_found", f"nothing is at {path!r}; /docs lists what there is."),
            405: ("method_not_allowed", f"{request.method[:20]} is not for {path!r}; /docs lists what is."),
        }
        code, message = said.get(error.status_code, ("refused", str(error.detail)))
        return refusal(Refused(error.status_code, code, message, error.headers))

    async def by_values(_request: Request, error: Exception) -> Response:
        return refusal(Refused(422, "bad_request", str(error)[:500]))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, by_framework)
    app.add_exception_handler(RequestValidationError, by_values)


def refusal(error: Refused) -> Response:
    """An error as a response."""
    body = error_body(error.status, error.code, error.message)
    return Response(body, error.status, error.headers, media_type="application/json")
