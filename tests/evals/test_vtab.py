"""VTAB-1k's numbers: the choice on 200 images, the final training on 1,000, means of whole groups only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.data.samples import Sample
from vitkit.datasets.vtab import TASKS
from vitkit.evals.vtab import FIXED, SWEPT, Outcome, Settings, group_means, run_task, vtab_rows

# Table 9 of arXiv 2010.11929, ViT-H/14 pre-trained on JFT, in the order of TASKS.
TABLE_9 = (
    95.3,
    85.5,
    75.2,
    99.7,
    97.2,
    65.0,
    88.9,
    83.3,
    96.7,
    91.4,
    76.6,
    91.7,
    63.8,
    53.1,
    79.4,
    63.3,
    84.5,
    33.2,
    51.2,
)
GROUPS = {task.name: task.group for task in TASKS}


def samples(prefix: str, count: int) -> list[Sample]:
    return [Sample(f"{prefix}{n}", b"", 0) for n in range(count)]


def test_the_settings_are_the_papers() -> None:
    assert list(FIXED) == [Settings(0.01, 2_500)]
    assert set(SWEPT) == {(lr, steps) for lr in (0.001, 0.003, 0.01, 0.03) for steps in (500, 2_500)}


def test_the_best_settings_on_the_200_train_on_the_1000() -> None:
    calls: list[tuple[int, int, Settings]] = []
    accuracies = {Settings(0.003, 500): 0.7, Settings(0.03, 500): 0.7, Settings(0.01, 2_500): 0.6}
    train, val, test = samples("t", 800), samples("v", 200), samples("x", 50)

    def transfer(on: Sequence[Sample], scored: Sequence[Sample], settings: Settings) -> float:
        calls.append((len(on), len(scored), settings))
        if scored is test:
            assert [s.name for s in on] == [s.name for s in (*train, *val)]
            return 0.44
        assert on is train
        assert scored is val
        return accuracies.get(settings, 0.1)

    outcome = run_task(train, val, test, transfer, SWEPT)
    assert calls == [
        *((800, 200, settings) for settings in SWEPT),
        (1_000, 50, Settings(0.003, 500)),
    ]  # the first of equals
    assert (outcome.settings, outcome.accuracy, outcome.n, len(outcome.trials)) == (Settings(0.003, 500), 0.44, 50, 8)


def test_one_setting_needs_no_choice() -> None:
    calls = []

    def transfer(on: Sequence[Sample], scored: Sequence[Sample], settings: Settings) -> float:
        calls.append((len(on), len(scored), settings))
        return 0.5

    assert run_task(samples("t", 8), samples("v", 2), samples("x", 5), transfer).trials == ()
    assert calls == [(10, 5, Settings(0.01, 2_500))]
    with pytest.raises(UserError, match="a part is empty: train 8, val 0, test 5"):
        run_task(samples("t", 8), [], samples("x", 5), transfer)
    with pytest.raises(UserError, match=r"a fraction from 0 to 1, got 44"):
        run_task(samples("t", 8), samples("v", 2), samples("x", 5), lambda *_: 44.0)


def test_the_means_of_table_9_come_out() -> None:
    means = group_means({task.name: value for task, value in zip(TASKS, TABLE_9, strict=True)}, GROUPS)
    assert {name: round(value, 2) for name, value in means.items()} == {
        "natural": 86.69, "specialized": 87.00, "structured": 65.03, "": 77.63,
    }  # fmt: skip  # the mean of the groups would be 79.57


def test_a_mean_needs_all_its_tasks() -> None:
    accuracies = {task.name: value for task, value in zip(TASKS, TABLE_9, strict=True) if task.name != "dmlab"}
    assert set(group_means(accuracies, GROUPS)) == {"natural", "specialized"}
    with pytest.raises(UserError, match=r"no task 'dmlabs'\. Did you mean 'dmlab'"):
        group_means({"dmlabs": 1.0}, GROUPS)


def test_rows() -> None:
    outcomes = {
        task.name: Outcome(FIXED[0], value / 100, 1_000)
        for task, value in zip(TASKS, TABLE_9, strict=True)
        if task.group == "specialized" or task.name == "svhn"
    }
    rows = vtab_rows(outcomes, GROUPS, "m", {"eurosat": "other images", "svhn": "odd"})
    assert [row.dataset for row in rows] == [
        "vtab/svhn", "vtab/patch_camelyon", "vtab/eurosat", "vtab/resisc45", "vtab/retinopathy", "vtab/specialized",
    ]  # fmt: skip
    assert rows[0].label == "odd"
    assert rows[0].low is not None
    assert rows[0].low < rows[0].value < (rows[0].high or 0)
    assert rows[-1].value == pytest.approx(0.87)
    assert (rows[-1].n, rows[-1].label) == (4_000, "unweighted mean of 4 tasks; other images")
    assert {row.task for row in rows} == {"vtab"}
    error = np.sqrt(sum(o.accuracy * (1 - o.accuracy) / o.n for name, o in outcomes.items() if name != "svhn")) / 4
    assert (rows[-1].low, rows[-1].high) == pytest.approx((0.87 - 1.96 * error, 0.87 + 1.96 * error), abs=1e-3)
    for value in (0.0, 1.0):
        *_, mean = vtab_rows({task.name: Outcome(FIXED[0], value, 10) for task in TASKS}, GROUPS, "m")
        assert 0 <= (mean.low or 0) <= value <= (mean.high or 0) <= 1
    whole = vtab_rows({task.name: Outcome(FIXED[0], 0.5, 10) for task in TASKS}, GROUPS, "m")
    assert (whole[-1].dataset, whole[-1].value, len(whole)) == ("vtab", 0.5, 19 + 3 + 1)
