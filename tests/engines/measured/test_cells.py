"""The figures of a benchmark: medians, ranks, agreement, and which engine they recommend."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vitkit.answers import MULTI, SINGLE
from vitkit.engines.measured.cells import Agreement, Cell, agreement, nearest_rank, recommend, summary

GOOD = Agreement(200, True, 1.0, 1e-5, 1e-6)


def cell(engine: str, precision: str, batch: int, speedup: float | None) -> Cell:
    return Cell(engine, precision, batch, "x 1", True, 2, 10.0, 1.0, 2.0, 9, 3, 5.0, None, 0.5, speedup, 1.0, ())


def test_figures_are_medians_of_rounds_and_nearest_ranks() -> None:
    rate, p50, p99, calls = summary(4, [[0.1, 0.3], [0.2, 0.2], [1.0, 1.0]])
    assert rate == pytest.approx(20.0)  # 4 images x 2 calls in 0.4 s; twice; and one slow round
    assert (p50, p99, calls) == (200.0, 1000.0, 6)
    assert nearest_rank(list(range(1, 101)), 0.99) == 99
    assert nearest_rank([3.0], 0.99) == 3.0
    assert nearest_rank([2.0, 1.0], 0.5) == 1.0


def test_agreement_is_of_answers_and_of_logits() -> None:
    plain = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [5.0, 0.0]], np.float32)
    other = plain.copy()
    other[0] = 0.0, 0.5
    found = agreement(SINGLE, (), plain, other, True)
    assert found.same == 0.75
    assert found.difference == 1.0
    assert found.relative == pytest.approx(np.sqrt(1.25 / 32))
    assert agreement(SINGLE, (), plain, plain, True)[2:] == (1.0, 0.0, 0.0)


def test_answers_of_a_multilabel_model_are_the_classes_that_reach_their_thresholds() -> None:
    plain = np.array([[0.1, -3.0], [2.0, 2.0]], np.float32)
    other = np.array([[0.1, 3.0], [9.0, 9.0]], np.float32)
    assert agreement(MULTI, (0.5, 0.5), plain, other, True).same == 0.5
    assert agreement(MULTI, (0.5, 0.999), plain, np.array([[0.1, 3.0], [9.0, 3.0]]), True).same == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_never_agree(bad: float) -> None:
    plain = np.ones((3, 2), np.float32)
    found = agreement(SINGLE, (), plain, np.full((3, 2), bad, np.float32), True)
    assert not found.passes("fp32")
    assert not found._replace(same=1.0, images=1000).passes("bf16")
    assert "not all numbers" in found.refusal("bf16")
    assert not agreement(SINGLE, (), np.zeros((3, 2)), np.full((3, 2), bad), True).passes("fp32")


def test_the_fastest_engine_that_computes_the_same_is_recommended() -> None:
    cells = [cell("eager", "fp32", b, 1.0) for b in (1, 8)] + [
        cell("tuned", "fp32", b, s) for b, s in ((1, 2.0), (8, 1.8))
    ]
    cells += [cell("openvino", "fp32", b, 2.5) for b in (1, 8)]
    off = GOOD._replace(difference=0.2)
    choice, notes = recommend(cells, {("eager", "fp32"): GOOD, ("tuned", "fp32"): GOOD, ("openvino", "fp32"): off}, ())
    assert choice is not None
    assert (choice.engine, choice.precision) == ("tuned", "fp32")
    assert choice.speedup == pytest.approx(math.sqrt(3.6))
    assert notes == [
        "openvino fp32 is 2.50 times as fast as plain PyTorch, but its logits differ by 2.0e-01 (at most 1e-03)"
    ]


def test_what_is_hardly_faster_is_not_preferred() -> None:
    cells = [cell("eager", "fp32", 1, 1.0), cell("tuned", "fp32", 1, 2.0), cell("openvino", "fp32", 1, 2.01)]
    choice, _ = recommend(cells, {(name, "fp32"): GOOD for name in ("eager", "tuned", "openvino")}, ())
    assert choice is not None
    assert choice.engine == "tuned"


def test_engines_are_compared_at_batch_sizes_that_all_were_measured_at() -> None:
    cells = [cell("eager", "fp32", 1, 1.0), cell("eager", "fp32", 8, 1.0), cell("tuned", "fp32", 1, 1.5)]
    cells += [cell("openvino", "fp32", 1, 1.4), cell("openvino", "fp32", 8, 9.0)]
    choice, _ = recommend(cells, {(name, "fp32"): GOOD for name in ("eager", "tuned", "openvino")}, ())
    assert choice is not None
    assert (choice.engine, choice.speedup) == ("tuned", pytest.approx(1.5))


@pytest.mark.parametrize(
    ("found", "asked", "chosen", "reason"),
    [
        (GOOD, ("bf16",), "bf16", ""),
        (GOOD, (), "fp32", "only where it is named: --precisions bf16"),
        (GOOD._replace(same=0.985), ("bf16",), "fp32", "98.5 % of the answers of fp32 (at least 99 %)"),
        (GOOD._replace(real=False), ("bf16",), "fp32", "from real images only: --images DATA"),
        (GOOD._replace(images=99), ("bf16",), "fp32", "99 images are too few"),
        (GOOD._replace(difference=0.5), ("bf16",), "bf16", ""),
    ],
)
def test_reduced_precision_has_to_be_named_and_to_agree_on_real_images(
    found: Agreement, asked: tuple[str, ...], chosen: str, reason: str
) -> None:
    cells = [cell("eager", "fp32", 1, 1.0), cell("eager", "bf16", 1, 2.0)]
    choice, notes = recommend(cells, {("eager", "fp32"): GOOD, ("eager", "bf16"): found}, asked)
    assert choice is not None
    assert choice.precision == chosen
    assert reason in "".join(notes)
    assert bool(notes) == bool(reason)


def test_nothing_is_recommended_where_nothing_could_be_compared() -> None:
    choice, notes = recommend([cell("tuned", "fp32", 1, 2.0)], {}, ())
    assert choice is None
    assert "could not be compared" in notes[0]
    assert recommend([], {}, ()) == (None, [])
