"""The paper's claim in small: one model fine-tuned from random and from pre-trained weights, by images of each class.

Images, views, steps and rate are the same.

Source: arXiv 2010.11929, section 4.3 and figure 4 (few-shot accuracy by size of the pre-training data).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitkit.analysis.draw import drawing, line_style
from vitkit.bundle import Bundle
from vitkit.console import Console, percent
from vitkit.data.loader import spare_cores
from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Sample, Source
from vitkit.evals.fewshot import draw_support
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.optim import OptimConfig
from vitkit.pretraining.transfer import WHOLE, transfer_top1
from vitkit.recipes.recipe import Recipe
from vitkit.zoo.adapt import resize

__all__ = ["SHOTS", "STEPS", "Point", "compare_starts", "draw_starts"]

SHOTS = (1, 3, 10, 30, 100)  # images of each class
STEPS, BATCH = 100, 64
RANDOM = "random weights"
RATE = 1e-3  # at twice and at half of it random weights end lower with 10 images of each class


class Point(NamedTuple):
    """One fine-tuning run, scored on all test images."""

    start: str
    shots: int
    images: int  # that it learnt from
    top1: float
    seconds: float


def compare_starts(
    bundle: Bundle, name: str, source: Source, shots: Sequence[int], size: int, seed: int, console: Console
) -> list[Point]:
    """Fine-tune ``bundle``, called ``name``, and the same model with random weights on the same images, in as many steps.

    Both run at ``size`` pixels; the images of fewer shots are among those of more.

    Raises:
        UserError: as `transfer_top1`.
    """
    pretrained = resize(bundle.model, size)
    record = dataclasses.replace(bundle.require_preprocess(), image_size=(size, size), fit="squash")
    random = VisionTransformer(dataclasses.replace(pretrained.config, num_classes=0))
    random.init_weights(seed, scheme="small")
    train, test = source.splits["train"], source.splits["test"]
    labels = np.array([sample.label for sample in train])
    support = draw_support(labels, len(source.classes), shots, seed)
    points = []
    for count in shots:
        chosen: list[Sample] = [train[place] for place in support[count]]
        for start, model in ((RANDOM, random), (name, pretrained)):
            began = time.perf_counter()
            recipe = _recipe(random.config, record, seed)
            label = f"{start}, {count} of each class"
            top1 = transfer_top1(
                model, recipe, chosen, test, source.classes, console, label=label, workers=spare_cores()
            )
            points.append(Point(start, count, len(chosen), top1, time.perf_counter() - began))
        ours, theirs = points[-1].top1, points[-2].top1
        console.say(f"  {count:>3} of each class: random weights {percent(theirs)}, {name} {percent(ours)}")
    return points


def draw_starts(points: Sequence[Point], data: str, stem: Path) -> tuple[Path, Path]:
    """The picture: ``stem.svg`` and ``stem.png``.

    Raises:
        UserError: matplotlib is not installed, or the files cannot be written.
    """
    with drawing(5.2, 3.4) as figure:
        axes = figure.one
        for index, start in enumerate(dict.fromkeys(point.start for point in points)):
            own = [point for point in points if point.start == start]
            axes.plot(
                [p.shots for p in own], [100 * p.top1 for p in own], label=f"from {start}", **line_style(1 - index)
            )
        shots = sorted({point.shots for point in points})
        axes.set_xscale("log")
        axes.set_xticks(shots, [str(count) for count in shots])
        axes.minorticks_off()
        axes.set_ylim(0, 100)
        axes.set_xlabel("training images of each class")
        axes.set_ylabel("test top-1, %")
        axes.set_title(f"{data}: one fine-tuning from two starts")
        axes.legend(loc="lower right")
        return figure.save(stem)


def _recipe(config: ViTConfig, record: Preprocess, seed: int) -> Recipe:
    return Recipe(
        name="starts",
        title="the same fine-tuning from two starts",
        data="a few images of each class",
        images=0,
        model=config,
        steps=STEPS,
        batch_size=BATCH,
        optim=OptimConfig(lr=RATE),
        augment=WHOLE,
        preprocess=record,
        evaluations=1,
        seed=seed,
    )
