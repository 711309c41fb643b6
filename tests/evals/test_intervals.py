"""Intervals: against DeLong by hand, a plain bootstrap, repeated draws of data, and edge cases."""

from __future__ import annotations

import numpy as np
import pytest

from vitkit.evals.classify import score, wilson
from vitkit.evals.intervals import area_interval, intervals_of, mean_interval, mean_of


def answers(n: int, O: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, O, n)
    logits = rng.normal(size=(n, O)) + 1.2 * np.eye(O)[labels]
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), labels


def test_every_metric_has_an_interval_around_it() -> None:
    p, labels = answers(200, 5, 0)
    scores = score(p, labels)
    found = intervals_of(p, labels, scores)
    assert set(found) == set(scores.values)
    for name, value in scores.values.items():
        low, high = found[name]
        assert low <= value <= high
        assert high - low < (0.4 if name == "nll" else 0.2)
    assert found["top1"] == wilson(round(200 * scores.values["top1"]), 200)
    assert found == intervals_of(p, labels, scores)


def test_the_area_of_two_classes_has_delongs_interval() -> None:
    p, labels = answers(60, 2, 1)
    up, down = p[labels == 1, 1], p[labels == 0, 1]
    wins = (up[:, None] > down).astype(float) + (up[:, None] == down) / 2
    area = wins.mean()
    error = np.sqrt(wins.mean(1).var(ddof=1) / len(up) + wins.mean(0).var(ddof=1) / len(down))
    low, high = area_interval(p, labels)  # both classes have the same area
    assert (low, high) == pytest.approx((area - 1.959964 * error, area + 1.959964 * error), abs=1e-6)


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "macro_auroc", "nll"])
def test_intervals_are_as_wide_as_values_of_new_data_spread(name: str) -> None:
    values, widths = [], []
    for seed in range(60):
        p, labels = answers(150, 4, seed)
        scores = score(p, labels)
        values.append(scores.values[name])
        if seed < 8:
            low, high = intervals_of(p, labels, scores)[name]
            widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.3)


def test_the_mean_over_equal_classes_has_the_interval_of_all_images() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(7), 7)  # an image of each class
    found = intervals_of(p, np.arange(7), score(p, np.arange(7)))
    assert found["balanced_accuracy"] == pytest.approx(found["top1"], abs=1e-12)


@pytest.mark.parametrize("right", [True, False])
def test_one_image(right: bool) -> None:
    p, labels = np.array([[0.3, 0.7]]), np.array([int(right)])
    found = intervals_of(p, labels, score(p, labels))
    assert found["top1"] == wilson(int(right), 1)
    assert all(np.isfinite(pair).all() for pair in found.values())


def test_a_rate_lies_in_its_interval_to_the_last_digit() -> None:
    for n in range(1, 200):
        for hits in range(n + 1):
            low, high = wilson(hits, n)
            assert 0 <= low <= hits / n <= high <= 1
        assert (wilson(0, n)[0], wilson(n, n)[1]) == (0, 1)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_not_certain(right: bool) -> None:
    labels = np.arange(12) % 3
    p = np.full((12, 3), 0.2)
    p[np.arange(12), labels if right else (labels + 1) % 3] = 0.6
    found = intervals_of(p, labels, score(p, labels))
    assert found["macro_f1"] == found["balanced_accuracy"] == pytest.approx(wilson(12 * right, 12))


def test_all_wrong_stays_within_what_is_possible() -> None:
    labels = np.arange(40) % 4
    p = np.full((40, 4), 0.3)
    p[np.arange(40), labels] = 0.1
    found = intervals_of(p, labels, score(p, labels))
    assert found["top1"][0] == 0
    assert found["macro_auroc"] == (0, 0)
    assert all(0 <= low <= high <= 1 for name, (low, high) in found.items() if name != "nll")


def test_a_mean_over_draws_is_wider_than_over_images_alone() -> None:
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.random((1, 300)) < 0.7, 3, axis=0)
    mean, (low, high) = mean_interval(alike)
    assert mean == alike.mean()
    assert (low, high) == pytest.approx(wilson(int(alike[0].sum()), 300), abs=0.015)
    differ = np.stack([rng.random(300) < rate for rate in (0.5, 0.7, 0.9)])
    mean, wide = mean_interval(differ)
    assert wide[1] - wide[0] > 1.5 * (high - low)
    assert mean_interval(np.ones((3, 5), bool)) == (1, wilson(5, 5))  # five images cannot show that all are right
    assert mean_interval(np.zeros((3, 5), bool)) == (0, wilson(0, 5))
    assert mean_interval(differ) == mean_interval(differ)


def test_means_of_few_images_have_students_interval() -> None:
    published = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 29: 2.0452, 120: 1.9799}  # t tables
    for freedom, quantile in published.items():
        n = freedom + 1
        values = np.arange(n, dtype=float)
        found = mean_of(values)
        assert found.value == pytest.approx(freedom / 2)
        assert found.high is not None
        assert (found.high - found.value) / (values.std(ddof=1) / n**0.5) == pytest.approx(quantile, rel=2e-4)
    assert mean_of(np.array([0.25])) == (0.25, None, None)


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        found = mean_of(rng.normal(size=5))
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0 <= found.high
    assert 0.94 < hits / 4000 < 0.96
