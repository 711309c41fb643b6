"""Keys that clients show, where a server asks for them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from vitkit.config import UserError
from vitkit.server.errors import Refused

__all__ = ["Keys", "read_keys"]

LEAST = 8  # characters


class Keys:
    """The keys that are taken; without any every client is."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def __len__(self) -> int:
        return len(self._digests)

    def require(self, headers: Mapping[str, str]) -> None:
        """Check what a client shows. All keys are compared, each in constant time.

        Raises:
            Refused: 401.
        """
        if not self._digests:
            return
        scheme, _, said = headers.get("authorization", "").partition(" ")
        shown = said.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
        digest = hashlib.sha256(shown.encode("utf-8", "surrogateescape")).digest()
        if not sum(hmac.compare_digest(digest, each) for each in self._digests):
            found = "the key is not known" if shown else "no key was sent"
            raise Refused(
                401,
                "key_required",
                f"{found}; send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
                {"WWW-Authenticate": "Bearer"},
            )


def read_keys(path: str | Path) -> Keys:
    """Keys of a file, one a line; empty lines and those that begin with # are left out.

    Raises:
        UserError: it cannot be read, holds none, or one that is easy to guess.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UserError(f"--api-key-file {path} holds no key; write one a line.")
    for number, key in enumerate(found, 1):
        if len(key) < LEAST or not key.isprintable() or not key.isascii() or " " in key:
            raise UserError(f"--api-key-file {path}: key {number} needs {LEAST} or more letters and digits, no spaces.")
    return Keys(tuple(found))
