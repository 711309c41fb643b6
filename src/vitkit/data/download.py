"""One file from a plain address into a folder: whole or not at all, resumed where it was cut, checked against what is known of it.

While ``name`` comes, ``name.partial`` and ``name.partial.json`` stand in its place; afterwards ``name.download.json`` keeps its
size and SHA-256, so that a file that was cut later is noticed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.client
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from vitkit import __version__
from vitkit.config import UserError, is_on, write_json

__all__ = [
    "Expected",
    "Progress",
    "download",
    "is_offline",
    "is_whole",
    "record_of",
    "refuse_unsafe",
    "shown_url",
    "size_text",
    "verify",
    "without_secrets",
]

TIMEOUT = 30.0  # seconds without an answer or a byte
CHUNK = 1 << 20
# (first byte, size of the whole file) to a context in which a function is told of the bytes of every piece
Progress = Callable[[int, int | None], contextlib.AbstractContextManager[Callable[[int], object]]]


class Expected(NamedTuple):
    """What is known of a file: whole SHA-256 sums, one of which it must have, and the start of a sum that it must have."""

    sha256: tuple[str, ...] = ()
    digest: str = ""  # "sha256:a1311bcf" or "md5:8cad7c"


class Sums(NamedTuple):
    size: int
    sha256: str
    md5: str


def size_text(size: int | None) -> str:
    """Bytes for people."""
    return "unknown size" if size is None else f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size} bytes"


def is_offline() -> bool:
    """Does the environment forbid sockets? VITKIT_OFFLINE, or the hub's own HF_HUB_OFFLINE."""
    return any(map(is_on, ("VITKIT_OFFLINE", "HF_HUB_OFFLINE")))


def shown_url(url: str) -> str:
    """An address without what may be secret in it: user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str) -> str:
    """A text with every address in it as `shown_url` shows it."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+", lambda match: _shown_in_text(match[0]), text)


