"""The evaluation of a fine-tuning run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vitkit.finetuning.validation import Validation


def test_the_best_of_a_resumed_run_counts_from_its_beginning() -> None:
    task: Any = SimpleNamespace(headline="top1", targets=lambda _: None)
    arguments: Any = SimpleNamespace(select_by="top1", max_pixels=1)
    nothing: Any = None
    validation = Validation(nothing, [], task, arguments, nothing, nothing)
    validation.go_on([{"step": 1, "top1": 0.8}, {"step": 2, "top1": 0.6}])
    assert validation.best == 0.8
    validation.go_on([])
    assert validation.best is None
