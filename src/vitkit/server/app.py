"""The routes of a server, and what surrounds each: a request's id, its key, its line in the log, its count."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from vitkit import __version__
from vitkit.answers import Prediction
from vitkit.server.batching import Batcher, Result
from vitkit.server.bodies import Gone, Held, Sent, read_sent, read_top
from vitkit.server.errors import Refused, error_body
from vitkit.server.explain import Explainer
from vitkit.server.keys import Keys
from vitkit.server.limits import Limits
from vitkit.server.logs import Log
from vitkit.server.metrics import Metrics, ModelMetrics
from vitkit.server.models import Model, Opening, Registry, name_models

__all__ = ["State", "create_app"]

TOP = 5


class State:
    """What the routes of one application share."""

    def __init__(
        self,
        models: Sequence[str],
        opening: Opening,
        limits: Limits,
        keys: Keys,
        log: Log,
        workers: int,
    ) -> None:
        self.limits, self.keys, self.log = limits, keys, log
        self.metrics, self.held = Metrics(), Held(limits.held_bytes)
        self.readers = ThreadPoolExecutor(workers, "vitkit-decode")
        self.explaining = ThreadPoolExecutor(1, "vitkit-explain")
        self.explain_waiting = 0
        self.closing = False

        def batch(name: str, ready: Any) -> Batcher:
            return Batcher(ready, self.readers, workers, limits, ModelMetrics(self.metrics, name))

        def say(event: str, facts: Mapping[str, Any]) -> None:
            self.metrics.loads.labels(facts["model"], "refused" if event == "model_refused" else "loaded").inc()
            log.write(event, facts)

        self.registry = Registry(name_models(models), opening, batch, say)
        self.explainers: dict[str, tuple[str, Explainer]] = {}

    def open(self) -> None:
        """Open all models."""
        self.registry.open_all()
        for model in self.registry.models:
            name = model.name
            self.metrics.follow(name, lambda name=name: self.registry.get(name).batcher.pending)

    def explainer(self, model: Model) -> Explainer:
        """Of a model's present version."""
        found = self.explainers.get(model.name)
        if found is None or found[0] != model.version:
            found = model.version, Explainer(model.path, self.registry.opening.overrides)
            self.explainers[model.name] = found
        return found[1]


def create_app(
    models: Sequence[str | Path],
    *,
    opening: Opening = Opening(),  # noqa: B008 - a tuple
    limits: Limits | None = None,
    keys: Keys | None = None,
    log: Log | None = None,
    workers: int = 2,
) -> FastAPI:
    """The application that serves ``models``, each a path or ``NAME=PATH``; its `State` is ``app.state.server``.

    Raises:
        UserError: a model that cannot be used.
    """
    state = State([str(each) for each in models], opening, limits or Limits(), keys or Keys(), log or Log(), workers)
    state.open()
    app = FastAPI(title="vitkit", version=__version__, docs_url=None, redoc_url=None)
    app.state.server = state
    _add_routes(app, state)
    _add_errors(app)
    _add_page(app)
    app.add_middleware(Surround, state=state)
    return app


