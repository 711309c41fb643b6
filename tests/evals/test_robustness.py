"""Hits where several classes are right or only some may be answered, against sorting one image after the other."""

from __future__ import annotations

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.evals.robustness import UNLABELLED, Tally, corruption_errors, ranks, tally


def sorted_rank(row: np.ndarray, accepted: list[int], among: list[int] | None) -> int | None:
    order = sorted(range(len(row)) if among is None else set(among), key=lambda k: (-row[k], k))
    return next((place for place, k in enumerate(order) if k in accepted), None)


@pytest.mark.parametrize("among", [None, [1, 3, 5, 7, 8, 11], [4]])
def test_ranks_are_those_of_a_sorted_list_with_ties_and_absent_classes(among: list[int] | None) -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (3000, 12)).astype(np.float32)  # many ties, more than one chunk
    accepted = [rng.choice(12, rng.integers(0, 4), replace=False).tolist() for _ in logits]
    found = ranks(logits, accepted, among).tolist()
    for row, classes, place in zip(logits, accepted, found, strict=True):
        wanted = sorted_rank(row, classes, among)
        if not classes:
            assert place == UNLABELLED
        elif wanted is None:
            assert place >= 5  # its classes may not be answered: no hit in any top-5
        else:
            assert place == wanted


def test_reals_rule_by_hand() -> None:
    """Right if the greatest logit's class is among the labels; images without labels do not count."""
    logits = np.array([[3, 1, 2, 0], [3, 1, 2, 0], [0, 9, 0, 0], [0, 0, 0, 1]], np.float32)
    found = ranks(logits, [(0, 2), (1, 2), (), (3,)])
    assert found.tolist() == [0, 1, UNLABELLED, 0]
    assert tally(found) == Tally(3, 2, 3, 1)
    value, low, high = tally(found).figures()["top1"]
    assert value == 2 / 3
    assert (low, high) == pytest.approx((0.20765960080204776, 0.9385080552796037))  # Wilson, z = 1.96, computed by hand


@pytest.mark.parametrize(("places", "counted"), [([0], (1, 1, 1)), ([9], (1, 0, 0)), ([4, 5], (2, 0, 1))])
def test_one_image_and_all_wrong(places: list[int], counted: tuple[int, int, int]) -> None:
    assert tally(np.array(places))[:3] == counted


def test_nothing_to_score_and_damaged_outputs_are_refused() -> None:
    with pytest.raises(UserError, match="none of the 2 images has a label"):
        tally(ranks(np.zeros((2, 3), np.float32), [(), ()]))
    with pytest.raises(UserError, match="not finite"):
        ranks(np.array([[np.nan, 0.0]], np.float32), [(0,)])


def test_corruption_errors() -> None:
    found = corruption_errors({"fog": [0.2, 0.4], "snow": [1.0, 1.0]}, {"fog": 0.6, "snow": 0.8})
    assert found == pytest.approx({"fog": 0.5, "snow": 1.25})
