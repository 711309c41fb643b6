"""Requests with images: read, answered, told as JSON."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request, Response

from vitkit.answers import Prediction
from vitkit.server.batching import Result
from vitkit.server.bodies import Gone, Sent, read_sent, read_top
from vitkit.server.errors import Refused, error_facts
from vitkit.server.models import Model
from vitkit.server.state import State, deadline

__all__ = ["TOP", "answer_json", "explain", "predict", "told"]

TOP = 5  # classes where nothing is said


async def predict(state: State, name: str, request: Request) -> Response:
    """Classes of one or several images.

    ``top`` of the body counts before that of the address.

    Raises:
        Refused: whatever keeps all of them from an answer.
    """
    began = time.perf_counter()
    state.require_open()
    model = state.registry.get(name)
    asked = query(request, ("top",))
    said = read_top(asked["top"]) if "top" in asked else None
    model.batcher.require_room()  # before the body is read
    state.under_way += 1
    size = 0
    try:
        sent, size = await read_sent(request.receive, request.headers, state.limits, state.held)
        request.scope["vitkit"].update(images=len(sent.images), bytes=size)
        state.metrics.received.inc(size)
        results = await _results(state, model, sent, sent.top or said or TOP, request)
    finally:
        state.held.give(size)
        state.under_way -= 1
    refused = [result for result in results if isinstance(result, Refused)]
    for each in refused:
        state.metrics.images.labels(name, each.code).inc()
    if refused and (len(results) == 1 or any(each.status >= 500 for each in refused)):
        raise max(refused, key=lambda each: each.status)
    state.metrics.images.labels(name, "answered").inc(len(results) - len(refused))
    answer: dict[str, Any] = {
        "model": name,
        "version": model.version,
        "engine": model.facts["engine"],
        "milliseconds": round(1000 * (time.perf_counter() - began), 3),
        "predictions": [told(file, result) for (file, _), result in zip(sent.images, results, strict=True)],
    }
    if len(refused) == len(results):
        message = f"none of the {len(results)} images can be used; predictions says why of each."
        return answer_json({"error": error_facts(422, "unreadable_images", message), **answer}, 422)
    return answer_json(answer)


async def _results(state: State, model: Model, sent: Sent, top: int, request: Request) -> list[Result]:
    """What comes of each image.

    Raises:
        Refused: 429 or 504.
        Gone: the client went away.
    """
    work = model.batcher.submit([content for _, content in sent.images], top)
    gone = asyncio.ensure_future(_gone(request))
    try:
        done: Sequence[asyncio.Future[Any]] = (work.done, gone)
        await asyncio.wait(done, timeout=state.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.done.done():
            return work.done.result()
        if gone.done():
            raise Gone
        raise deadline(state.limits)
    finally:
        work.drop()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def explain(state: State, name: str, request: Request) -> Response:
    """Where the model looks in one image.

    Raises:
        Refused: whatever keeps it from an answer.
    """
    state.require_open()
    model = state.registry.get(name)
    asked = query(request, ("class", "method"))
    method = asked.get("method", "gradient")
    state.under_way += 1
    size = 0
    try:
        sent, size = await read_sent(request.receive, request.headers, state.limits, state.held)
        request.scope["vitkit"].update(images=len(sent.images), bytes=size)
        state.metrics.received.inc(size)
        if len(sent.images) != 1:
            raise Refused(422, "one_image", f"{len(sent.images)} images were sent; one is explained at a time.")
        if sent.top is not None:
            raise Refused(422, "unknown_field", "top is not for explaining; leave it out.")
        file, content = sent.images[0]
        found = await state.explain(model, content, method, asked.get("class"))
    finally:
        state.held.give(size)
        state.under_way -= 1
    answer = {
        "model": name,
        "version": model.version,
        "prediction": told(file, found.pop("prediction")),
        "method": method,
        **found,
    }
    return answer_json(answer)


def query(request: Request, known: Sequence[str]) -> dict[str, str]:
    """What stands behind the address, each name once.

    Raises:
        Refused: 422.
    """
    found: dict[str, str] = {}
    if not request.scope["query_string"]:
        return found
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise Refused(422, "unknown_field", f"{name[:40]!r} is unknown in the address; known: {', '.join(known)}.")
        if name in found:
            raise Refused(422, "bad_field", f"{name} is given twice in the address; give it once.")
        found[name] = value
    return found


def told(file: str | None, found: Result) -> dict[str, Any]:
    """What came of an image, as JSON."""
    if isinstance(found, Refused):
        return {"name": file, "error": {"code": found.code, "message": found.message}}
    result: dict[str, Any] = {
        "name": file,
        "prediction": found.answer,
        "probability": found.probability,
        "unknown": None if found.unknown is None else bool(found.unknown),
    }
    if found.labels is not None:
        result["labels"] = list(found.labels)
    result["top"] = _ranked(found)
    return result


def _ranked(found: Prediction) -> list[dict[str, Any]]:
    pairs = zip(found.classes, found.probabilities, strict=True)
    return [{"class": name, "probability": probability} for name, probability in pairs]


def answer_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as a response; any text is allowed in it, a number that is none is not."""
    content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return Response(content, status, dict(headers or {}), media_type="application/json")
