"""The routes of a server, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from vitkit import __version__
from vitkit.server import answering
from vitkit.server.answering import answer_json
from vitkit.server.described import EXPLAIN, LIST, METRICS, PREDICT, SHOW, STATUS, describe, docs_page
from vitkit.server.errors import Refused
from vitkit.server.keys import Keys
from vitkit.server.limits import Limits
from vitkit.server.logs import Log
from vitkit.server.models import Opening
from vitkit.server.state import State
from vitkit.server.surround import Surround, add_errors

__all__ = ["create_app"]


def create_app(
    models: Sequence[str | Path],
    *,
    opening: Opening = Opening(),  # noqa: B008 - a tuple
    limits: Limits | None = None,
    keys: Keys | None = None,
    log: Log | None = None,
    workers: int = 2,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The application that serves ``models``, each a path or ``NAME=PATH``; its `State` is ``app.state.server``.

    Args:
        opening: how models are opened.
        limits, keys, log: see their classes; without: the usual limits, no keys, lines of text on stderr.
        workers: threads that decode.
        origins: of pages elsewhere that may ask, as browsers send them.

    Raises:
        UserError: a model that cannot be used.
    """
    state = State([str(each) for each in models], opening, limits or Limits(), keys or Keys(), log or Log(), workers)
    app = FastAPI(title="vitkit", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = state
    _add_state(app, state)
    _add_models(app, state)
    _add_page(app, state)
    add_errors(app)
    app.add_middleware(Surround, state=state)
    if origins:
        headers = ("Authorization", "X-API-Key", "Content-Type")
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=headers
        )
    return app


def _add_state(app: FastAPI, state: State) -> None:
    @app.get("/healthz", **STATUS)
    async def healthz() -> Response:
        """The process lives."""
        return answer_json({"status": "ok"})

    @app.get("/readyz", **STATUS)
    async def readyz() -> Response:
        """Models are open, and the server is not shutting down."""
        state.require_open()
        return answer_json({"status": "ok"})

    @app.get("/metrics", **METRICS)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_models(app: FastAPI, state: State) -> None:
    @app.get("/v1/models", **LIST)
    async def list_models() -> Response:
        """The models, and the limits of a request."""
        limits = state.limits
        told = {
            "body_bytes": limits.body_bytes,
            "pixels": limits.pixels,
            "images": limits.images,
            "seconds": limits.seconds,
        }
        return answer_json({"models": [dict(model.facts) for model in state.registry.models], "limits": told})

    @app.post("/v1/models/{name}:predict", **PREDICT)
    async def predict(name: str, request: Request) -> Response:
        """The classes of one or several images."""
        return await answering.predict(state, name, request)

    @app.post("/v1/models/{name}:explain", **EXPLAIN)
    async def explain(name: str, request: Request) -> Response:
        """Where the model looks in one image."""
        return await answering.explain(state, name, request)

    @app.get("/v1/models/{name}", **SHOW)
    async def show_model(name: str) -> Response:
        """One model."""
        if name.endswith((":predict", ":explain")):
            raise HTTPException(405, headers={"Allow": "POST"})
        return answer_json(dict(state.registry.get(name).facts))


def _add_page(app: FastAPI, state: State) -> None:
    folder = Path(str(files("vitkit.server"))) / "static"
    if folder.is_dir():
        app.mount("/static", StaticFiles(directory=folder), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        path = folder / "index.html"
        if not path.is_file():
            raise Refused(404, "not_found", "this installation has no page; /docs lists what there is.")
        return Response(path.read_bytes(), media_type="text/html; charset=utf-8")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return answer_json(describe(app, len(state.keys) > 0))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(docs_page(describe(app, len(state.keys) > 0)), media_type="text/html; charset=utf-8")
