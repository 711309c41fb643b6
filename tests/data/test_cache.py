"""The cache: what was put is there, damage costs time only, many may write."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitkit.data.cache import Cache, cache_folder


def test_what_was_put_is_there_for_the_next_run(tmp_path: Path) -> None:
    cache = Cache("facts-1", tmp_path)
    cache.put({"a": b"one", "b": b""})
    cache.close()
    again = Cache("facts-1", tmp_path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (b"one", b"", None)
    assert Cache("facts-2", tmp_path).get("a") is None  # other rules


def test_a_damaged_value_and_a_damaged_file_are_as_if_nothing_was_known(tmp_path: Path) -> None:
    cache = Cache("facts-1", tmp_path)
    cache.put({"a": b"one", "b": b"two"})
    cache.close()
    with sqlite3.connect(cache.path) as database:
        database.execute("UPDATE facts SET value = ? WHERE key = 'a'", (b"0000one",))
        database.execute("UPDATE facts SET value = 5 WHERE key = 'b'")
    database.close()
    again = Cache("facts-1", tmp_path)
    assert (again.get("a"), again.get("b")) == (None, None)
    again.close()
    cache.path.write_bytes(b"this is no database at all" * 100)
    renewed = Cache("facts-1", tmp_path)
    assert renewed.get("a") is None
    assert not renewed.problem
    renewed.put({"a": b"new"})
    assert renewed.get("a") == b"new"


def test_a_place_that_cannot_be_used_is_told_and_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    cache = Cache("facts-1", tmp_path / "file" / "below")
    assert "cannot be used" in cache.problem
    cache.put({"a": b"one"})
    assert cache.get("a") is None


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        cache = Cache("facts-1", tmp_path)
        for step in range(20):
            cache.put({f"{number}-{step}": bytes([number, step])})
        assert not cache.problem
        cache.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    cache = Cache("facts-1", tmp_path)
    assert all(cache.get(f"{n}-{s}") == bytes([n, s]) for n in range(4) for s in range(20))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("VITKIT_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("VITKIT_CACHE")
    assert cache_folder() == Path("/x/vitkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/vitkit").expanduser()
