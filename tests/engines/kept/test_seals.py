"""A sealed file is told from any other, by its content wherever times leave doubt."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from vitkit.engines.kept import seals
from vitkit.engines.kept.seals import GRAIN, is_same, seal


def kept(path: Path) -> object:
    """As it comes back from JSON."""
    return json.loads(json.dumps(seal(path)))


def test_an_old_file_is_told_by_its_times_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    time.sleep(2 * GRAIN / 1e9)
    known = kept(path)
    monkeypatch.setattr(seals, "_sha256", lambda _: pytest.fail("its content was read"))
    assert is_same(path, known)


def test_another_content_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    time.sleep(2 * GRAIN / 1e9)
    known, times = kept(path), os.stat(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not is_same(path, known)


def test_a_file_that_was_just_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    known = kept(path)
    assert is_same(path, known)
    path.write_bytes(b"two")  # maybe within one tick of the clock of the file system
    assert not is_same(path, known)


def test_a_copy_is_the_same_and_what_is_missing_or_no_seal_is_not(tmp_path: Path) -> None:
    path, copy = tmp_path / "weights", tmp_path / "copy"
    path.write_bytes(b"one")
    copy.write_bytes(b"one")
    assert is_same(copy, kept(path))
    assert not is_same(tmp_path / "none", kept(path))
    for damaged in (None, [], [1, 2], "text", 7):
        assert not is_same(path, damaged)
