"""Runs the loop on a copy of the model that trains all of it, its head, or low-rank updates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vitkit.checkpoint import TrainState, has_checkpoint, load_checkpoint
from vitkit.console import Console
from vitkit.data.loader import training_batches
from vitkit.data.resized import open_resized
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.balance import Balance
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.validation import Validation
from vitkit.models.lora import add_lora
from vitkit.models.vit import VisionTransformer
from vitkit.recipes.finetune import FinetuneRecipe, Plan
from vitkit.runlog import RunLog
from vitkit.train import start, train
from vitkit.zoo.adapt import resize

__all__ = ["run_training", "trainable_copy"]


def trainable_copy(model: VisionTransformer, what: str, recipe: FinetuneRecipe, seed: int) -> VisionTransformer:
    """The model at the training size, set to train all of it, the head, or low-rank updates and the head."""
    sized = resize(model, recipe.train_size)
    config = dataclasses.replace(sized.config, drop_path=recipe.drop_path)
    trainable = VisionTransformer(config)
    trainable.load_state_dict(sized.state_dict())
    if what == "head":
        trainable.requires_grad_(False)
        trainable.head.requires_grad_(True)  # type: ignore[union-attr]
    elif what == "lora":
        add_lora(trainable, seed)
    return trainable


def run_training(
    run: Path,
    arguments: Arguments,
    plan: Plan,
    model: VisionTransformer,
    data: TaskData,
    balance: Balance,
    console: Console,
) -> tuple[TrainState, RunLog]:
    config = plan.train
    trainable = trainable_copy(model, arguments.train, plan.recipe, arguments.seed)
    state = start(trainable, config)
    folder = run / "checkpoints"
    if has_checkpoint(folder):
        load_checkpoint(folder, state)
        console.say(f"resume    from step {state.step} of {config.steps}")
    batches = training_batches(
        data.splits.train,
        dataclasses.replace(plan.preprocess, image_size=plan.recipe.train_size),
        plan.augment(),
        batch_size=config.batch_size,
        steps=range(state.step, config.steps),
        seed=arguments.seed,
        workers=arguments.workers,
        outputs=data.task.outputs,
        max_pixels=arguments.max_pixels,
        resized=open_resized(arguments.resized_cache, console.warn),
    )
    validation = Validation(plan, data.splits.val, data.task, arguments, trainable.config, console)
    with RunLog(run, config, state.step, validation, f"vit finetune --resume {run}", console, arguments.track) as hooks:
        validation.go_on(hooks.evaluations)
        train(state, config, data.task.objective(plan.recipe.smoothing, balance.weights), batches, hooks)
    if spent := hooks.describe_time():
        console.say(f"trained   {spent}")
    return state, hooks
