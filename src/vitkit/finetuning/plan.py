"""Decides everything before step 0: the recipe, and what a measured step says about memory and time."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from vitkit.config import UserError, override, read_json
from vitkit.console import Console, duration, percent
from vitkit.data.loader import training_batches
from vitkit.data.pixels import Preprocess
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.probe import Probed
from vitkit.finetuning.training import trainable_copy
from vitkit.models.vit import VisionTransformer
from vitkit.recipes.finetune import FinetuneRecipe, Plan, choose_recipe, train_config
from vitkit.train import measure

__all__ = ["make_plan"]

FLIP_TOLERANCE = 0.1  # mirrored images may cost the probe this much accuracy (or mAP) and still be used for training
MEMORY_SHARE = 0.5  # of the free memory that training may plan with


def make_plan(
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
    memory = int(
        MEMORY_SHARE
        * (torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available)
    )
    view = dataclasses.replace(record, image_size=recipe.train_size)
    draft = Plan(record, fit_reason, recipe, config, torch.get_num_threads(), 0.0)
    batch = next(iter(training_batches(
        data.splits.train, view, draft.augment(), batch_size=config.batch_size, steps=range(1), seed=arguments.seed, workers=0,
        outputs=data.task.outputs, max_pixels=arguments.max_pixels,
    )))  # fmt: skip
    measured = measure(trial, config, data.task.objective(recipe.smoothing), batch, memory)
    steps = config.steps
    if arguments.budget is not None:
        # scoring: two candidates and the release on val, the release on test, and the evaluations during training
        images = (3 + recipe.evaluations) * len(data.splits.val) + len(data.splits.test or ())
        left = arguments.budget - (time.perf_counter() - began) - 1.5 * images * probed.seconds_per_image
        steps = min(steps, int(0.9 * left / measured.seconds))
        if steps < 1:
            raise UserError(
                f"a budget of {duration(arguments.budget)} is spent before the first step; one step takes "
                f"{measured.seconds:.1f} s here. Allow more, or take a smaller model or image size."
            )
    config = dataclasses.replace(
        config,
        steps=steps,
        microbatch_size=measured.microbatch_size,
        eval_every=max(1, -(-steps // recipe.evaluations)),
    )
    plan = dataclasses.replace(draft, train=config, estimate_seconds=steps * measured.seconds)
    console.say(
        f"recipe    {steps} steps of {config.batch_size} images at {recipe.train_size[0]}x{recipe.train_size[1]} "
        f"({steps * config.batch_size / len(data.splits.train):.1f} epochs), lr {recipe.lr:g}, layer decay {recipe.layer_decay:g}, "
        f"{config.precision}, mirrored views {'on' if recipe.flip else 'off'}"
    )
    console.say(
        f"          one step takes {measured.seconds:.2f} s and {measured.activation_bytes / 2**20:.0f} MiB an image: "
        f"{measured.microbatch_size} at a time, about {duration(plan.estimate_seconds)}"
    )
    return plan


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
    if arguments.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=arguments.epochs)
    return override(recipe, arguments.settings, "--set")
