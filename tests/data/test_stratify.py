"""Multi-label splits and folds: every class shared evenly, a function of labels and seed."""

from __future__ import annotations

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.data.sources import Sample
from vitkit.data.subsets import check_classes, make_splits, stratified_folds, stratified_split
from vitkit.data.targets import class_counts, strata, targets


def label_sets(n: int = 400, seed: int = 0) -> list[tuple[int, ...]]:
    """Classes from common to rare, some together more often than not, some images with none."""
    rng = np.random.default_rng(seed)
    hot = rng.random((n, 6)) < (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
    hot[:, 3] |= hot[:, 4] & (rng.random(n) < 0.7)
    return [tuple(np.flatnonzero(row).tolist()) for row in hot]


def counts(labels: list[tuple[int, ...]], part: list[int]) -> np.ndarray:
    return np.bincount([label for i in part for label in labels[i]], minlength=6)


@pytest.mark.parametrize("seed", range(5))
def test_folds_share_every_class_and_the_whole_evenly(seed: int) -> None:
    labels = label_sets(seed=seed)
    folds = stratified_folds(labels, 5, seed)
    parts = [np.flatnonzero(folds == k).tolist() for k in range(5)]
    shares = np.array([counts(labels, part) for part in parts])
    assert np.ptp(shares, axis=0).max() <= 2
    assert np.ptp(shares[:, 5]) <= 1  # the rarest class goes first
    assert np.ptp([len(part) for part in parts]) <= 4


@pytest.mark.parametrize("fraction", [0.1, 0.2])
def test_a_split_holds_out_its_part_of_every_class(fraction: float) -> None:
    labels = label_sets()
    kept, held = stratified_split(labels, fraction, 0)
    assert sorted(kept + held) == list(range(len(labels)))
    wanted = np.maximum(1, np.round(fraction * counts(labels, list(range(len(labels))))))
    np.testing.assert_allclose(counts(labels, held), wanted, atol=2)
    assert len(held) == pytest.approx(fraction * len(labels), abs=0.03 * len(labels))


def test_parts_are_a_function_of_labels_and_seed() -> None:
    labels = label_sets()
    assert stratified_split(labels, 0.2, 1) == stratified_split(labels, 0.2, 1)
    assert stratified_split(labels, 0.2, 1) != stratified_split(labels, 0.2, 2)
    assert np.array_equal(stratified_folds(labels, 4, 1), stratified_folds(labels, 4, 1))
    assert not np.array_equal(stratified_folds(labels, 4, 1), stratified_folds(labels, 4, 2))


@pytest.mark.parametrize("seed", range(20))
def test_every_class_stays_in_training_also_where_rare_classes_share_their_images(seed: int) -> None:
    labels = [(0, 1), (0, 2), (1, 2), (2, 3), (3,), (), (), (4,), (4,), (4,)]
    kept, held = stratified_split(labels, 0.5, seed)
    for label in range(5):
        assert any(label in labels[i] for i in kept), label
    assert any(4 in labels[i] for i in held)
    left = counts(labels, kept)
    for label in range(5):  # a class gives none only where each of its images is the last kept one of another
        if not any(label in labels[i] for i in held):
            assert all(min(left[list(own)]) == 1 for own in labels if label in own), label


def test_images_without_any_class_are_shared_too() -> None:
    kept, held = stratified_split([()] * 90 + [(0,)] * 10, 0.2, 0)
    assert (len(kept), len(held)) == (80, 20)
    assert sum(i >= 90 for i in held) == 2
    assert stratified_split([()] * 4, 0.5, 0)[1]


def multi(*labels: tuple[int, ...]) -> list[Sample]:
    return [Sample(str(i), b"", -1, own) for i, own in enumerate(labels)]


def test_a_class_with_too_few_images_is_named() -> None:
    few = multi((0,), (0, 1), (0,), ())
    with pytest.raises(UserError, match="'dog' has only 1 usable image in the data split; expected at least 2"):
        make_splits({"all": few}, ["cat", "dog"], 0.2, 100, seed=0)
    check_classes(few, ["cat", "dog"], "train", 1)
    check_classes(multi((0,), ()), ["cat"], "train", 1)  # one class is there or not
    with pytest.raises(UserError, match="'bird' has no usable image"):
        check_classes(few, ["cat", "dog", "bird"], "train", 1)


def test_the_validation_part_is_stratified_by_all_classes_of_an_image() -> None:
    parts = make_splits({"train": multi(*label_sets())}, list("abcdef"), 0.2, 1000, seed=3)
    assert min(class_counts(parts.val, 6)) >= 1
    assert sorted([*parts.train, *parts.val]) == sorted(multi(*label_sets()))
    assert "stratified, seed 3" in parts.rule


def test_what_samples_become() -> None:
    many, one = multi((1,), (), (0, 1)), [Sample("a", b"", 1), Sample("b", b"", 0)]
    assert strata(many) == [(1,), (), (0, 1)]
    assert strata(one) == [1, 0]
    assert targets(many, 3).tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert targets(many, 3).dtype == np.float32
    assert targets(one).tolist() == [1, 0]
    assert targets(one).dtype == np.int64
    assert class_counts(many, 3) == [1, 2, 0]
    assert class_counts(one, 3) == [1, 1, 0]
