"""VTAB-1k's numbers: settings chosen on 800 and 200 images, the final model trained on the 1,000, top-1 on the whole test set.

The score is the unweighted mean of the 19 accuracies. A mean of some tasks is no VTAB score: it is given only of whole groups, and
the overall one only of all 19. Source: arXiv 1910.04867, section 3; arXiv 2010.11929, section 4.1, and 2106.10270, appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vitkit.config import UserError, did_you_mean
from vitkit.data.samples import Sample
from vitkit.evals.classify import wilson
from vitkit.report import Row

__all__ = ["FIXED", "SWEPT", "Outcome", "Settings", "Transfer", "Trial", "group_means", "run_task", "vtab_rows"]


class Settings(NamedTuple):
    """What is chosen on the 200 images."""

    lr: float
    steps: int


class Trial(NamedTuple):
    """Settings and the accuracy on the 200 images."""

    settings: Settings
    accuracy: float


FIXED = (Settings(0.01, 2_500),)  # the paper's one setting (table 4)
SWEPT = tuple(Settings(lr, steps) for steps in (500, 2_500) for lr in (0.001, 0.003, 0.01, 0.03))  # AugReg's
Transfer = Callable[
    [Sequence[Sample], Sequence[Sample], Settings], float
]  # (train, test, settings) -> top-1, a fraction


@dataclass(frozen=True)
class Outcome:
    """The result of one task."""

    settings: Settings
    accuracy: float  # top-1 on the test set, a fraction
    n: int  # test images
    trials: tuple[Trial, ...] = ()  # on the 200 images; none where there was nothing to choose


def run_task(
    train: Sequence[Sample],
    val: Sequence[Sample],
    test: Sequence[Sample],
    transfer: Transfer,
    settings: Sequence[Settings] = FIXED,
) -> Outcome:
    """Choose among ``settings`` (the first of equal ones), train on ``train`` and ``val`` together, score ``test``.

    Raises:
        UserError: no settings, or no images in a part.
    """
    if not settings:
        raise UserError("no settings to train with.")
    if not (train and val and len(test)):
        raise UserError(f"a part is empty: train {len(train)}, val {len(val)}, test {len(test)}.")
    trials: list[Trial] = []
    if len(settings) > 1:
        trials = [Trial(choice, _fraction(transfer(train, val, choice))) for choice in settings]
    best = max(trials, key=lambda trial: trial.accuracy).settings if trials else settings[0]
    accuracy = _fraction(transfer([*train, *val], test, best))
    return Outcome(best, accuracy, len(test), tuple(trials))


def _fraction(accuracy: float) -> float:
    if not 0 <= accuracy <= 1:
        raise UserError(f"a top-1 accuracy is a fraction from 0 to 1, got {accuracy}.")
    return accuracy


def group_means(accuracies: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """The mean of each group of which every task is there, and of all under the name ``""`` where none is missing.

    Args:
        accuracies: by task.
        groups: the group of every task there is.

    Raises:
        UserError: a task of no group.
    """
    for name in accuracies:
        if name not in groups:
            raise UserError(f"no task {name!r}.{did_you_mean(name, groups)}")
    means = {}
    for group in dict.fromkeys(groups.values()):
        members = [name for name in groups if groups[name] == group]
        if all(name in accuracies for name in members):
            means[group] = sum(accuracies[name] for name in members) / len(members)
    if all(name in accuracies for name in groups):
        means[""] = sum(accuracies[name] for name in groups) / len(groups)
    return means


def vtab_rows(
    outcomes: Mapping[str, Outcome], groups: Mapping[str, str], model: str, labels: Mapping[str, str] | None = None
) -> list[Row]:
    """A row of each task in the order of ``groups``, then the means that `group_means` allows.

    A mean's interval joins those of its tasks as if their test images had nothing in common.
    Source: G. Y. Zou, A. Donner, Statistics in Medicine 27 (2008) 1693-1702.

    Args:
        outcomes: by task.
        groups: the group of every task there is.
        model: named in the rows.
        labels: for a task, why its figure is not the protocol's; a mean takes those of its tasks.
    """
    labels, found = labels or {}, []
    own: dict[str, tuple[float, float, float]] = {}
    for name in groups:
        if name in outcomes:
            accuracy, n = outcomes[name].accuracy, outcomes[name].n
            low, high = wilson(round(accuracy * n), n)
            own[name] = accuracy, low, high
            label = labels.get(name, "")
            found.append(Row("vtab", f"vtab/{name}", "top1", accuracy, low, high, n, model, label=label))
    for group, mean in group_means({name: o.accuracy for name, o in outcomes.items()}, groups).items():
        members = [name for name in groups if group in ("", groups[name])]
        words = dict.fromkeys(labels[name] for name in members if labels.get(name))
        label = "; ".join((f"unweighted mean of {len(members)} tasks", *words))
        dataset = f"vtab/{group}" if group else "vtab"
        n = sum(outcomes[name].n for name in members)
        found.append(
            Row("vtab", dataset, "top1", mean, *_joined(mean, [own[name] for name in members]), n, model, label=label)
        )
    return found


def _joined(mean: float, tasks: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The interval of the mean of independent (value, low, high)."""
    below, above = (math.hypot(*(abs(task[0] - task[end]) for task in tasks)) / len(tasks) for end in (1, 2))
    return mean - below, mean + above
