"""Refusing work that there is no room for without reading it as HTTP in full, so that refusing costs next to nothing.

Only a head that can be read in one way is taken here; any other goes to the parser, and is refused there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vitkit.server.errors import Refused, error_body

__all__ = ["Head", "busy_answer", "plain_head"]

PLAIN = re.compile(
    rb"POST /v1/models/([A-Za-z0-9._-]{1,100}):predict(?:\?[!-~]*)? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+: ?[ -~]*\r\n)+)\r\n"
)
LENGTH = re.compile(rb"(?:^|\n)content-length: ?(\d{1,7})\r\n")
MOST = 2**20  # bytes of a body that is read over


class Head(NamedTuple):
    """Of a request to predict."""

    model: str
    end: int  # where its body begins
    length: int  # bytes of its body


def plain_head(data: bytes) -> Head | None:
    """The head at the beginning of ``data`` if it is whole and leaves no doubt; else None."""
    found = PLAIN.match(data)
    if found is None:
        return None
    fields = found[2].lower()
    if (
        fields.count(b"content-length") != 1
        or b"transfer-encoding" in fields
        or b"expect" in fields
        or b"close" in fields
    ):
        return None
    length = LENGTH.search(fields)
    if length is None or int(length[1]) > MOST:
        return None
    return Head(found[1].decode(), found.end(), int(length[1]))


def busy_answer(refused: Refused) -> bytes:
    """A refusal as it goes over the wire; the connection stays."""
    body = error_body(refused.status, refused.code, refused.message)
    more = "".join(f"{name.lower()}: {value}\r\n" for name, value in refused.headers.items())
    head = (
        f"HTTP/1.1 {refused.status} Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-content-type-options: nosniff\r\ncache-control: no-store\r\n{more}\r\n"
    )
    return head.encode() + body
