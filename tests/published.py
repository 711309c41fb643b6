"""What tests of published data sets ask of a reader, and the order of TensorFlow Datasets once more."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from vitkit.config import UserError
from vitkit.data.samples import Source
from vitkit.datasets.book import read_data

__all__ = ["hashed", "labelled", "refused"]


def hashed(keys: Sequence[str | int], split: str) -> list[str | int]:
    """The order of TensorFlow Datasets, spelled out once more."""
    return sorted(keys, key=lambda key: hashlib.md5(f"{split}{key}".encode()).hexdigest())


def refused(name: str, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_data(f"{name}={folder}", partial=True)
    return str(caught.value)


def labelled(source: Source, split: str) -> dict[str, str]:
    return {sample.name: source.classes[sample.label] for sample in source.splits[split]}
