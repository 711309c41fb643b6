"""Class weights: when they are chosen, and what a file of them may say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.sources import Sample, Source
from vitkit.data.subsets import Splits
from vitkit.finetuning.balance import Balance, choose_balance
from vitkit.finetuning.data import TaskData

CLASSES = ("cat", "dog")
NO_SURVEY: Any = None  # costs are a matter of the splits alone


def choose(balance: str, cats: int, dogs: int) -> Balance:
    samples = [Sample(str(i), b"", int(i >= cats)) for i in range(cats + dogs)]
    data = TaskData(Source("pets", CLASSES, {"all": samples}), Splits(samples, samples, None, ""), {}, NO_SURVEY, ())
    return choose_balance(balance, data, Console(io.StringIO()))


def test_auto_weighs_skewed_classes_inversely_to_their_size() -> None:
    assert choose("auto", 10, 14).weights is None
    found = choose("auto", 10, 30)
    assert found.weights == pytest.approx((1.5, 0.5))
    assert found.metric("auto") == "balanced_accuracy"
    assert found.metric("nll") == "nll"
    assert "3.0 times" in found.reason


def test_none_is_none_however_skewed() -> None:
    found = choose("none", 1, 100)
    assert found.weights is None
    assert found.metric("auto") == "auto"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.json", '{"dog": 1, "cat": 3}'),
        ("w.csv", "class,weight\ncat,3\ndog,1\n"),
        ("w.csv", "\ufeffdog,1\r\ncat,3\r\n"),
        ("w.tsv", "cat\t3\ndog\t1\n"),
    ],
)
def test_weights_come_from_a_file_by_class_name(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert choose(str(path), 5, 5).weights == pytest.approx((1.5, 0.5))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("w.json", '{"cta": 1, "dog": 1}', "a class 'cta' that the data does not have. Did you mean 'cat'"),
        ("w.json", '{"cat": 1}', "no weight for 'dog'"),
        ("w.json", '{"cat": 0, "dog": 1}', "weight of 'cat' is 0; expected a number above 0"),
        ("w.json", '{"cat": "x", "dog": 1}', "weight of 'cat' is 'x'"),
        ("w.json", '{"cat": NaN, "dog": 1}', "weight of 'cat' is nan"),
        ("w.json", '{"cat": 1, "dog": 1, "cat": 2}', "class 'cat' has a weight already"),
        ("w.json", '{"cat": 1e-300, "dog": 1e300}', "at most 10,000 times the smallest"),
        ("w.json", "[1, 2]", "must hold one JSON object"),
        ("w.json", "{", "cannot be read as JSON"),
        ("w.csv", "cat,1\ndog,much\n", "line 2: expected a class and its weight, got 'dog,much'"),
        ("w.csv", "cat,1\ndog,1\ncat,2\n", "line 3: class 'cat' has a weight already"),
    ],
)
def test_a_wrong_file_is_one_clear_message(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        choose(str(path), 5, 5)
    assert name in str(caught.value)


def test_multi_label_data_needs_no_costs_and_takes_none(tmp_path: Path) -> None:
    samples = [Sample("a", b"", -1, (0, 1)), Sample("b", b"", -1, (0,)), Sample("c", b"", -1, (0,))]
    data = TaskData(
        Source("pets", CLASSES, {"all": samples}, multilabel=True),
        Splits(samples, samples, None, ""),
        {},
        NO_SURVEY,
        (),
    )
    assert choose_balance("auto", data, Console(io.StringIO())).weights is None
    with pytest.raises(UserError, match="each class has its own threshold"):
        choose_balance(str(tmp_path / "w.json"), data, Console(io.StringIO()))
