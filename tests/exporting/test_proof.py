"""What an export is judged by: agreement with ties apart, differences, accuracy, speed; and the limits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from vitkit.answers import MULTI, Answers
from vitkit.exporting.proof import Proof, Speed, compare, refusals

NAMES = [f"{n}.jpg" for n in range(4)]
PLAIN = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0 - 1e-6, 0.0], [0.0, 1.0, 4.0]], np.float32)


def proof(**changes: object) -> Proof:
    return dataclasses.replace(Proof(1000, True, "x", 1.0, (), (), 1e-5, 4.0), **changes)  # type: ignore[arg-type]


def test_equal_answers_agree_and_a_tie_is_named_and_counts_as_equal() -> None:
    other = PLAIN.copy()
    other[2] = [1.0 - 2e-6, 1.0, 0.0]  # the model itself holds them apart by less than outputs differ
    found = compare(Answers(3), NAMES, PLAIN, other)
    assert found["agreement"] == 1.0
    assert found["ties"] == ("2.jpg",)
    assert found["differing"] == ()
    assert found["difference"] == pytest.approx(2e-6, rel=0.1)


def test_another_answer_is_no_tie_where_the_model_was_sure() -> None:
    other = PLAIN.copy()
    other[1] = [5.0, 3.0, 1.0]
    found = compare(Answers(3), NAMES, PLAIN, other)
    assert found["agreement"] == 0.75
    assert found["differing"] == ("1.jpg",)
    (reason,) = refusals(Proof(real=True, name="x", **found), "int8")  # type: ignore[arg-type]
    assert reason == "only 75.00 % of its answers are the model's (at least 97 % in int8): it differs at 1.jpg"


def test_many_labels_agree_where_the_same_classes_reach_their_thresholds() -> None:
    answers = Answers(3, task=MULTI, thresholds=(0.5, 0.9, 0.5), temperature=2.0)
    plain = np.array([[1.0, 3.0, -1.0], [1.0, 6.0, -1.0]])
    assert compare(answers, NAMES, plain, plain + 1e-6)["agreement"] == 1.0
    other = plain.copy()
    other[0, 1] = 4.5  # 0.9 is reached at 2 * log 9 = 4.39
    assert compare(answers, NAMES, plain, other)["differing"] == ("0.jpg",)


def test_outputs_that_are_no_numbers_are_refused_and_features_alone_have_no_agreement() -> None:
    other = PLAIN.copy()
    other[0, 0] = math.nan
    found = compare(Answers(3), NAMES, PLAIN, other)
    assert math.isinf(found["difference"])
    assert refusals(Proof(real=True, name="x", **found), "fp32") == ["its outputs are not all numbers"]  # type: ignore[arg-type]
    assert compare(Answers(0), NAMES, PLAIN, PLAIN)["agreement"] is None


@pytest.mark.parametrize(
    ("precision", "changes", "reason"),
    [
        ("fp32", {}, ""),
        ("fp32", {"agreement": 0.999, "differing": ("a",)}, "99.90 %.*at least 100 % in fp32.*differs at a"),
        ("fp32", {"difference": 5e-3}, r"differ by 5.0e-03 \(at most 4.0e-03\)"),
        ("fp16", {"agreement": 0.995, "difference": 0.1}, ""),
        ("fp16", {"agreement": 0.9949, "differing": ("a",)}, "at least 99.5 %"),
        ("bf16", {"agreement": 0.9949, "differing": ("a",)}, "at least 99.5 %"),
        ("int8", {"agreement": 0.97, "accuracy": 0.80, "model_accuracy": 0.81, "speed": Speed(9, 2, 1.2)}, ""),
        ("int8", {"agreement": 0.9699, "differing": ("a",)}, "at least 97 %"),
        ("int8", {"accuracy": 0.799, "model_accuracy": 0.81, "metric": "top-1"}, "loses 1.1 points of top-1"),
        ("int8", {"speed": Speed(9, 2, 0.93)}, "slower than fp32 .0.93"),
        ("bf16", {"speed": Speed(9, 2, 0.5)}, ""),
    ],
)  # fmt: skip
def test_limits(precision: str, changes: dict[str, object], reason: str) -> None:
    found = refusals(proof(**changes), precision)
    if not reason:
        assert found == []
        return
    assert len(found) == 1
    import re

    assert re.search(reason, found[0]), found


def test_a_proof_is_told_in_lines_and_in_json() -> None:
    told = proof(
        agreement=0.98, ties=("a",), metric="top-1", accuracy=0.9, model_accuracy=0.91, speed=Speed(12.3, 1.5, 0.9)
    )
    assert told.describe() == [
        "98.0% the same answer as PyTorch in fp32, on 1,000 images (1 of them ties)",
        "outputs differ by at most 1.0e-05, the largest is 4",
        "top-1 90.0%, the model's 91.0%",
        "12.3 images/s, 1.50 of plain PyTorch, 0.90 of the same in fp32",
    ]
    assert told.to_dict()["speed"]["over_fp32"] == 0.9
    assert proof(difference=math.inf).to_dict()["difference"] is None
