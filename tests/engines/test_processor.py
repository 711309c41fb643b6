"""How many threads, and which processor, without torch."""

from __future__ import annotations

import os

import pytest

from vitkit.engines.processor import processor_sign, processor_threads


def test_threads_are_as_many_as_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, threads in (("3", 3), ("1", 1), ("2,4", 2)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert processor_threads() == threads
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for said in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert processor_threads() == here


def test_the_sign_is_of_the_processor_alone() -> None:
    assert processor_sign() == processor_sign()
    assert len(processor_sign()) == 8