def _shown_in_text(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # not an address after all
        return url
    return shown_url(url) if parts.query or parts.fragment or "@" in parts.netloc else url


def refuse_unsafe(url: str) -> None:
    """Only https, or http to this machine.

    Raises:
        UserError: any other address.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1"):
        raise UserError(
            f"{shown_url(url)} is not fetched: only https addresses are, since others can be changed on the way."
        )


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows no redirection to an address that `refuse_unsafe` refuses."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        refuse_unsafe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_whole(path: Path) -> bool:
    """Is the file there, and of the size it had when it was fetched?"""
    try:
        size = path.stat().st_size
        record = json.loads(record_of(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return path.is_file()  # put there by hand
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("size") == size


def verify(path: Path, expected: Expected, url: str) -> str:
    """Read a file once, compare it with what is known, and write its record. Returns its SHA-256.

    Raises:
        UserError: it is not the published file.
    """
    sums = _sums(path)
    try:
        _compare(path, sums, expected, md5=None)
    except UserError as error:
        raise UserError(f"{error} It is {path}: delete it.") from None
    write_json(record_of(path), {"url": shown_url(url), "size": sums.size, "sha256": sums.sha256})
    return sums.sha256


def download(url: str, target: Path, expected: Expected, progress: Progress, *, secure: bool = True) -> str:
    """Fetch ``url`` to ``target``; go on where an earlier attempt was cut. Returns the SHA-256.

    ``secure`` refuses what `refuse_unsafe` does.

    Raises:
        UserError: not to be had, cut short, not the published file, or no space; what can be gone on with is kept.
    """
    if secure:
        refuse_unsafe(url)
    partial, about = target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.partial.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _answer(url, partial, about, secure) as (response, start, total):
            _room_for(target, start, total)
            md5 = _stated_md5(response.headers.get("x-goog-hash", ""))
            with partial.open("ab" if start else "wb") as file, progress(start, total) as told:
                for piece in _pieces(response, url):
                    file.write(piece)
                    told(len(piece))
    except UserError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"no space is left for {target}. Free some, or set VITKIT_CACHE to another place; the part that came "
                "is kept."
            ) from None
        raise UserError(f"cannot write {target}: {error.strerror or error}.") from None
    size = partial.stat().st_size
    if total is not None and size != total:
        raise UserError(
            f"the connection to {urlsplit(url).hostname} ended after {size_text(size)} of {size_text(total)}. "
            "Run the command again: it goes on from there."
        )
    sums = _sums(partial)
    try:
        _compare(target, sums, expected, md5)
    except UserError as error:
        partial.unlink()
        about.unlink(missing_ok=True)
        raise UserError(f"{error} What came is deleted; try again.") from None
    write_json(record_of(target), {"url": shown_url(url), "size": sums.size, "sha256": sums.sha256})
    partial.replace(target)
    about.unlink(missing_ok=True)
    return sums.sha256


@contextlib.contextmanager
def _answer(
    url: str, partial: Path, about: Path, secure: bool
) -> Iterator[tuple[http.client.HTTPResponse, int, int | None]]:
    """The server's answer, the byte it starts at, and the size of the whole file where the server says it."""
    start, validator = _begun(url, partial, about)
    headers = {"User-Agent": f"vitkit/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    response = _open(urllib.request.Request(url, headers=headers), secure)
    if response is None:  # the part that is here is not of today's file
        partial.unlink(missing_ok=True)
        start, response = (
            0,
            _open(urllib.request.Request(url, headers={k: headers[k] for k in list(headers)[:2]}), secure),
        )
        assert response is not None
    with response:
        start = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        write_json(about, {"url": shown_url(url), "etag": response.headers.get("ETag", "")})
        yield response, start, total


def _begun(url: str, partial: Path, about: Path) -> tuple[int, str]:
    """How much of the file is here, and the tag that says of which edition; (0, "") where it cannot be gone on with."""
    try:
        record = json.loads(about.read_text(encoding="utf-8"))
        etag = str(record["etag"])
        if record["url"] == shown_url(url) and etag and not etag.startswith("W/"):
            return partial.stat().st_size, etag
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _open(request: urllib.request.Request, secure: bool) -> http.client.HTTPResponse | None:
    """The answer; None where the server has no such range.

    Raises:
        UserError: no connection, or an answer other than the file.
    """
    url, host = shown_url(request.full_url), urlsplit(request.full_url).hostname
    try:
        answer: http.client.HTTPResponse = urllib.request.build_opener(*([HttpsOnly] if secure else [])).open(
            request, timeout=TIMEOUT
        )
        return answer
    except urllib.error.HTTPError as error:
        code = error.code
        error.close()
        if code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and request.has_header("Range"):
            return None
        raise UserError(f"{_refusal(code, str(host))} Tried {url}.") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{host} does not answer ({reason}). Tried {url}.") from None


def _refusal(code: int, host: str) -> str:
    if code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
        return f"{host} has no such file any more ({code})."
    if code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return f"{host} does not give this file to everybody ({code})."
    return f"{host} answers {code} {http.client.responses.get(code, '')}; try again later."


def _pieces(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            piece = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"the connection to {urlsplit(url).hostname} broke ({error}). Run the command again: it goes on from there."
            ) from None
        if not piece:
            return
        yield piece


def _room_for(target: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(target.parent).free
    if total is not None and total - start > free:
        raise UserError(
            f"{target.name} needs {size_text(total - start)} and {target.parent} has {size_text(free)} left. "
            "Free some, or set VITKIT_CACHE to another place."
        )


def _stated_md5(header: str) -> str | None:
    """The MD5 that Google's storage states in a header of its own, as hex."""
    for part in header.replace(" ", "").split(","):
        if part.startswith("md5="):
            with contextlib.suppress(ValueError):
                return base64.b64decode(part.removeprefix("md5="), validate=True).hex()
    return None


def _sums(path: Path) -> Sums:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            sha256.update(piece)
            md5.update(piece)
            size += len(piece)
    return Sums(size, sha256.hexdigest(), md5.hexdigest())


def _compare(path: Path, sums: Sums, expected: Expected, md5: str | None) -> None:
    kind, _, begin = expected.digest.partition(":")
    own = {"sha256": sums.sha256, "md5": sums.md5}
    wrong = ""
    if md5 not in (None, sums.md5):
        wrong = f"MD5 {sums.md5}, and the server states {md5}"
    elif kind and not own[kind].startswith(begin):
        wrong = f"{kind.upper()} {own[kind]}, and the publisher's begins with {begin}"
    elif expected.sha256 and not kind and sums.sha256 not in expected.sha256:
        wrong = f"SHA256 {sums.sha256}, and known are {', '.join(expected.sha256)}"
    if wrong:
        raise UserError(f"{path.name} is not the published file: it has {wrong}. It was damaged or changed on the way.")


def record_of(path: Path) -> Path:
    """The file that keeps what a fetched file was like."""
    return path.with_name(f"{path.name}.download.json")
