"""What a server says of itself: OpenAPI, and the same as a plain page that asks nobody for anything."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["EXPLAIN", "LIST", "METRICS", "PREDICT", "SHOW", "STATUS", "describe", "docs_page"]


class ErrorFacts(BaseModel):
    code: str = Field(description="For programs, in snake_case.")
    message: str = Field(description="What was found, what was expected, what to do.")
    status: int


class Error(BaseModel):
    error: ErrorFacts


class ImageError(BaseModel):
    code: str
    message: str


class ClassProbability(BaseModel):
    name: str = Field(alias="class")
    probability: float


class Prediction(BaseModel):
    """What came of one image: a prediction, or an error."""

    name: str | None = Field(description="The file name as it was sent.")
    prediction: str = Field("", description="The class; of a multi-label model all labels, joined by |.")
    probability: float = Field(0, description="Calibrated where the model is.")
    unknown: bool | None = Field(None, description="Unlike the training images; null where the model cannot tell.")
    labels: list[str] = Field([], description="Of a multi-label model: the classes that reach their thresholds.")
    top: list[ClassProbability] = []
    error: ImageError | None = None


class Answer(BaseModel):
    model: str
    version: str = Field(description="A sign of the model's files.")
    engine: str
    milliseconds: float
    predictions: list[Prediction] = Field(description="One for each image, in order.")


class Map(BaseModel):
    png: str = Field(description="A PNG with transparency in base64, to lay over the upright photo.")
    left: float = Field(description="Fractions of the photo.")
    top: float
    width: float
    height: float


class Explanation(BaseModel):
    model: str
    version: str
    prediction: Prediction
    explained: str = Field(description="The class that the map is of.")
    method: str
    map: Map


class Model(BaseModel):
    name: str
    version: str
    default: bool
    task: str
    classes: list[str]
    image_size: list[int] = Field(description="Height and width.")
    engine: str
    precision: str
    calibrated: bool
    tells_unknown: bool
    explains: bool
    licence: str
    source: str
    notes: list[str]


class LimitFacts(BaseModel):
    body_bytes: int
    pixels: int
    images: int
    seconds: float


class Models(BaseModel):
    models: list[Model]
    limits: LimitFacts


class Status(BaseModel):
    status: str


REASONS = {
    400: "Malformed: not HTTP, JSON, base64 or multipart.",
    401: "A key is asked for and none or another was sent.",
    404: "No such model, or class of it.",
    408: "The body arrived too slowly.",
    413: "Too many bytes, pixels or images.",
    415: "Another content type.",
    422: "An image or a value that cannot be used.",
    429: "Too many images are waiting; Retry-After says when to try again.",
    500: "A bug in the server.",
    501: "The model has no modules to look into.",
    503: "The server is shutting down, or has no connection left.",
    504: "No answer in time.",
}
TOP = {"type": "integer", "minimum": 1, "maximum": 100000}
FILE = {"type": "string", "format": "binary"}
RAW = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/*", "application/octet-stream")


def _route(answer: Any, *statuses: int, **more: Any) -> dict[str, Any]:
    responses: dict[int, Any] = {status: {"model": Error, "description": REASONS[status]} for status in statuses}
    for status in (429, 503):
        if status in responses:
            responses[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return {"response_model": None, "responses": {200: {"model": answer, "description": "Done."}, **responses}, **more}


def _images(one: bool, *parameters: dict[str, Any]) -> dict[str, Any]:
    """The body with images, and what stands behind the address."""
    many = {"type": "array", "items": FILE, "minItems": 1}
    form = {"type": "object", "properties": {"image": FILE if one else many}, "required": ["image"]}
    encoded = {"type": "string", "format": "byte", "description": "An image file in base64."}
    listed = {"type": "array", "items": encoded, "minItems": 1} | ({"maxItems": 1} if one else {})
    said = {"type": "object", "properties": {"images": listed}, "required": ["images"], "additionalProperties": False}
    if not one:
        form["properties"] = {**form["properties"], "top": TOP}  # type: ignore[dict-item]
        said["properties"] = {**said["properties"], "top": TOP}  # type: ignore[dict-item]
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": said},
        **{kind: {"schema": FILE} for kind in RAW},
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": list(parameters)}


def _parameter(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


WITH_IMAGES = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
STATUS = _route(Status, 503, tags=["state"])
METRICS: dict[str, Any] = {
    "response_model": None,
    "tags": ["state"],
    "response_class": PlainTextResponse,
    "responses": {401: {"model": Error, "description": REASONS[401]}},
}
LIST = _route(Models, 401, tags=["models"])
SHOW = _route(Model, 401, 404, tags=["models"])
PREDICT = _route(
    Answer,
    *WITH_IMAGES,
    tags=["models"],
    openapi_extra=_images(False, _parameter("top", TOP, "How many classes; where the body says it too, that counts.")),
)
EXPLAIN = _route(
    Explanation,
    *WITH_IMAGES,
    501,
    tags=["models"],
    openapi_extra=_images(
        True,
        _parameter("class", {"type": "string"}, "Of the method gradient: the class; without, the predicted one."),
        _parameter("method", {"type": "string", "enum": ["gradient", "rollout", "attention"]}, "How it is looked at."),
    ),
)


def describe(app: FastAPI, keys: bool) -> dict[str, Any]:
    """OpenAPI of an application; ``keys``: it asks for one."""
    found = app.openapi()
    if keys and "security" not in found:
        found.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, methods in found["paths"].items():
            if path.startswith("/v1") or path == "/metrics":
                for operation in methods.values():
                    operation["security"] = [{"bearer": []}, {"header": []}]
    return found


def docs_page(described: dict[str, Any]) -> str:
    """OpenAPI for people: plain HTML without scripts."""
    parts = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            rows = "".join(
                f"<tr><td>{status}</td><td>{html.escape(response.get('description', ''))}</td></tr>"
                for status, response in operation["responses"].items()
            )
            asked = "".join(
                f"<li><code>{html.escape(each['name'])}</code> ({each['in']}) {html.escape(each.get('description', ''))}</li>"
                for each in operation.get("parameters", ())
            )
            kinds = ", ".join(operation.get("requestBody", {}).get("content", ()))
            parts.append(
                f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>"
                f"<p>{html.escape(operation.get('description', ''))}</p>"
                + (f"<ul>{asked}</ul>" if asked else "")
                + (f"<p>Body: {html.escape(kinds)}</p>" if kinds else "")
                + f"<table><thead><tr><th>Status</th><th>Meaning</th></tr></thead><tbody>{rows}</tbody></table></section>"
            )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>vitkit: HTTP interface</title>'
        '<meta name="viewport" content="width=device-width"></head><body><main><h1>HTTP interface</h1>'
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the page</a>.</p>'
        f"{''.join(parts)}</main></body></html>"
    )
