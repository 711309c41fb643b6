"""The linear probe: logistic regression on frozen features of the training images, its penalty chosen by cross-validation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitkit.answers import MULTI, SINGLE, calibrated
from vitkit.console import Console, percent
from vitkit.data.targets import targets
from vitkit.engines.threads import each_alone
from vitkit.evals.classify import Scores
from vitkit.evals.intervals import intervals_of
from vitkit.evals.linear import FOLDS, PENALTIES, fit_probe
from vitkit.evals.tasks import make_task
from vitkit.protocols.opening import Learnt, tables_to_learn
from vitkit.protocols.request import Request
from vitkit.report import Row

__all__ = ["run"]


def run(request: Request, console: Console) -> list[Row]:
    """Score the probe that the train split gives; the scored split has no part in choosing anything.

    Raises:
        UserError: as reading model and data.
    """
    learnt = tables_to_learn(request, console, multilabel=True)
    with request.world.first_alone("scoring"):
        return _score(request, learnt, console) if request.world.main else []


def _score(request: Request, learnt: Learnt, console: Console) -> list[Row]:
    train, test, classes = learnt.train, learnt.test, len(learnt.source.classes)
    task = make_task(MULTI if learnt.source.multilabel else SINGLE, classes)
    console.say(f"linear probe: {len(PENALTIES)} penalties, {FOLDS} folds, {len(train.samples):,} images")
    probe = fit_probe(train.features, torch.from_numpy(task.targets(train.samples)), classes, request.seed)
    request.account.settings.update(penalty=probe.penalty, penalties=list(PENALTIES), folds=FOLDS, seed=request.seed)

    def answer(features: Tensor) -> np.ndarray:
        return calibrated(probe.logits(features), 1.0, task.name)

    [probabilities] = each_alone(answer, [test.features])
    wanted = task.targets(test.samples)
    # Thresholds chosen on the scored images would flatter multi-label answers.
    scores = task.score(probabilities, wanted, (0.5,) * classes if learnt.source.multilabel else None)
    intervals = dict(scores.intervals)
    if isinstance(scores, Scores):
        intervals = intervals_of(probabilities, targets(test.samples), scores)
    least, most = intervals[task.headline]
    console.say(
        f"{learnt.source.name} {learnt.split}: linear probe {task.shown} {percent(scores.values[task.headline])} "
        f"[{percent(least)}, {percent(most)}], penalty {probe.penalty:g}, {scores.n} scored, {len(test.skipped)} skipped"
    )
    found = []
    for metric, value in scores.values.items():
        low, high = intervals.get(metric, (None, None))
        found.append(
            Row("linear", learnt.dataset, metric, value, low, high, scores.n, request.model, label=learnt.seen)
        )
    return found
