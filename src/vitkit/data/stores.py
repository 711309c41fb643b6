"""Where remote files come from: web servers by the standard library, everything else by fsspec."""

from __future__ import annotations

import contextlib
import datetime
import html.parser
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from vitkit import __version__
from vitkit.config import UserError, did_you_mean, read_json, write_json
from vitkit.data.download import TIMEOUT, Expected, download, record_of, shown_url, size_text, without_secrets

__all__ = ["Entry", "NotThereError", "Store", "scrubbed", "store_of"]

CHUNK = 1 << 20
MOST_FOLDERS = 10_000  # of a web server, so that links in a circle end
EDITIONS = ("ETag", "etag", "e_tag", "md5Hash", "content_md5", "generation", "version_id", "checksum")
TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "adl": "adlfs",
    "sftp": "paramiko", "ssh": "paramiko", "oci": "ocifs", "oss": "ossfs", "dropbox": "dropboxdrivefs", "webdav": "webdav4",
}  # fmt: skip  # of fsspec's own table of protocols, which names them in sentences


class NotThereError(UserError):
    """No such remote file or folder."""


class Entry(NamedTuple):
    """A remote file."""

    url: str
    path: str  # below the folder that was asked for; of a single file its name
    size: int | None  # bytes, where the store tells
    edition: str  # what changes when the file does: its tag or its time; empty where the store tells neither


class Store(Protocol):
    """A place of remote files. Every method raises `UserError` where the store does not answer or refuses."""

    def look(self, url: str, path: str) -> Entry | None:
        """One file; None of a folder. Raises `NotThereError`."""
        ...

    def find(self, url: str) -> list[Entry]:
        """All files below a folder. Raises `NotThereError`."""
        ...

    def names(self, url: str) -> list[str]:
        """What the folder holds, for "did you mean"; nothing where it cannot be listed."""
        ...

    def copy(self, entry: Entry, target: Path, told: Callable[[int], object]) -> None:
        """The whole file to ``target``, gone on with where an earlier attempt was cut; ``told`` hears of every piece's bytes."""
        ...


def store_of(url: str) -> Store:
    """The store of an address.

    Raises:
        UserError: an unknown protocol, or one whose library is not installed.
    """
    return _Web() if urlsplit(url).scheme in ("http", "https") else _FileSystem(url)


class _Links(html.parser.HTMLParser):
    """The addresses that a page of a web server's folder links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


class _Web:
    """A web server; its folders are the pages that list them."""

    def look(self, url: str, path: str) -> Entry | None:
        url = _quoted(url)
        if urlsplit(url).path.endswith("/"):
            return None
        with self._ask(url, "HEAD") as answer:
            if urlsplit(answer.url).path.endswith("/"):  # sent on to the page of a folder
                return None
            headers = answer.headers
        length = headers.get("Content-Length")
        edition = headers.get("ETag") or headers.get("Last-Modified") or ""
        return Entry(url, path, None if length is None else int(length), edition)

    def find(self, url: str) -> list[Entry]:
        found: list[Entry] = []
        seen: set[str] = set()
        folders = [(_quoted(url, "/"), "")]
        while folders:
            folder, below = folders.pop()
            if folder in seen or len(seen) >= MOST_FOLDERS:
                continue
            seen.add(folder)
            for link, name in self._children(folder):
                if link.endswith("/"):
                    folders.append((link, f"{below}{name}/"))
                else:
                    found.append(Entry(link, f"{below}{name}", None, ""))
        return sorted(found, key=lambda entry: entry.path)

    def names(self, url: str) -> list[str]:
        with contextlib.suppress(UserError):
            return [name for _, name in self._children(_quoted(url, "/"))]
        return []

    def _children(self, folder: str) -> list[tuple[str, str]]:
        """Address and name of what lies right below a folder; a folder's address ends with a slash."""
        with self._ask(folder, "GET") as answer:
            if "html" not in answer.headers.get("Content-Type", ""):
                raise UserError(
                    f"{shown_url(folder)} is no page that lists files. Name the files themselves, several with braces: "
                    "train-{000..003}.tar."
                )
            page = _Links()
            page.feed(answer.read().decode("utf-8", "replace"))
        base = urlsplit(folder)
        children: dict[str, str] = {}
        for href in page.found:
            link = urlsplit(urljoin(folder, href))
            rest = link.path.removeprefix(base.path)
            name = unquote(rest.rstrip("/"))
            inside = (link.scheme, link.netloc) == (base.scheme, base.netloc) and link.path.startswith(base.path)
            if inside and name and "/" not in name and name not in (".", "..") and not (link.query and not rest):
                children[_quoted(urlunsplit((link.scheme, link.netloc, link.path, base.query, "")))] = name
        return list(children.items())

    def _ask(self, url: str, method: str) -> Any:
        """The answer's headers, and of GET its body.

        Raises:
            NotThereError: the server has no such page.
            UserError: it refuses or does not answer.
        """
        host, shown = urlsplit(url).hostname, shown_url(url)
        request = urllib.request.Request(
            url, method=method, headers={"User-Agent": f"vitkit/{__version__}", "Accept-Encoding": "identity"}
        )
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            code = error.code
            error.close()
            if code in (http.client.NOT_FOUND, http.client.GONE):
                raise NotThereError(f"{host} has no {shown} ({code}).") from None
            if method == "HEAD":  # signed addresses are for one method
                return self._ask(url, "GET")
            if code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
                raise UserError(f"{host} does not give {shown} to everybody ({code}).") from None
            reason = http.client.responses.get(code, "")
            raise UserError(f"{host} answers {code} {reason}; try again later. Tried {shown}.") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            told = str(getattr(error, "reason", None) or error)
            raise UserError(f"{host} does not answer ({scrubbed(told)}). Tried {shown}.") from None

    def copy(self, entry: Entry, target: Path, told: Callable[[int], object]) -> None:
        def progress(start: int, _: int | None) -> contextlib.AbstractContextManager[Callable[[int], object]]:
            told(start)
            return contextlib.nullcontext(told)

        download(entry.url, target, Expected(), progress, secure=urlsplit(entry.url).scheme == "https")
        record_of(target).unlink(missing_ok=True)