def _add_routes(app: FastAPI, state: State) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if state.closing or not state.registry.whole:
            raise Refused(
                503, "not_ready", "the server is shutting down." if state.closing else "models are being opened."
            )
        return _json({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def list_models() -> Response:
        limits = state.limits
        told = {
            "body_bytes": limits.body_bytes,
            "pixels": limits.pixels,
            "images": limits.images,
            "seconds": limits.seconds,
        }
        return _json({"models": [dict(model.facts) for model in state.registry.models], "limits": told})

    @app.get("/v1/models/{name}")
    async def show_model(name: str) -> Response:
        return _json(dict(state.registry.get(name).facts))

    @app.post("/v1/models/{name}:predict")
    async def predict(name: str, request: Request) -> Response:
        return await _predict(state, name, request)

    @app.post("/v1/models/{name}:explain")
    async def explain(name: str, request: Request) -> Response:
        return await _explain(state, name, request)


async def _predict(state: State, name: str, request: Request) -> Response:
    began = time.perf_counter()
    model = state.registry.get(name)
    asked = _query(request, ("top",))
    model.batcher.require_room()
    sent, size = await read_sent(request.receive, request.headers, state.limits, state.held)
    try:
        note = request.scope["vitkit"]
        note["images"], note["bytes"] = len(sent.images), size
        if sent.top is not None and "top" in asked:
            raise Refused(422, "bad_top", "top is given twice, in the address and in the body.")
        top = sent.top or (read_top(asked["top"]) if "top" in asked else TOP)
        results = await _results(state, model, sent, top, request)
    finally:
        state.held.give(size)
    good = 0
    told = []
    for (file_name, _), result in zip(sent.images, results, strict=True):
        if isinstance(result, Refused):
            state.metrics.images.labels(name, result.code).inc()
            told.append({"name": file_name, "error": {"code": result.code, "message": result.message}})
        else:
            good += 1
            told.append({"name": file_name, **describe_prediction(result)})
    state.metrics.images.labels(name, "answered").inc(good)
    if not good and (len(results) == 1 or any(r.status >= 500 for r in results if isinstance(r, Refused))):
        raise next(result for result in results if isinstance(result, Refused))
    answer = {
        "model": name,
        "version": model.version,
        "engine": model.facts["engine"],
        "milliseconds": round(1000 * (time.perf_counter() - began), 3),
        "predictions": told,
    }
    return _json(answer, 200 if good else 422)


async def _results(state: State, model: Model, sent: Sent, top: int, request: Request) -> list[Result]:
    """What comes of a request's images, or its end: the deadline, or the client's going away."""
    work = model.batcher.submit([content for _, content in sent.images], top)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work.done, gone}, timeout=state.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.done.done():
            return work.done.result()
        if gone.done():
            raise Gone
        raise Refused(
            504, "deadline", f"no answer in {state.limits.seconds:g} s; send fewer images or try again later."
        )
    finally:
        work.drop()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _explain(state: State, name: str, request: Request) -> Response:
    model = state.registry.get(name)
    asked = _query(request, ("class", "method"))
    method = asked.get("method", "gradient")
    if state.explain_waiting >= 8:
        raise Refused(429, "too_busy", "too many explanations are waiting; try again later.", {"Retry-After": "2"})
    sent, size = await read_sent(request.receive, request.headers, state.limits, state.held)
    state.explain_waiting += 1
    try:
        request.scope["vitkit"].update(images=len(sent.images), bytes=size)
        if len(sent.images) != 1:
            raise Refused(422, "one_image", f"{len(sent.images)} images were sent; one is explained at a time.")
        engine = model.ready.engine
        work = asyncio.get_running_loop().run_in_executor(
            state.explaining, state.explainer(model).explain,
            sent.images[0][1], method, asked.get("class"), state.limits.pixels, engine,
        )  # fmt: skip
        try:
            found = await asyncio.wait_for(work, state.limits.seconds)
        except TimeoutError:
            raise Refused(504, "deadline", f"no answer in {state.limits.seconds:g} s; try again later.") from None
    finally:
        state.explain_waiting -= 1
        state.held.give(size)
    prediction = {"name": sent.images[0][0], **describe_prediction(found.pop("prediction"))}
    return _json({"model": name, "version": model.version, "prediction": prediction, "method": method, **found})


def describe_prediction(found: Prediction) -> dict[str, Any]:
    """A prediction as JSON."""
    told: dict[str, Any] = {
        "prediction": found.answer,
        "probability": found.probability,
        "unknown": None if found.unknown is None else bool(found.unknown),
    }
    if found.labels is not None:
        told["labels"] = list(found.labels)
    pairs = zip(found.classes, found.probabilities, strict=True)
    told["top"] = [{"class": name, "probability": probability} for name, probability in pairs]
    return told


def _query(request: Request, known: Sequence[str]) -> dict[str, str]:
    """What stands behind the address, each name once.

    Raises:
        Refused: 422.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise Refused(422, "unknown_field", f"{name[:40]!r} is unknown in the address; known: {', '.join(known)}.")
        if name in found:
            raise Refused(422, "bad_field", f"{name} is given twice.")
        found[name] = value
    return found


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(value, separators=(",", ":")).encode(), status, dict(headers or {}), media_type="application/json"
    )


def _add_errors(app: FastAPI) -> None:
    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(error)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = {
            404: ("not_found", f"nothing is at {request.url.path[:200]}; see /openapi.json."),
            405: ("method_not_allowed", f"{request.method} is not for {request.url.path[:200]}; see /openapi.json."),
        }
        code, message = said.get(error.status_code, ("refused", str(error.detail)))
        return refusal(Refused(error.status_code, code, message, error.headers))

    async def of_values(_request: Request, error: Exception) -> Response:
        return refusal(Refused(422, "bad_request", str(error)[:500]))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_values)


def refusal(error: Refused) -> Response:
    """An error as a response."""
    body = error_body(error.status, error.code, error.message)
    return Response(body, error.status, error.headers, media_type="application/json")


PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
}


def _add_page(app: FastAPI) -> None:
    folder = Path(str(files("vitkit.server"))) / "static"
    app.mount("/static", StaticFiles(directory=folder, check_dir=False), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        path = folder / "index.html"
        if not path.is_file():
            raise Refused(404, "not_found", "this installation has no page; see /openapi.json.")
        return Response(path.read_bytes(), headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")


Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN = ("/healthz", "/readyz", "/", "/openapi.json")  # without a key


class Surround:
    """Around every request: headers of the answer, the key, the count and the log. Whatever fails inside is answered in one form."""

    def __init__(self, app: Any, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, request_id = time.perf_counter(), uuid.uuid4().hex[:16]
        note: dict[str, Any] = {}
        scope["vitkit"] = note
        status = 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SAFE, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            path = scope["path"]
            if path not in OPEN and not path.startswith("/static/"):
                self.state.keys.require({k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]})
            await self.app(scope, receive, answer)
        except Gone:
            status = 499  # nobody reads it
            with_nothing = Response(status_code=400)
            await with_nothing(scope, receive, send)
        except Refused as error:
            await refusal(error)(scope, receive, answer)
        except Exception as error:
            self.state.log.write("bug", {"request": request_id, "error": f"{type(error).__name__}: {error}"[:500]})
            if status:
                raise
            refused = Refused(500, "internal_error", f"a bug in the server; its log tells more, request {request_id}.")
            await refusal(refused)(scope, receive, answer)
        seconds = time.perf_counter() - began
        route = getattr(scope.get("route"), "path", "other")
        self.state.metrics.answered(route, status, seconds)
        line = {"request": request_id, "method": scope["method"], "route": route, "status": status,
                "ms": round(1000 * seconds, 1), **note}  # fmt: skip
        self.state.log.write("request", line)


SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
