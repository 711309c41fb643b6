"""The learning rate against values worked out by hand (the reference's goldens are in test_optim)."""

from __future__ import annotations

import math

import pytest

from vitkit.config import UserError
from vitkit.schedules import DECAYS, schedule


def test_rsqrt_falls_with_the_root_of_the_steps_after_the_warm_up() -> None:
    rates = [schedule(step, 1000, 0.4, 10, "rsqrt", timescale=20) for step in (0, 5, 10, 30, 70, 310)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.4 / math.sqrt(2), 0.2, 0.1], rel=1e-12)
    assert schedule(10_010, 20_000, 1.0, 10, "rsqrt") == pytest.approx(1 / math.sqrt(2))  # 10,000 by default


@pytest.mark.parametrize("decay", DECAYS)
def test_a_cool_down_multiplies_and_leaves_what_was_before_it(decay: str) -> None:
    plain = [schedule(step, 100, 0.3, 10, decay) for step in range(101)]
    cooled = [schedule(step, 100, 0.3, 10, decay, cooldown=20) for step in range(101)]
    assert cooled[:81] == plain[:81]
    assert cooled[81:] == pytest.approx([rate * (100 - step) / 20 for step, rate in enumerate(plain)][81:], abs=1e-15)
    assert cooled[100] == 0


def test_rsqrt_with_a_cool_down_by_hand() -> None:
    found = [schedule(step, 100, 1.0, 10, "rsqrt", timescale=20, cooldown=20) for step in (50, 80, 90, 99)]
    assert found == pytest.approx([1 / math.sqrt(3), 1 / math.sqrt(4.5), 0.5 / math.sqrt(5), 0.05 / math.sqrt(5.45)])


@pytest.mark.parametrize(("end", "last", "middle"), [(0.0, 0.0, 0.015), (3e-4, 3e-4, 0.01515), (1e-5, 1e-5, 0.015005)])
def test_a_linear_decay_ends_where_it_is_told(end: float, last: float, middle: float) -> None:
    rates = [schedule(step, 110, 0.03, 10, "linear", linear_end=end) for step in (110, 60)]
    assert rates == pytest.approx([last, middle])


def test_a_warm_up_as_long_as_the_run_only_rises() -> None:
    assert [schedule(step, 4, 1.0, 4) for step in range(4)] == [0, 0.25, 0.5, 0.75]


def test_an_unknown_decay_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown decay 'rsqr'; known: cosine, linear, constant, rsqrt. Did you mean"):
        schedule(0, 10, 0.1, 0, "rsqr")
