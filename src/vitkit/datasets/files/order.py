"""The order in which TensorFlow Datasets keeps the images of a split, on which slices such as ``train[:800]`` rest.

It writes the examples of a split sorted by the MD5 sum of the split's name followed by the example's key.
Source: tensorflow_datasets 4.9, core/hashing.py, core/shuffle.py and core/split_builder.py (`hash_salt=split_name`); the keys are
those that each data set's builder gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["in_tfds_order"]

T = TypeVar("T")


def in_tfds_order(items: Sequence[T], keys: Sequence[str | int], split: str) -> list[T]:
    """``items`` as TensorFlow Datasets orders them.

    Args:
        keys: of each item, as the data set's builder gives them.
        split: its name there: train, test or validation.
    """
    salted = hashlib.md5(split.encode(), usedforsecurity=False)

    def place(key: str | int) -> bytes:
        mixed = salted.copy()
        mixed.update(str(key).encode())
        return mixed.digest()

    places = [place(key) for key in keys]
    return [items[i] for i in sorted(range(len(items)), key=places.__getitem__)]
