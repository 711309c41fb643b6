"""Memory is lent to one tensor at a time, and again once nothing refers to it."""

from __future__ import annotations

import pytest
import torch

from vitkit.engines.native import rooms
from vitkit.engines.native.rooms import room


def test_memory_is_lent_again_once_no_tensor_refers_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_lent", rooms._Lent())
    first = room(3 << 20)
    at, view = first.data_ptr(), first.view(torch.float32)[5:]
    assert len(first) == 3 << 20
    assert room(100).data_ptr() != at
    del first
    second = room(3 << 20)
    assert second.data_ptr() != at  # the view still refers to it
    del view
    assert room(3 << 20).data_ptr() == at
    assert room(4 << 20).data_ptr() == at  # of whole large pages, as many


def test_what_was_not_asked_for_in_long_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_lent", rooms._Lent())
    monkeypatch.setattr(rooms, "SELDOM", 3)
    room(3 << 20)
    held = room(9 << 20)
    for size in (5, 7, 11):
        room(size << 20)
    assert sorted(len(one.whole) >> 20 for one in rooms._lent.memories) == [6, 8, 10, 12]
    assert len(held) == 9 << 20
