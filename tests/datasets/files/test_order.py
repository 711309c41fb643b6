"""The order of TensorFlow Datasets, against what its own Hasher gave."""

from __future__ import annotations

import pytest

from vitkit.datasets.files.order import in_tfds_order

# What `tensorflow_datasets.core.hashing.Hasher` of version 4.9.10 gives: keys sorted by `hash_key`.
PRINTED = {
    "train": [6, 16, 19, 12, 14, 18, 5, 13, 15, 4, 10, 17, 0, 8, 3, 1, 9, 7, 11, 2],
    "test": [16, 13, 19, 15, 6, 1, 8, 12, 9, 4, 3, 2, 7, 14, 10, 18, 5, 11, 0, 17],
}


@pytest.mark.parametrize("split", PRINTED)
def test_numbers_are_ordered_as_its_hasher_orders_them(split: str) -> None:
    assert in_tfds_order(range(20), range(20), split) == PRINTED[split]


def test_names_are_ordered_as_its_hasher_orders_them() -> None:
    names = ["banded/banded_0002.jpg", "image_00001.jpg", "Abyssinian_1.jpg", "agricultural00.tif", "00001"]
    assert in_tfds_order(names, names, "validation") == [names[i] for i in (4, 2, 1, 3, 0)]
    assert in_tfds_order([], [], "train") == []
