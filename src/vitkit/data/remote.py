"""Remote data by its address: fetched once into the cache, checked, and read from there as local data is.

$VITKIT_CACHE/remote/files/ mirrors the addresses, so that names and folders are those of the store. A file is fetched again
when its size, its tag or its time has changed; offline, what was fetched whole is used as it is.
"""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from vitkit.config import UserError, did_you_mean
from vitkit.console import Console, LiveLine
from vitkit.data.cache import Cache, cache_folder
from vitkit.data.download import is_offline, shown_url, size_text
from vitkit.data.shards import expand_braces, has_braces
from vitkit.data.stores import Entry, NotThereError, Store, store_of

__all__ = ["Editions", "fetched", "is_remote", "local_place"]

RECORDS = "remote-1"  # what is known of fetched files
AT_ONCE = 8  # files
MIB = 2**20


def is_remote(data: str) -> bool:
    """Is it an address, such as ``s3://bucket/photos``?"""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", data) is not None


def local_place(url: str) -> Path:
    """Where the cache has, or will have, a remote file or folder.

    Raises:
        UserError: a user or a password in the address, or a path that leaves its folder.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise UserError(
            f"{shown_url(url)}: leave user and password out of the address, which is stored with the run. Give them in the way of "
            "the store's library: environment variables, or its own file."
        )
    path = PurePosixPath(unquote(parts.path).lstrip("/"))
    if ".." in path.parts or "\0" in str(path):
        raise UserError(f"{shown_url(url)}: expected a path without ..")
    root = cache_folder() / "remote" / "files" / parts.scheme.lower() / (parts.netloc.replace(":", "_") or "_")
    if parts.query:  # may choose between files
        root /= "query-" + hashlib.sha256(parts.query.encode()).hexdigest()[:16]
    return root.joinpath(*path.parts)


def fetched(url: str, is_data: Callable[[str], bool], is_table: Callable[[str], bool]) -> Path:
    """Bring what an address names into the cache, where it is not there as the store has it. Returns the local path.

    Args:
        url: a file, a folder, or several files in brace notation.
        is_data: of a file's name: is it worth fetching?
        is_table: of a file's name: is it data by itself, a table or a tar file?

    Raises:
        UserError: nothing there, not to be had, or no space; half a file is never used, and gone on with the next time.
    """
    if urlsplit(url).scheme.lower() == "file":
        return Path(unquote(urlsplit(url).path))
    place, name = local_place(url), PurePosixPath(unquote(urlsplit(url).path)).name
    if is_table(name) and name.lower().endswith((".csv", ".tsv")):
        raise UserError(
            f"{shown_url(url)} is a table of paths: name the folder that holds it and its images, so that they are fetched too."
        )
    several = has_braces(url) or is_table(name)  # files by name, as opposed to a folder
    folder = place.parent if several else place
    cache = Cache(RECORDS)
    try:
        if is_offline():
            _check_offline(cache, url, folder)
            return place
        from filelock import FileLock

        locks = cache_folder() / "remote" / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / hashlib.sha256(_key(url).encode()).hexdigest()[:32]):
            store = store_of(url)
            entries = _named(store, url) if several else [e for e in _listed(store, url) if is_data(e.path)]
            if not entries:
                raise UserError(f"{shown_url(url)} holds no images and no tables.")
            _bring(cache, store, url, folder, entries)
            if not several:
                _prune(folder, entries)
            sizes = {entry.path: (folder / entry.path).stat().st_size for entry in entries}
            cache.put({f"listing {_key(url)}": json.dumps(sizes).encode()})
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"no space is left in {cache_folder()}. Free some, or set VITKIT_CACHE to another place; what came is kept."
            ) from None
        raise UserError(f"cannot write to {cache_folder()}: {error.strerror or error}.") from None
    finally:
        cache.close()
    return place


class Editions:
    """What the store said of files that were fetched: changes when they do."""

    def __init__(self) -> None:
        self._cache = Cache(RECORDS)

    def of(self, url: str) -> str:
        """The edition of a file; empty where its store tells none."""
        known = _record(self._cache, url) or _record(self._cache, _as_listed(url))
        return str(known.get("edition", ""))

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


def _as_listed(url: str) -> str:
    """The address as a web server's page links to it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, quote(unquote(parts.path)), parts.query, ""))


def _key(url: str) -> str:
    parts = urlsplit(url)
    query = hashlib.sha256(parts.query.encode()).hexdigest()[:16] if parts.query else ""
    return f"{shown_url(url)} {query}".strip()


def _named(store: Store, url: str) -> list[Entry]:
    """The files that an address names, and the list of classes beside them where there is one."""
    parts = urlsplit(url)
    found = []
    for path in expand_braces(parts.path) if has_braces(url) else [parts.path]:
        one = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
        name = PurePosixPath(unquote(path)).name
        try:
            entry = store.look(one, name)
        except NotThereError as error:
            raise _near(store, one, error) from None
        if entry is None:
            raise UserError(f"{shown_url(one)} is a folder; a file was expected by its name.")
        found.append(entry)
    beside = parts.path.rpartition("/")[0] + "/classes.txt"
    try:
        classes = store.look(urlunsplit((parts.scheme, parts.netloc, beside, parts.query, "")), "classes.txt")
    except UserError:  # many stores do not tell what is not there from what may not be seen
        classes = None
    if classes is None:
        (local_place(url).parent / "classes.txt").unlink(missing_ok=True)
    return [*found, *([classes] if classes else [])]


