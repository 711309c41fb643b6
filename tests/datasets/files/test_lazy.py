"""Samples that are made when asked for."""

from __future__ import annotations

import pytest

from vitkit.data.samples import Sample
from vitkit.datasets.files.lazy import LazySamples


def test_lazy_samples_are_a_sequence() -> None:
    made: list[int] = []

    def make(index: int) -> Sample:
        made.append(index)
        return Sample(str(index), b"", 0)

    lazy = LazySamples(5, make)
    assert [s.name for s in lazy[1:4]] == ["1", "2", "3"]
    assert lazy[-1].name == "4"
    assert made == [1, 2, 3, 4]
    assert [s.name for s in lazy] == ["0", "1", "2", "3", "4"]
    with pytest.raises(IndexError):
        lazy[5]
