"""Few-shot linear regression on frozen features, exactly as big_vision's fewshot_lsr; see `vitkit.evals.fewshot`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.console import Console, percent
from vitkit.data.samples import Sample, Source
from vitkit.data.targets import targets
from vitkit.evals.classify import wilson
from vitkit.evals.features import FeatureTable
from vitkit.evals.fewshot import BIAS, DRAWS, PENALTY, SHOTS, Support, draw_support, measure_fewshot, usable_shots
from vitkit.evals.intervals import mean_interval
from vitkit.protocols.opening import Opened, account, open_to_learn
from vitkit.protocols.request import Request
from vitkit.report import Row

__all__ = ["run"]


def run(request: Request, console: Console) -> list[Row]:
    """Score `SHOTS` images per class, or those asked for, in three draws of the training images, on every test image.

    ``5shot`` is the mean of three draws, its interval over draws and test images; ``5shot-seed-0`` is one draw, its interval
    over test images. Of the training images only those that are drawn are opened; one that cannot be used is taken out of
    the training images, and all is drawn anew.

    Raises:
        UserError: no number of shots that every class has images for, or as reading model and data.
    """
    if request.shots is not None and (not request.shots or min(request.shots) < 1):
        raise UserError(f"--shots must be whole numbers of at least 1, got {','.join(map(str, request.shots))}.")
    opened = open_to_learn(request, console, "fewshot")
    asked = sorted(set(request.shots or SHOTS))
    training = list(opened.source.splits["train"])
    wanted = targets(opened.source.splits[opened.split])
    while True:
        drawn = _draw(request, opened.source, training, wanted, asked, console)
        chosen = [training[place] for place in drawn.places]
        train = opened.table(request, chosen, "train", console)
        if not train.skipped:
            break
        usable = {id(sample) for sample in train.samples}
        unusable = {id(sample) for sample in chosen} - usable
        training = [sample for sample in training if id(sample) not in unusable]
        console.say(f"drawn anew without {len(unusable)} training images that cannot be used")
    test = opened.table(request, opened.source.splits[opened.split], opened.split, console)
    account(request, opened.source, opened.split, test, train)
    seen = opened.seen(test, console)
    with request.world.first_alone("scoring"):
        return _score(request, opened, drawn, train, test, seen, console) if request.world.main else []


class _Drawn(NamedTuple):
    shots: list[int]
    places: np.ndarray  # (n,) rising, of the training images that any draw has
    supports: list[Support]  # places among those


def _draw(
    request: Request,
    source: Source,
    training: Sequence[Sample],
    wanted: np.ndarray,
    asked: Sequence[int],
    console: Console,
) -> _Drawn:
    """The training images of every draw; says which shots are left out."""
    labels = targets(training)
    shots, least, smallest = usable_shots(labels, np.union1d(labels, wanted), asked)
    name = source.classes[smallest]
    if not shots:
        raise UserError(
            f"class {name!r} has {least} usable training images, fewer than the least of --shots "
            f"{','.join(map(str, asked))}."
        )
    if out := [count for count in asked if count not in shots]:
        console.say(f"left out: {', '.join(map(str, out))} shots; class {name!r} has {least} training images")
    seeds = list(range(request.seed, request.seed + DRAWS))
    request.account.settings.update(shots=shots, left_out=out, seeds=seeds, penalty=PENALTY, bias=BIAS)
    supports = [
        Support(count, seed, draw_support(labels, len(source.classes), shots, seed)[count])
        for count in shots
        for seed in seeds
    ]
    places = np.unique(np.concatenate([support.places for support in supports]))
    return _Drawn(shots, places, [s._replace(places=np.searchsorted(places, s.places)) for s in supports])


def _score(
    request: Request,
    opened: Opened,
    drawn: _Drawn,
    train: FeatureTable,
    test: FeatureTable,
    seen: str,
    console: Console,
) -> list[Row]:
    labels, wanted, classes = targets(train.samples), targets(test.samples), len(opened.source.classes)
    draws = measure_fewshot(train.features, labels, test.features, wanted, classes, drawn.supports)
    n, name, found = len(wanted), opened.dataset, []
    for count in drawn.shots:
        own = [draw for draw in draws if draw.shots == count]
        mean, (low, high) = mean_interval(np.stack([draw.hits for draw in own]))
        found.append(Row("fewshot", name, f"{count}shot", mean, low, high, n, request.model, label=seen))
        for draw in own:
            hits, metric = int(draw.hits.sum()), f"{count}shot-seed-{draw.seed}"
            found.append(Row("fewshot", name, metric, hits / n, *wilson(hits, n), n, request.model, label=seen))
        console.say(
            f"{opened.source.name} {opened.split}: {count}-shot {percent(mean)} [{percent(low)}, {percent(high)}], "
            f"{DRAWS} draws, {n} scored, {len(test.skipped)} skipped"
        )
    return found
