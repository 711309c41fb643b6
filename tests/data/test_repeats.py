"""Repeated augmentation: r copies of B / r images in each batch, apart from each other and differently changed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.data.repeats import ViewKey, repeated_keys, view_generator


@pytest.mark.parametrize(("length", "batch_size", "repeats"), [(50, 12, 3), (7, 8, 2), (100, 16, 4), (3, 12, 2)])
def test_each_image_is_as_often_in_a_batch_as_asked(length: int, batch_size: int, repeats: int) -> None:
    for keys in repeated_keys(length, batch_size, range(40), 5, repeats):
        assert len(keys) == batch_size
        assert len(set(keys)) == batch_size  # no view twice
        views = Counter((key.epoch, key.image) for key in keys)
        assert set(views.values()) == {repeats}
        distinct = batch_size // repeats
        for place, key in enumerate(keys):
            assert key.copy == place // distinct
            assert key[:2] == keys[place % distinct][:2]  # copies lie B / r apart, never beside each other


def test_an_epoch_has_each_image_once_before_the_next_begins() -> None:
    batches = list(repeated_keys(10, 6, range(10), 1, 3))  # two new images a batch: five batches an epoch
    for epoch in range(2):
        drawn = [key for keys in batches[5 * epoch : 5 * epoch + 5] for key in keys if key.copy == 0]
        assert {key.epoch for key in drawn} == {epoch}
        assert sorted(key.image for key in drawn) == list(range(10))


def test_it_goes_on_where_it_stopped_and_is_a_function_of_the_seed() -> None:
    whole = list(repeated_keys(23, 12, range(30), 9, 3))
    assert list(repeated_keys(23, 12, range(17, 30), 9, 3)) == whole[17:]
    assert list(repeated_keys(23, 12, range(30), 8, 3)) != whole


def test_without_repeats_epochs_are_permutations_one_after_the_other() -> None:
    orders = [(epoch, int(i)) for epoch in range(5) for i in np.random.default_rng([4, epoch]).permutation(23)]
    plain = [[(key.epoch, key.image) for key in keys] for keys in repeated_keys(23, 5, range(3, 20), 4)]
    assert plain == [orders[5 * step : 5 * step + 5] for step in range(3, 20)]


def test_copies_have_generators_of_their_own_and_the_first_is_the_plain_one() -> None:
    first, second = (view_generator(3, ViewKey(1, 5, copy)).random(4) for copy in (0, 1))
    assert np.array_equal(first, np.random.default_rng([3, 1, 5]).random(4))
    assert not np.array_equal(first, second)


def test_batches_that_cannot_hold_the_copies_are_refused() -> None:
    with pytest.raises(
        UserError, match="a batch of 10 cannot hold each image 3 times; choose a batch_size that 3 divides"
    ):
        list(repeated_keys(5, 10, range(1), 0, 3))
    for repeats in (0, 1.5, True):
        with pytest.raises(UserError, match="repeats must be a positive integer"):
            list(repeated_keys(5, 10, range(1), 0, repeats))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no images"):
        list(repeated_keys(0, 10, range(1), 0))
