"""Decides everything before step 0: the recipe, and what a measured step says about memory and time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vitkit.config import override, read_json
from vitkit.console import Console, duration, percent
from vitkit.data.loader import Batch, training_batches
from vitkit.data.pixels import Preprocess
from vitkit.engines.eager import EagerEngine
from vitkit.evals.scoring import seconds_for
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.errors import FORWARDS_OF_MAP, errors_explained
from vitkit.finetuning.probe import Probed
from vitkit.finetuning.training import trainable_copy
from vitkit.models.vit import VisionTransformer
from vitkit.planning import REPORT_SECONDS, free_memory, saving_seconds, steps_within, try_steps
from vitkit.recipes.finetune import FinetuneRecipe, Plan, choose_recipe, train_config
from vitkit.train import measure

__all__ = ["MAX_UNKNOWN_IMAGES", "make_plan"]

MAX_UNKNOWN_IMAGES = 1_000  # of the training part that the detector of unknown images is fitted to
FLIP_TOLERANCE = 0.1  # mirrored images may cost the probe this much accuracy (or mAP) and still be used for training


def make_plan(
    run: Path,
    arguments: Arguments,
    stored: Path | None,
    model: VisionTransformer,
    record: Preprocess,
    fit_reason: str,
    data: TaskData,
    probed: Probed,
    pretrained: bool,
    began: float,
    console: Console,
) -> Plan:
    """Decide everything before step 0: read it from a stored plan, or choose and measure."""
    if stored is not None:
        plan = Plan.from_dict(read_json(stored / "plan.json"), f"{stored}/plan.json")
        plan = dataclasses.replace(plan, train=dataclasses.replace(plan.train, seed=arguments.seed))
        torch.set_num_threads(plan.threads)
        console.say(f"plan      as stored in {stored}: {plan.train.steps} steps of {plan.train.batch_size} images")
        return plan
    recipe = _recipe(arguments, model, data, probed, pretrained, console)
    config = train_config(recipe, len(data.splits.train), arguments.seed)
    trial = trainable_copy(model, arguments.train, recipe, arguments.seed)
    view = dataclasses.replace(record, image_size=recipe.train_size)
    draft = Plan(record, fit_reason, recipe, config, torch.get_num_threads(), 0.0)

    def batches(steps: range, workers: int) -> Iterator[Batch]:
        return training_batches(
            data.splits.train, view, draft.augment(), batch_size=config.batch_size, steps=steps, seed=arguments.seed,
            workers=workers, outputs=data.task.outputs, max_pixels=arguments.max_pixels,
        )  # fmt: skip

    objective = data.task.objective(recipe.smoothing)
    measured = measure(trial, config, objective, next(batches(range(1), 0)), free_memory())
    steps, seconds = config.steps, measured.seconds
    if arguments.budget is not None:
        config = dataclasses.replace(config, microbatch_size=measured.microbatch_size)
        tried = try_steps(trial, config, objective, batches(range(steps), arguments.workers), arguments.budget)
        seconds, saving = tried.seconds, saving_seconds(run, tried.state)
        after = saving + _scoring_seconds(model, record, data, recipe.evaluations, arguments.max_pixels, console)
        after += min(recipe.evaluations, steps) * saving
        left = arguments.budget - (time.perf_counter() - began) - after
        steps = steps_within(arguments.budget, left, seconds, steps)
    config = dataclasses.replace(
        config,
        steps=steps,
        microbatch_size=measured.microbatch_size,
        eval_every=max(1, -(-steps // recipe.evaluations)),
    )
    plan = dataclasses.replace(draft, train=config, estimate_seconds=steps * seconds)
    console.say(
        f"recipe    {steps} steps of {config.batch_size} images at {recipe.train_size[0]}x{recipe.train_size[1]} "
        f"({steps * config.batch_size / len(data.splits.train):.1f} epochs), lr {recipe.lr:g}, layer decay {recipe.layer_decay:g}, "
        f"{config.precision}, mirrored views {'on' if recipe.flip else 'off'}"
    )
    console.say(
        f"          one step takes {seconds:.2f} s and {measured.activation_bytes / 2**20:.0f} MiB an image: "
        f"{measured.microbatch_size} at a time, about {duration(plan.estimate_seconds)}"
    )
    return plan


def _scoring_seconds(
    model: VisionTransformer, record: Preprocess, data: TaskData, evaluations: int, max_pixels: int, console: Console
) -> float:
    """What all scoring of a run takes, from a few images: evaluations during training, both candidates, the release, the report."""
    splits = data.splits
    together, alone = EagerEngine(model, group=16), EagerEngine(model)
    timed = partial(seconds_for, record=record, console=console, max_pixels=max_pixels)
    detector = timed(together, splits.train) * min(1.0, MAX_UNKNOWN_IMAGES / len(splits.train))
    val = timed(alone, splits.val)
    scored = 3 * val + (timed(alone, splits.test) if splits.test else 0.0)
    maps = 0.0 if data.source.multilabel else errors_explained(model.config) * FORWARDS_OF_MAP * val / len(splits.val)
    return evaluations * timed(together, splits.val) + detector + scored + maps + REPORT_SECONDS


def _recipe(
    arguments: Arguments, model: VisionTransformer, data: TaskData, probed: Probed, pretrained: bool, console: Console
) -> FinetuneRecipe:
    sizes = np.array(data.training_scan.sizes)
    upscaled = bool(np.median(sizes.min(axis=1)) < min(model.config.image_size))
    recipe = choose_recipe(
        images=len(data.splits.train),
        config=model.config,
        pretrained=pretrained,
        train=arguments.train,
        upscaled=upscaled,
        multilabel=data.source.multilabel,
    )
    if probed.mirrored_accuracy < probed.val_accuracy - FLIP_TOLERANCE:
        console.say(
            f"          mirrored images are taken for other classes (probe {percent(probed.mirrored_accuracy)} on them): "
            "training will not mirror"
        )
        recipe = dataclasses.replace(recipe, flip=False)
    elif probed.mirror and probed.mirror.matters:
        console.say(
            f"          a linear rule on tiny pictures names {percent(probed.mirror.right)} of validation images right and "
            f"{percent(probed.mirror.mirrored)} mirrored: training will not mirror"
        )
        recipe = dataclasses.replace(recipe, flip=False)
    if arguments.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=arguments.epochs)
    return override(recipe, arguments.settings, "--set")