class _FileSystem:
    """Anything that fsspec knows."""

    def __init__(self, url: str) -> None:
        protocol = urlsplit(url).scheme
        try:
            import fsspec
            from fsspec.registry import known_implementations
        except ImportError:
            raise UserError(f"{shown_url(url)} needs fsspec: pip install fsspec{_package(protocol)}.") from None
        if protocol not in fsspec.available_protocols():
            raise UserError(
                f"{shown_url(url)}: the protocol {protocol!r} is not known.{did_you_mean(protocol, fsspec.available_protocols())}"
            )
        try:
            with _told(url):
                self.files, _ = fsspec.core.url_to_fs(url)
        except ImportError:
            what = known_implementations.get(protocol, {}).get("err", "")
            install = f"pip install fsspec{_package(protocol)}" if _package(protocol) else what
            raise UserError(f"{shown_url(url)} needs a library that is not installed: {install}.") from None

    def _path(self, url: str) -> str:
        return str(self.files._strip_protocol(url))

    def look(self, url: str, path: str) -> Entry | None:
        with _told(url):
            about = self.files.info(self._path(url))
        return None if about.get("type") == "directory" else self._entry(url, path, about)

    def find(self, url: str) -> list[Entry]:
        root = self._path(url).rstrip("/")
        with _told(url):
            found = self.files.find(root, detail=True)
        base = url.rstrip("/")
        entries = []
        for place, about in sorted(found.items()):
            below = str(place).removeprefix(root).lstrip("/")
            entries.append(self._entry(f"{base}/{below}", below, about))
        return entries

    def names(self, url: str) -> list[str]:
        with contextlib.suppress(
            Exception
        ):  # only to name what is near: any library's trouble means there is nothing to name
            return [str(place).rstrip("/").rpartition("/")[2] for place in self.files.ls(self._path(url), detail=False)]
        return []

    def _entry(self, url: str, path: str, about: dict[str, Any]) -> Entry:
        told = [f"{name}={about[name]}" for name in EDITIONS if about.get(name)]
        times = [f"{_seconds(about[name])}" for name in TIMES if about.get(name)]
        return Entry(url, path, about.get("size"), " ".join(told[:1] or times[:1]))

    def copy(self, entry: Entry, target: Path, told: Callable[[int], object]) -> None:
        """See `Store.copy`; ``target.partial`` and what edition it is of stand in its place meanwhile."""
        partial, about = target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.partial.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        edition = {"url": shown_url(entry.url), "edition": entry.edition, "size": entry.size}
        start = partial.stat().st_size if entry.edition and _same(about, edition) and partial.exists() else 0
        write_json(about, edition)
        told(start)
        with partial.open("ab" if start else "wb") as file:
            for piece in self._pieces(entry.url, start):
                file.write(piece)
                told(len(piece))
        if entry.size is not None and partial.stat().st_size != entry.size:
            size = partial.stat().st_size
            if size > entry.size:
                partial.unlink()
            raise UserError(
                f"{shown_url(entry.url)} ended after {size_text(size)} of {size_text(entry.size)}. Run the command again: it "
                "goes on from there."
            )
        partial.replace(target)
        about.unlink(missing_ok=True)

    def _pieces(self, url: str, start: int) -> Iterator[bytes]:
        """What the file holds from a byte on; only reading it is the store's doing."""
        with _told(url, " The part that came is kept: run the command again, and it goes on from there."):
            stream = self.files.open(self._path(url), "rb")
        with stream:
            if start:
                stream.seek(start)
            while True:
                with _told(url, " The part that came is kept: run the command again, and it goes on from there."):
                    piece = stream.read(CHUNK)
                if not piece:
                    return
                yield piece


def _same(about: Path, edition: dict[str, Any]) -> bool:
    try:
        return bool(read_json(about) == edition)
    except UserError:
        return False


def _package(protocol: str) -> str:
    return f" {PACKAGES[protocol]}" if protocol in PACKAGES else ""


def _seconds(time: Any) -> Any:
    """One form of a time that a store writes in several."""
    return time.timestamp() if isinstance(time, datetime.datetime) else time


def _quoted(url: str, end: str = "") -> str:
    """The address as a web server takes it, whether or not spaces and the like were written out."""
    parts = urlsplit(url)
    path = quote(unquote(parts.path))
    return urlunsplit((parts.scheme, parts.netloc, path.rstrip("/") + end if end else path, parts.query, ""))


def scrubbed(text: str) -> str:
    """A library's message in one line, addresses in it without what may be secret."""
    line = text.strip().splitlines()[0].rstrip(".") if text.strip() else "no reason given"
    return without_secrets(line)


@contextlib.contextmanager
def _told(url: str, after: str = "") -> Iterator[None]:
    """The errors of many libraries as one message each."""
    shown = shown_url(url)
    try:
        yield
    except (UserError, ImportError):
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise NotThereError(f"there is no {shown}.") from None
    except PermissionError as error:
        raise UserError(
            f"{shown} may not be read ({scrubbed(str(error))}). Give credentials in the way of its library, by environment "
            "variables or its own file, not in the address."
        ) from None
    except Exception as error:  # each store's library raises its own
        raise UserError(
            f"{shown} cannot be read ({type(error).__name__}: {scrubbed(str(error))}). Check the address, the network and your "
            f"credentials.{after}"
        ) from None