def _listed(store: Store, url: str) -> list[Entry]:
    try:
        found = store.find(url)
        if not found and store.look(url, "") is not None:
            raise UserError(
                f"{shown_url(url)} is a file; expected a folder, or a file that ends in .parquet, .tar or .tar.gz."
            )
        if len(found) == 1 and not found[0].path:
            raise UserError(
                f"{shown_url(url)} is a file; expected a folder, or a file that ends in .parquet, .tar or .tar.gz."
            )
        if not found:
            raise NotThereError(f"there is no {shown_url(url)}, or nothing is in it.")
    except NotThereError as error:
        raise _near(store, url, error) from None
    for entry in found:
        if ".." in PurePosixPath(entry.path).parts or PurePosixPath(entry.path).is_absolute():
            raise UserError(f"{shown_url(url)} lists {entry.path!r}; expected names below the folder.")
    return [entry for entry in found if not any(part.startswith(".") for part in entry.path.split("/"))]


def _near(store: Store, url: str, error: UserError) -> UserError:
    """The same message with the nearest name that is there."""
    parts = urlsplit(url)
    folder, _, name = unquote(parts.path).rstrip("/").rpartition("/")
    if not name:
        return error
    near = store.names(urlunsplit((parts.scheme, parts.netloc, folder or "/", parts.query, "")))
    return UserError(f"no such data: {error}{did_you_mean(name, near)}")


def _bring(cache: Cache, store: Store, url: str, folder: Path, entries: Sequence[Entry]) -> None:
    """Fetch those entries that ``folder`` does not have as the store has them."""
    console = Console(out=sys.stderr)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        known = list(pool.map(lambda entry: _sized(store, entry), entries))
        missing = [entry for entry in known if not _is_whole(cache, entry, folder / entry.path)]
        if not missing:
            return
        total = sum(entry.size or 0 for entry in missing)
        free = shutil.disk_usage(cache_folder()).free
        if total > free:
            raise UserError(
                f"{shown_url(url)} needs {size_text(total)} and {cache_folder()} has {size_text(free)} left. Free some, or set "
                "VITKIT_CACHE to another place."
            )
        console.say(f"fetching {shown_url(url)}: {len(missing)} of {len(known)} files, {size_text(total)}")
        with console.live(max(1, total // MIB), "fetching") as line:
            told = _Told(line, len(missing))
            jobs = [pool.submit(_fetch, cache, store, entry, folder / entry.path, told) for entry in missing]
            try:
                for job in concurrent.futures.as_completed(jobs):
                    job.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


class _Told:
    """Adds up what several threads fetch."""

    def __init__(self, line: LiveLine, files: int) -> None:
        self.line, self.files, self.bytes, self.done = line, files, 0, 0
        self.lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self.lock:
            self.bytes += count
            self.line.update(self.bytes // MIB, f"MiB, {self.done}/{self.files} files")

    def finished(self) -> None:
        with self.lock:
            self.done += 1


def _sized(store: Store, entry: Entry) -> Entry:
    """The entry with size and edition, where a listing did not tell them."""
    if entry.size is not None or entry.edition:
        return entry
    return store.look(entry.url, entry.path) or entry


def _fetch(cache: Cache, store: Store, entry: Entry, target: Path, told: _Told) -> None:
    """One file, whole or not at all."""
    coming = cache_folder() / "remote" / "coming" / target.relative_to(cache_folder() / "remote" / "files")
    store.copy(entry, coming, told)
    size = coming.stat().st_size
    if entry.size is not None and size != entry.size:
        coming.unlink()
        raise UserError(
            f"{shown_url(entry.url)} came as {size_text(size)}, and the store says {size_text(entry.size)}. Try again."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    coming.replace(target)
    record = {"size": size, "edition": entry.edition}
    cache.put({f"file {_key(entry.url)}": json.dumps(record).encode()})
    told.finished()


def _record(cache: Cache, url: str) -> dict[str, object]:
    stored = cache.get(f"file {_key(url)}")
    record = json.loads(stored) if stored else {}
    return record if isinstance(record, dict) else {}


def _is_whole(cache: Cache, entry: Entry, path: Path) -> bool:
    """Is the file here, of the size and edition that the store has today?"""
    record = _record(cache, entry.url)
    return (
        path.is_file()
        and bool(entry.edition)
        and record.get("edition") == entry.edition
        and record.get("size") == path.stat().st_size
        and entry.size in (None, record.get("size"))
    )


def _check_offline(cache: Cache, url: str, folder: Path) -> None:
    """Raises UserError where not all of it was fetched before."""
    stored = cache.get(f"listing {_key(url)}")
    listing = json.loads(stored) if stored else {}
    gone = [
        path
        for path, size in listing.items()
        if not (folder / path).is_file() or (folder / path).stat().st_size != size
    ]
    if gone or not listing:
        state = f"not whole on this machine ({gone[0]} is not as it came)" if gone else "not on this machine"
        raise UserError(f"{shown_url(url)} is {state}, and nothing is fetched offline.")


def _prune(folder: Path, entries: Sequence[Entry]) -> None:
    """Remove what the store no longer has."""
    kept = {folder / entry.path for entry in entries}
    for path in folder.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
