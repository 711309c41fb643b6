"""From the body of a request to encoded images: raw bytes, multipart or base64 in JSON, each within its limits while it arrives."""

from __future__ import annotations

import asyncio
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from vitkit.server.errors import Refused
from vitkit.server.limits import Limits

__all__ = ["Held", "Sent", "read_sent"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
MOST_TOP = 100_000
LARGE = 2**18  # bytes of JSON that take long enough to keep the event loop from others
MOST_FIELDS = 16  # of a form, beside its files
MOST_FIELD = 1024  # bytes of one


class Gone(Exception):  # noqa: N818 - no error of ours
    """The client went away before it had sent everything."""


@dataclass
class Sent:
    """What a client sent."""

    images: list[tuple[str | None, bytes]] = field(default_factory=list)  # names as the client gave them
    top: int | None = None


class Held:
    """Bytes of bodies that a server holds at a time."""

    def __init__(self, most: int) -> None:
        self.most, self.now = most, 0

    def take(self, count: int) -> None:
        """Hold more.

        Raises:
            Refused: 429, others hold too much.
        """
        if self.now + count > self.most:
            raise Refused(429, "too_busy", "too many bodies are being received; try again later.", {"Retry-After": "1"})
        self.now += count

    def give(self, count: int) -> None:
        """Hold less."""
        self.now -= count


async def read_sent(receive: Receive, headers: Mapping[str, str], limits: Limits, held: Held) -> tuple[Sent, int]:
    """Read a body. Returns what was in it and how many bytes it had, which are held until the caller gives them back.

    Raises:
        Refused: 400, 408, 413, 415, 422 or 429.
        Gone: the client went away.
    """
    kind, _, _rest = headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    length = _length(headers, limits)
    if kind == "multipart/form-data":
        parser: _Raw | _Form = _Form(headers["content-type"], limits)
    elif kind in ("application/json", "application/octet-stream") or kind.startswith("image/"):
        parser = _Raw()
    else:
        raise Refused(
            415,
            "unsupported_content_type",
            f"the body is {kind[:100] or 'of no content type'}; expected multipart/form-data, application/json, image/* or "
            "application/octet-stream.",
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "unsupported_encoding", "the body is compressed; send it without Content-Encoding.")
    total = 0
    try:
        try:
            async with asyncio.timeout(limits.seconds):
                async for chunk in _chunks(receive):
                    held.take(len(chunk))
                    total += len(chunk)
                    if total > limits.body_bytes:
                        raise _too_large(total, limits)
                    parser.feed(chunk)
        except TimeoutError:
            raise Refused(
                408,
                "slow_body",
                f"{total} bytes arrived in {limits.seconds:g} s{f' of {length}' if length else ''}; send it faster.",
                {"Connection": "close"},
            ) from None
        sent = parser.end()
        if kind == "application/json":
            content = sent.images[0][1]
            large = len(content) > LARGE
            sent = await asyncio.to_thread(_from_json, content) if large else _from_json(content)
        _check(sent, limits)
    except BaseException:
        held.give(total)
        raise
    return sent, total


def _length(headers: Mapping[str, str], limits: Limits) -> int | None:
    said = headers.get("content-length")
    if said is None:
        return None
    if not said.isdecimal() or len(said) > 20:
        raise Refused(400, "bad_length", f"Content-Length is {said[:40]!r}; expected a number of bytes.")
    if int(said) > limits.body_bytes:
        raise _too_large(int(said), limits)
    return int(said)


def _too_large(found: int, limits: Limits) -> Refused:
    return Refused(
        413,
        "body_too_large",
        f"the body has {'at least ' if found <= limits.body_bytes + 2**20 else ''}{found:,} bytes, at most "
        f"{limits.body_bytes:,} are taken; send fewer or smaller images.",
        {"Connection": "close"},
    )


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


def _check(sent: Sent, limits: Limits) -> None:
    if not sent.images:
        raise Refused(422, "no_images", "the request holds no image; send at least one.")
    if len(sent.images) > limits.images:
        raise Refused(
            413,
            "too_many_images",
            f"{len(sent.images)} images in a request, at most {limits.images} are taken; send several.",
        )


class _Raw:
    """One body as it is."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        self.parts.append(chunk)

    def end(self) -> Sent:
        return Sent([(None, b"".join(self.parts))])


class _Form:
    """multipart/form-data: each part with a file name is an image, ``top`` is a number."""

    def __init__(self, content_type: str, limits: Limits) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        self.sent, self.limits = Sent(), limits
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not 0 < len(boundary) <= 200:
            raise Refused(400, "bad_multipart", "multipart/form-data without a boundary; see RFC 7578.")
        self.parse_options = parse_options_header
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self.begin,
                "on_header_field": self.header_field,
                "on_header_value": self.header_value,
                "on_header_end": self.header_end,
                "on_headers_finished": self.headers_finished,
                "on_part_data": self.data,
                "on_part_end": self.finish,
                "on_end": self.close,
            },
        )
        self.fields, self.whole = 0, False

    def feed(self, chunk: bytes) -> None:
        from python_multipart.exceptions import FormParserError

        try:
            self.parser.write(chunk)
        except FormParserError as error:
            raise Refused(400, "bad_multipart", f"the multipart body is malformed: {str(error)[:200]}.") from None

    def begin(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.name, self.value = b"", b""
        self.parts: list[bytes] = []
        self.size = 0

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        self.headers[self.name.lower()] = self.value
        self.name, self.value = b"", b""
        if len(self.headers) > MOST_FIELDS:
            raise Refused(400, "bad_multipart", "a part has too many headers.")

    def headers_finished(self) -> None:
        kind, options = self.parse_options(self.headers.get(b"content-disposition", b""))
        self.field = options.get(b"name", b"").decode("utf-8", "replace")
        file_name = options.get(b"filename")
        typed = self.headers.get(b"content-type", b"text/plain").lower()
        self.is_file = file_name is not None or not typed.startswith(b"text/plain")
        self.file_name = (file_name or b"").decode("utf-8", "replace") or None
        if kind != b"form-data":
            raise Refused(400, "bad_multipart", "a part has no Content-Disposition: form-data.")

    def data(self, data: bytes, start: int, end: int) -> None:
        self.size += end - start
        if not self.is_file and self.size > MOST_FIELD:
            raise Refused(422, "bad_field", f"the field {self.field[:40]!r} is too long.")
        self.parts.append(data[start:end])

    def finish(self) -> None:
        content = b"".join(self.parts)
        if self.is_file:
            self.sent.images.append((self.file_name, content))
            if len(self.sent.images) > self.limits.images:
                _check(self.sent, self.limits)
            return
        self.fields += 1
        if self.field != "top":
            raise Refused(422, "unknown_field", f"the field {self.field[:40]!r} is unknown; there are top and files.")
        if self.sent.top is not None:
            raise Refused(422, "bad_field", "top is given twice.")
        self.sent.top = read_top(content.decode("utf-8", "replace"))

    def close(self) -> None:
        self.whole = True

    def end(self) -> Sent:
        if not self.whole:
            raise Refused(400, "bad_multipart", "the multipart body ends before its last boundary.")
        return self.sent


def read_top(text: str) -> int:
    """The number of classes to name, from text.

    Raises:
        Refused: 422, it is none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= MOST_TOP):
        raise Refused(422, "bad_top", f"top is {text[:40]!r}; expected a whole number from 1 to {MOST_TOP}.")
    return int(text)


def _from_json(content: bytes) -> Sent:
    try:
        value = json.loads(content, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise Refused(400, "bad_json", "the JSON is nested too deeply.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused(400, "bad_json", f"the body is not JSON: {str(error)[:200]}.") from None
    expected = 'expected {"images": ["<base64>", ...], "top": 5}'
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        raise Refused(422, "bad_request", f"the JSON is not a request; {expected}.")
    if unknown := sorted(set(value) - {"images", "top"}):
        raise Refused(422, "unknown_field", f"the field {unknown[0][:40]!r} is unknown; {expected}.")
    top = value.get("top")
    if "top" in value and (type(top) is not int or not 1 <= top <= MOST_TOP):
        raise Refused(422, "bad_top", f"top is {str(top)[:40]}; expected a whole number from 1 to {MOST_TOP}.")
    images = []
    for number, text in enumerate(value["images"]):
        if not isinstance(text, str):
            raise Refused(422, "bad_request", f"images[{number}] is no text; {expected}.")
        try:
            images.append((None, binascii.a2b_base64(text, strict_mode=True)))
        except ValueError as error:
            raise Refused(400, "bad_base64", f"images[{number}] is not base64: {error}.") from None
    return Sent(list(images), top)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found
