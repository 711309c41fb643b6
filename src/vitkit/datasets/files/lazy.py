"""Samples that are made when they are asked for: some published sets have more of them than it is sensible to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from vitkit.data.samples import Sample

__all__ = ["LazySamples"]


class LazySamples(Sequence[Sample]):
    """``make(index)`` for each index below ``length``, or in the order of ``order``. A slice is a list."""

    def __init__(self, length: int, make: Callable[[int], Sample], order: Sequence[int] | None = None) -> None:
        self._length = length
        self._make = make if order is None else lambda index: make(order[index])

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._make(place) for place in range(*index.indices(self._length))]
        place = index + self._length if index < 0 else index
        if not 0 <= place < self._length:
            raise IndexError(index)
        return self._make(place)
