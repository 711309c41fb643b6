"""Few-shot regression against big_vision's golden vectors, a plain solution in float64, and the published drawing rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitkit.config import UserError
from vitkit.evals.fewshot import BIAS, PENALTY, Support, draw_support, fewshot_scores, measure_fewshot, usable_shots


def by_rule(n: int, d: int, offset: int) -> torch.Tensor:
    """The integers of VIT_SPEC 11 as features."""
    return ((torch.arange(n * d) * 7919 + offset) % 1009 / 504 - 1).reshape(n, d).float()


@pytest.mark.parametrize(
    ("n", "d", "rows"),
    [
        (12, 5, {0: (-0.325952, -0.329346, -0.336240), 3: (-0.323230, -0.333392, -0.334916)}),
        (6, 16, {0: (-0.346153, -0.294488, -0.342579)}),  # fewer images than features
    ],
)
def test_scores_are_the_official_codes(n: int, d: int, rows: dict[int, tuple[float, ...]]) -> None:
    scores = fewshot_scores(by_rule(n, d, 0), torch.arange(n) % 3, 3, by_rule(4, d, 333))
    assert scores.dtype == torch.float32
    for row, wanted in rows.items():
        assert scores[row].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("n", "d"), [(40, 7), (9, 30), (8, 7), (7, 7)])
def test_scores_solve_the_regression_on_either_side_of_square(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    x, new, y = rng.normal(size=(n, d)), rng.normal(size=(5, d)), np.arange(n) % 4
    std = x.std(0) + 1e-5
    own, test = (np.c_[(each - x.mean(0)) / std, np.full(len(each), BIAS)] for each in (x, new))
    wanted = test @ np.linalg.solve(own.T @ own + PENALTY * np.eye(d + 1), own.T @ (2.0 * np.eye(4)[y] - 1))
    found = fewshot_scores(torch.tensor(x).float(), torch.tensor(y), 4, torch.tensor(new).float())
    assert np.abs(found.numpy() - wanted).max() < 1e-4


def test_drawing_is_one_generator_over_the_classes_in_order() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 60)
    found = draw_support(labels, 3, (1, 5), seed=2)
    rng = np.random.default_rng(2)
    orders = [rng.permutation(np.where(labels == label)[0]) for label in range(3)]
    assert found[5].tolist() == [int(place) for order in orders for place in order[:5]]
    assert found[1].tolist() == [int(order[0]) for order in orders]


def test_shots_above_the_smallest_class_are_left_out() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [3] * 7)
    assert usable_shots(labels, np.array([0, 1, 3]), (1, 5, 10)) == ([1, 5], 5, 1)
    assert usable_shots(labels, np.array([0, 1, 2, 3]), (1, 5)) == ([], 0, 2)  # a class of test images only


def test_features_that_overflow_are_not_scored() -> None:
    x, labels = by_rule(12, 5, 0) * 3.3e38, np.arange(12) % 3
    with pytest.raises(UserError, match="too large"):
        measure_fewshot(x, labels, x, labels, 3, [Support(4, 0, np.arange(12))])


def test_every_number_of_shots_is_measured_with_every_seed() -> None:
    rng = np.random.default_rng(0)
    labels, wanted = np.arange(60) % 3, np.arange(30) % 3
    centres = 4 * rng.normal(size=(3, 8))
    x, new = (torch.tensor(centres[y] + rng.normal(size=(len(y), 8))).float() for y in (labels, wanted))
    supports = [Support(k, seed, draw_support(labels, 3, (k,), seed)[k]) for k in (1, 5) for seed in (0, 1, 2)]
    draws = measure_fewshot(x, labels, new, wanted, 3, supports)
    assert [(draw.shots, draw.seed) for draw in draws] == [(k, seed) for k in (1, 5) for seed in (0, 1, 2)]
    for draw in draws:
        places = draw_support(labels, 3, (draw.shots,), draw.seed)[draw.shots]
        scores = fewshot_scores(x[torch.tensor(places)], torch.tensor(labels[places]), 3, new)
        assert draw.hits.tolist() == (scores.argmax(1).numpy() == wanted).tolist()
    assert np.mean([draw.hits.mean() for draw in draws if draw.shots == 5]) > 0.8
