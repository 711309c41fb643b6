"""Stratified parts of a set: even, disjoint, a function of labels and seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.data.sources import Sample
from vitkit.data.subsets import check_classes, make_splits, stratified_folds, stratified_split

LABELS = [0] * 50 + [1] * 21 + [2] * 3 + [3] * 2


def samples(*counts: int) -> list[Sample]:
    return [Sample(f"{label}/{i}", b"", label) for label, count in enumerate(counts) for i in range(count)]


def test_folds_share_every_class_and_the_whole_evenly() -> None:
    folds = stratified_folds(LABELS, 5, seed=0)
    for label in range(4):
        counts = np.bincount(folds[np.array(LABELS) == label], minlength=5)
        assert np.ptp(counts) <= 1
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1


def test_parts_are_a_function_of_the_seed() -> None:
    assert np.array_equal(stratified_folds(LABELS, 5, 1), stratified_folds(LABELS, 5, 1))
    assert not np.array_equal(stratified_folds(LABELS, 5, 1), stratified_folds(LABELS, 5, 2))
    assert stratified_split(LABELS, 0.2, 1) == stratified_split(LABELS, 0.2, 1)
    assert stratified_split(LABELS, 0.2, 1) != stratified_split(LABELS, 0.2, 2)


def test_a_split_holds_out_its_part_of_every_class_at_least_one_and_never_all() -> None:
    kept, held = stratified_split([*LABELS, 4], 0.2, seed=0)
    assert sorted(kept + held) == list(range(77))
    assert Counter(([*LABELS, 4])[i] for i in held) == {0: 10, 1: 4, 2: 1, 3: 1}  # class 4 has one image only
    kept, _ = stratified_split(LABELS, 0.99, seed=0)
    assert Counter(LABELS[i] for i in kept) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_class_with_too_few_images_is_named() -> None:
    check_classes(samples(2, 2), ["cat", "dog"], "train", 2)
    with pytest.raises(UserError, match=r"one class, 'cat'; .* needs images of at least two"):
        check_classes(samples(9), ["cat"], "train", 2)
    with pytest.raises(UserError, match="'dog' has only 1 usable image in the data split; expected at least 2"):
        check_classes(samples(2, 1), ["cat", "dog"], "data", 2)
    with pytest.raises(UserError, match="'dog' has no usable image in the train split; expected at least one"):
        check_classes(samples(2), ["cat", "dog"], "train", 1)


def test_given_splits_are_taken_as_they_are() -> None:
    train, val, test = samples(3, 1), samples(2, 0), samples(1, 1)
    parts = make_splits({"train": train, "val": val, "test": test}, ["cat", "dog"], 0.2, 100, seed=0)
    assert (parts.train, parts.val, parts.test) == (train, val, test)
    assert "as given" in parts.rule


def test_validation_is_held_out_of_training_and_never_of_the_test_part() -> None:
    train, test = samples(10, 20), [Sample("t", b"", 0)]
    parts = make_splits({"train": train, "test": test}, ["cat", "dog"], 0.2, 100, seed=0)
    assert parts.test is test
    assert sorted([*parts.train, *parts.val]) == sorted(train)
    assert Counter(s.label for s in parts.val) == {0: 2, 1: 4}
    assert "6 of 30 held out" in parts.rule
    alone = make_splits({"all": train}, ["cat", "dog"], 0.2, 100, seed=0)
    assert alone.test is None
    assert alone.val == parts.val


def test_the_held_out_part_has_an_upper_limit() -> None:
    parts = make_splits({"all": samples(500, 500)}, ["cat", "dog"], 0.2, most=50, seed=0)
    assert Counter(s.label for s in parts.val) == {0: 25, 1: 25}


def test_two_images_of_a_class_are_needed_only_where_one_must_be_held_out() -> None:
    with pytest.raises(UserError, match="'dog' has only 1"):
        make_splits({"all": samples(5, 1)}, ["cat", "dog"], 0.2, 100, seed=0)
    assert make_splits({"train": samples(5, 1), "val": samples(1)}, ["cat", "dog"], 0.2, 100, seed=0).train
