"""The one form of everything that a server refuses: what was found, what was expected, what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ["Refused", "error_body", "error_facts"]


class Refused(Exception):  # noqa: N818 - no error of ours
    """A request, or one image of it, that is not answered.

    Args:
        status: of HTTP.
        code: for programs, in snake_case.
        message: for people.
        headers: of the answer beside its content type.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def error_body(status: int, code: str, message: str) -> bytes:
    """The JSON of an error; any text is allowed in it."""
    return json.dumps({"error": error_facts(status, code, message)}).encode()


def error_facts(status: int, code: str, message: str) -> dict[str, str | int]:
    """What an error says."""
    return {"code": code, "message": message, "status": status}
