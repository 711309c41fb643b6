"""A submitted result reaches the board only if everything about it is right; every refusal names the field and why."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vitkit.board.entries import Entry
from vitkit.board.submission import Submission
from vitkit.board.validate import Checked, validate
from vitkit.config import UserError


def row(**changes: Any) -> dict[str, Any]:
    return {
        "task": "classify", "dataset": "cifar10/test", "metric": "top1", "value": 0.9123, "low": 0.9066, "high": 0.9177,
        "n": 10_000, "model": "m", "source": "measured", "label": "", **changes,
    }  # fmt: skip


def submission(*rows: dict[str, Any], **changes: Any) -> Submission:
    facts: dict[str, Any] = {
        "where": "run/results.json", "rows": rows or (row(),), "command": "vit evaluate m cifar10", "code": "0.1.0 (abc)",
        "versions": {"torch": "2"}, "data": {"": "d1"}, "data_name": "cifar10", "model": "ViT-B/16",
        "model_fingerprint": "f1", "protocol": "classify", **changes,
    }  # fmt: skip
    return Submission(**facts)


def check(*rows: dict[str, Any], existing: tuple[Entry, ...] = (), **options: Any) -> Checked:
    return validate(submission(*rows), existing, date="2026-01-02", **options)


def refusal(*rows: dict[str, Any], **options: Any) -> str:
    with pytest.raises(UserError, match=r"is not added to the board: ") as error:
        check(*rows, **options)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_a_right_result_becomes_an_entry_in_percent_with_all_it_needs() -> None:
    [entry] = check().entries
    assert (entry.kind, entry.task, entry.dataset, entry.metric) == ("ours", "image-classification", "cifar10", "top1")
    assert (entry.value, entry.unit, entry.low, entry.high, entry.interval) == (91.23, "%", 90.66, 91.77, "95 %")
    assert (entry.n, entry.part, entry.model, entry.date) == (10_000, False, "ViT-B/16", "2026-01-02")
    assert (entry.command, entry.code, entry.data, entry.fingerprint) == (
        "vit evaluate m cifar10",
        "0.1.0 (abc)",
        "d1",
        "f1",
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (4.5, "value: 4.5 is 450 %, above the 100 % that top-1 accuracy can be. Rows hold fractions from 0 to 1: if 4.5 % is "
              "meant, it is 0.045"),
        (450, "value: 450 is 45000 %, above the 100 % that top-1 accuracy can be. Rows hold fractions from 0 to 1, and read as "
              "percent 450 % is above 100 % too"),
        (91.23, "if 91.23 % is meant, it is 0.9123"),
        (-1, "value: -1 is -100 %, below the 0 % that top-1 accuracy can be"),
        (math.nan, "value: nan is not a finite number"),
        (math.inf, "value: inf is not a finite number"),
        (None, "value: None is no number"),
        (True, "value: True is no number"),
        ("0.9", "value: '0.9' is no number"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(value: Any, reason: str) -> None:
    assert reason in refusal(row(value=value, low=None, high=None))


def test_percent_said_to_be_percent_is_taken_as_such() -> None:
    [entry] = check(row(value=91.23, low=None, high=None, unit="%")).entries
    assert entry.value == 91.23
    assert "value: 450 % is above the 100 % that top-1 accuracy can be" in refusal(
        row(value=450, low=None, high=None, unit="%")
    )
    assert "unit: 'points'; top-1 accuracy is in 'fraction' or '%'" in refusal(row(unit="points"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "detection"}, "task: the board does not know 'detection'"),
        ({"task": 3}, "task: 3 is no name of a task"),
        ({"task": "retrieval"}, "task: CIFAR-10 has no results of Image-Text Retrieval"),
        ({"dataset": "cifar12/test"}, "dataset: the board does not know 'cifar12'. Did you mean 'cifar1"),
        ({"dataset": ""}, "dataset: '' is no name of a data set"),
        ({"metric": "top1_error"}, "metric: the board does not know 'top1_error'"),
        ({"metric": "mce"}, "metric: mean corruption error, of AlexNet's is none of those of Image Classification on CIFAR-10"),
        ({"direction": "lower"}, "direction: 'lower', but of top-1 accuracy higher is better"),
        ({"metric": "nll", "value": 0.3, "low": None, "high": None, "direction": "higher"}, "of negative log-likelihood lower"),
        ({"metric": "nll", "value": -0.3, "low": None, "high": None}, "value: -0.3 is below 0, the least that negative log"),
        ({"low": 0.95, "high": 0.99}, "low, high: the value 91.23 is not in its interval [95, 99]"),
        ({"low": 0.92, "high": 0.90}, "low, high: the value 91.23 is not in its interval [92, 90]"),
        ({"low": None}, "low: missing, though there is a high"),
        ({"high": 1.2}, "high: 1.2 is 120 %, above the 100 %"),
        ({"n": 0}, "n: 0 is no number of scored images"),
        ({"n": 10.0}, "n: 10.0 is no number of scored images"),
        ({"n": 9_728}, "n: 9,728 images, but the published test split of CIFAR-10 has 10,000; --part puts it on the board"),
        ({"n": 60_000}, "n: 60,000 images, but the published test split of CIFAR-10 has 10,000"),
        ({"label": "selection, optimistic"}, "label: selection, optimistic, so it is no figure of new images"),
        ({"dataset": "cifar10/train"}, "dataset: the board's figures are of CIFAR-10's test split, this one is of 'train'"),
        ({"metric": "unknown_rate"}, "metric: it says how often the model asks for help"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(row(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"command": ""}, "command: missing"),
        ({"code": ""}, "code: missing"),
        ({"data": {}}, "data: missing; expected the fingerprint of the images"),
        ({"data": {"": ""}}, "data: missing"),
        ({"data": {"val": "x"}}, "data: no fingerprint of the test images; there are some of val"),
        ({"model": ""}, "model: missing; expected a name for the model; give --model-name"),
        ({"rows": ()}, "rows: there is none"),
    ],
)
def test_what_is_needed_to_believe_and_repeat_it_must_be_there(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as error:
        validate(
            submission(**({"rows": (row(),)} | changes)) if changes.get("rows") != () else _without_rows(), (), date="d"
        )
    assert reason in str(error.value)


def _without_rows() -> Submission:
    return Submission("f", (), "c", "c", {}, {"": "d"}, "n", "m", "f")


def test_one_bad_row_keeps_the_others_off_the_board_too() -> None:
    text = refusal(row(), row(metric="top5", value=4.5, low=None, high=None), row(metric="nothing"))
    assert "classify cifar10/test top5: value: 4.5 is 450 %" in text
    assert "classify cifar10/test nothing: metric: " in text


def test_a_part_is_marked_where_it_is_asked_for_and_never_more_than_all() -> None:
    [entry] = check(row(n=167), part=True).entries
    assert entry.part
    [entry] = check(row(), part=True).entries
    assert not entry.part
    assert "n: 10,001 images" in refusal(row(n=10_001), part=True)


def test_rows_that_are_right_but_no_figures_of_the_board_are_left_out_with_the_reason() -> None:
    checked = check(row(), row(metric="unknown_rate"), row(dataset="cifar10/val", label="selection, optimistic"))
    assert len(checked.entries) == 1
    assert [line.split(":")[0] for line in checked.left_out] == [
        "classify cifar10/test unknown_rate", "classify cifar10/val top1",
    ]  # fmt: skip


def test_the_same_measurement_twice_is_refused() -> None:
    existing = tuple(check().entries)
    assert (
        "fingerprint: this model's figure on these images is on the board already (91.23 %, added 2026-01-02)"
        in refusal(existing=existing)
    )
    assert "on the board already" in refusal(row(), row())
    other = validate(submission(model_fingerprint="f2"), existing, date="d")
    assert len(other.entries) == 1
    other = validate(submission(data={"": "d2"}), existing, date="d")
    assert len(other.entries) == 1


def test_the_user_may_say_what_the_data_the_task_and_the_model_are() -> None:
    [entry] = check(row(dataset="my_copy/test", task="own"), dataset="CIFAR-100", task="knn", model="DeiT-Ti").entries
    assert (entry.dataset, entry.task, entry.model) == ("cifar100", "knn", "DeiT-Ti")
    assert "--dataset NAME" in refusal(row(dataset="my_copy/test"))
    assert "one --dataset cannot name them all" in refusal(row(), row(dataset="pets/test"), dataset="cifar100")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"task": "fewshot", "metric": "5shot"}, ("few-shot", "cifar10", "top1_5shot")),
        ({"task": "knn"}, ("knn", "cifar10", "top1")),
        ({"task": "knn", "metric": "top1_majority"}, ("knn", "cifar10", "top1_majority")),
        ({"task": "linear", "metric": "balanced_accuracy"}, ("linear-probe", "cifar10", "balanced_accuracy")),
        ({"task": "vtab", "dataset": "vtab/clevr_count", "n": 15_000}, ("vtab-1k", "vtab-clevr-count", "top1")),
        ({"task": "vtab", "dataset": "vtab", "n": 387_904}, ("vtab-1k", "vtab", "top1")),
        ({"task": "vtab", "dataset": "vtab/natural", "n": 75_564}, ("vtab-1k", "vtab-natural", "top1")),
        ({"task": "robustness", "dataset": "imagenet_real/val", "n": 46_837}, ("image-classification", "imagenet-real", "top1")),
        ({"task": "robustness", "dataset": "imagenet_a/test", "n": 7_500}, ("domain-generalization", "imagenet-a", "top1")),
        ({"task": "robustness", "dataset": "vizwiz_classification/all", "n": 8_900},
         ("domain-generalization", "vizwiz", "accuracy_all")),
        ({"task": "robustness", "dataset": "vizwiz_classification/clean", "n": 77},
         ("domain-generalization", "vizwiz", "accuracy_clean")),
        ({"task": "robustness", "dataset": "imagenet_c", "n": 3_750_000}, ("domain-generalization", "imagenet-c", "top1")),
        ({"task": "classify", "dataset": "imagenet/val", "n": 50_000}, ("image-classification", "imagenet", "top1")),
    ],
)  # fmt: skip
def test_rows_of_every_protocol_find_their_table(given: dict[str, Any], expected: tuple[str, str, str]) -> None:
    [entry] = check(row(**given)).entries
    assert (entry.task, entry.dataset, entry.metric) == expected


def test_the_error_of_corruptions_may_be_above_alexnets() -> None:
    given = row(task="robustness", dataset="imagenet_c", metric="mce", value=1.2, low=None, high=None, n=3_750_000)
    [entry] = check(given).entries
    assert (entry.value, entry.metric) == (120, "mce")


def test_details_of_protocols_are_left_out() -> None:
    checked = check(
        row(task="fewshot", metric="5shot"),
        row(task="fewshot", metric="5shot-seed-0"),
        row(task="robustness", dataset="imagenet_c/fog/3", n=50_000),
        row(task="robustness", dataset="imagenet_c/fog", metric="ce"),
        row(task="robustness", dataset="vizwiz_classification/blur", n=10),
    )
    assert len(checked.entries) == 1
    assert len(checked.left_out) == 4


def test_one_reason_is_said_once() -> None:
    text = refusal(row(dataset="own/test"), row(dataset="own/test", metric="nll", value=0.1, low=None, high=None))
    assert text.count("the board does not know 'own'") == 1
    assert "classify own/test top1 and 1 more: dataset: " in text
