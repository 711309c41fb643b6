"""What was found out about an image's content, kept between runs under the SHA-256 of the file.

One SQLite file per version of the rules in $VITKIT_CACHE, else $XDG_CACHE_HOME/vitkit, else ~/.cache/vitkit. Many processes may
write it at once. Every value carries a checksum; a damaged value is looked up again, a damaged file is made anew, and a place that
cannot be written costs time only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Cache", "cache_folder"]

WAIT = 30.0  # seconds to wait for another writer


def cache_folder() -> Path:
    """Where vitkit keeps what it can find out again."""
    if own := os.environ.get("VITKIT_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "vitkit"


class Cache:
    """Bytes by key. ``name`` holds the version of the rules: other rules, other file. Threads may share it."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / f"{name}.sqlite"
        self.problem = ""  # why nothing is kept, empty where all is well
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        try:
            self._database = self._open()
        except sqlite3.DatabaseError as error:
            self._renew(error)
        except OSError as error:
            self._give_up(error)

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=WAIT, check_same_thread=False, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = OFF")  # losing the last entries in a crash costs time only
            database.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            database.execute("SELECT key, value FROM facts LIMIT 1").fetchone()
        except BaseException:
            database.close()
            raise
        return database

    def _renew(self, error: Exception) -> None:
        """Put a damaged file away and start a new one; anything else that is wrong ends the use of the cache."""
        self.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, read-only, full: the file itself may be whole
            return self._give_up(error)
        try:
            self.path.unlink(missing_ok=True)
            self._database = self._open()
        except (sqlite3.Error, OSError) as again:
            self._give_up(again)
        return None

    def _give_up(self, error: Exception) -> None:
        self.close()
        self.problem = f"the cache {self.path} cannot be used ({error}); everything is looked at anew"

    def get(self, key: str) -> bytes | None:
        """What is known under ``key``."""
        with self._lock:
            if self._database is None:
                return None
            try:
                row = self._database.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
            except sqlite3.Error as error:
                self._renew(error)
                return None
        if row is None or not isinstance(row[0], bytes) or len(row[0]) < 4:
            return None
        check, value = row[0][:4], row[0][4:]
        return value if zlib.crc32(value).to_bytes(4, "big") == check else None

    def put(self, values: Mapping[str, bytes]) -> None:
        """Keep values, all of them or none."""
        rows = [(key, zlib.crc32(value).to_bytes(4, "big") + value) for key, value in values.items()]
        with self._lock:
            if self._database is None or not rows:
                return
            try:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                self._renew(error)

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
        self._database = None
