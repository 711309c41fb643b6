"""k-NN: the nearest training images by the cosine of frozen features vote for the class."""

from __future__ import annotations

import torch

from vitkit.console import Console, percent
from vitkit.data.targets import targets
from vitkit.evals.classify import score, wilson
from vitkit.evals.intervals import intervals_of
from vitkit.evals.knn import NEIGHBOURS, TEMPERATURE, vote
from vitkit.protocols.opening import Learnt, tables_to_learn
from vitkit.protocols.request import Request
from vitkit.report import Row

__all__ = ["run"]

METRICS = ("top1", "top5", "balanced_accuracy", "macro_f1")  # of the weighted vote; votes are no probabilities


def run(request: Request, console: Console) -> list[Row]:
    """Score the vote of each test image's neighbours among the training images, weighted as DINO's and each alike.

    ``top1_majority`` is of the plain majority, every other metric of the vote weighted by exp(cosine / 0.07).

    Raises:
        UserError: more neighbours than training images, or as reading model and data.
    """
    learnt = tables_to_learn(request, console)
    with request.world.first_alone("scoring"):
        return _score(request, learnt, console) if request.world.main else []


def _score(request: Request, learnt: Learnt, console: Console) -> list[Row]:
    train, test, classes = learnt.train, learnt.test, len(learnt.source.classes)
    neighbours = request.neighbours
    if neighbours is None:
        neighbours = min(NEIGHBOURS, len(train.samples))
        if neighbours < NEIGHBOURS:
            console.say(f"{neighbours} neighbours instead of {NEIGHBOURS}: there are no more training images")
    request.account.settings.update(neighbours=neighbours, temperature=TEMPERATURE)
    labels, wanted = targets(train.samples), targets(test.samples)
    votes = vote(train.features, torch.from_numpy(labels), test.features, classes, neighbours)
    scores = score(votes.weighted.numpy(), wanted)
    intervals = intervals_of(votes.weighted.numpy(), wanted, scores)
    n, name = scores.n, learnt.dataset
    found = [
        Row("knn", name, metric, scores.values[metric], *intervals[metric], n, request.model, label=learnt.seen)
        for metric in METRICS
    ]
    hits = int((votes.majority.numpy().argmax(1) == wanted).sum())
    found.append(Row("knn", name, "top1_majority", hits / n, *wilson(hits, n), n, request.model, label=learnt.seen))
    low, high = intervals["top1"]
    console.say(
        f"{learnt.source.name} {learnt.split}: {neighbours}-NN top-1 {percent(scores.values['top1'])} "
        f"[{percent(low)}, {percent(high)}], {n} scored, {len(test.skipped)} skipped"
    )
    return found
