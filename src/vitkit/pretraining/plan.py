"""Decides everything that a run from a recipe takes by memory and by time, before step 0."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkit.config import UserError, from_dict, read_json, write_json
from vitkit.console import Console, duration
from vitkit.engines.eager import EagerEngine
from vitkit.evals.scoring import seconds_for
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.parallel.launch import launched_rank
from vitkit.parallel.world import World
from vitkit.planning import (
    PRETRAIN,
    REPORT_SECONDS,
    check_budget,
    free_memory,
    read_train_config,
    saving_seconds,
    steps_within,
    try_steps,
)
from vitkit.pretraining.arguments import PretrainArguments
from vitkit.pretraining.data import RecipeData, batches_of
from vitkit.recipes.recipe import Recipe, batch_of, fitted_optim, steps_of
from vitkit.train import Objective, TrainConfig, best_blocks, best_precision, measure

__all__ = ["WATCHED_TOGETHER", "PretrainPlan", "check_plan", "make_plan", "plan_from"]

SHORT = 5_000  # views: shorter runs on a CPU are in float32
SHARED_BY = 2  # ranks that can share a batch planned on a CPU and compute what one process does, in bfloat16 too
WATCHED_TOGETHER = 64  # images of an evaluation during training that the model sees at once


@dataclass(frozen=True)
class PretrainPlan:
    """Everything decided before step 0. Stored as ``plan.json``."""

    recipe: str
    train: TrainConfig
    threads: int  # that compute; sums depend on it in the last digit
    estimate_seconds: float  # of training

    def to_dict(self) -> dict[str, Any]:
        """JSON form; tells the run's kind."""
        return {"kind": PRETRAIN, **dataclasses.asdict(self)}


def read_plan(run: Path) -> PretrainPlan:
    """The plan of a run from a recipe.

    Raises:
        UserError: there is none, it is that of a fine-tuning run, or it cannot be understood.
    """
    path = run / "plan.json"
    if not path.exists():
        raise UserError(f"{run} is not a run with a plan: it has no plan.json.")
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("kind") != PRETRAIN:
        other = " but of a fine-tuning run" if isinstance(stored, dict) and "preprocess" in stored else ""
        raise UserError(f"{path} is not the plan of a run from a recipe{other}.")
    return plan_from(stored, str(path))


def plan_from(stored: dict[str, Any], where: str) -> PretrainPlan:
    """The plan from its JSON form.

    Raises:
        UserError: it cannot be understood.
    """
    values = {key: value for key, value in stored.items() if key != "kind"}
    train = read_train_config(values.get("train", {}), where)
    return from_dict(PretrainPlan, {**values, "train": train}, where)


def check_plan(arguments: PretrainArguments) -> None:
    """Refuse what contradicts a plan that is to be repeated, and a budget that is none.

    Raises:
        UserError: the plan is of another kind of run or another recipe, or the run's length is said twice.
    """
    check_budget(arguments.budget)
    if arguments.budget is not None and launched_rank() is not None:
        raise UserError("--budget is measured in one process: leave it out under torchrun, and say steps or epochs.")
    if arguments.plan is None:
        return
    if arguments.budget is not None or {"steps", "epochs"} & set(arguments.settings):
        raise UserError("--plan fixes the number of steps; leave --budget, steps and epochs out.")
    plan = read_plan(Path(arguments.plan))
    if plan.recipe != arguments.recipe:
        raise UserError(
            f"--plan {arguments.plan} is of recipe {plan.recipe}, this run is of {arguments.recipe}; name a run of the same recipe."
        )


def make_plan(
    run: Path,
    arguments: PretrainArguments,
    recipe: Recipe,
    data: RecipeData,
    config: ViTConfig,
    module: nn.Module,
    objective: Objective,
    began: float,
    world: World,
    sharded: bool,
    console: Console,
) -> PretrainPlan:
    """Every choice made by timing or memory: read where this run made it before, repeated, or measured; then stored.

    Args:
        run: its folder.
        arguments: with the budget, or the run whose plan is repeated.
        recipe: the job, changes made.
        data: its images.
        config: of the model.
        module: what is trained around the model.
        objective: what it minimises.
        began: when the command began, as of ``time.perf_counter``.
        world: of this rank, which has a part of each batch.
        sharded: will each rank have a part of the model only?
        console: told what was decided.

    Raises:
        UserError: too little memory or time, or a plan for other batches.
    """
    if (run / "plan.json").exists():
        plan = read_plan(run)
        _take_threads(plan, world)
        return plan
    if arguments.plan is not None:
        plan = _repeated(Path(arguments.plan), recipe, data)
        _take_threads(plan, world)
    else:
        plan = _measured(run, arguments, recipe, data, config, module, objective, began, world, sharded, console)
    write_json(run / "plan.json", plan.to_dict())
    _, note = fitted_optim(recipe.optim, plan.train.steps)
    if note:
        console.warn(note)
    train, as_in = plan.train, f" as in {arguments.plan}" if arguments.plan else ""
    console.say(
        f"plan      {train.steps} steps of {train.batch_size} images "
        f"({train.steps * train.batch_size / len(data.train):.1f} epochs), lr {train.optim.lr:g}, {train.precision}, "
        f"{train.microbatch_size} at a time: about {duration(plan.estimate_seconds)}{as_in}"
    )
    return plan


def _take_threads(plan: PretrainPlan, world: World) -> None:
    """Several ranks keep those that they were started with: more threads than processors wait for each other."""
    if world.size == 1:
        torch.set_num_threads(plan.threads)


def _config(recipe: Recipe, images: int, steps: int, precision: str, fused: bool, microbatch: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=batch_of(recipe, images),
        microbatch_size=microbatch,
        seed=recipe.seed,
        eval_every=max(1, -(-steps // recipe.evaluations)),
        patience=0,
        precision=precision,
        fused_attention=fused,
        compiled_blocks=best_blocks(precision),
        optim=fitted_optim(recipe.optim, steps)[0],
        activation_checkpointing=recipe.activation_checkpointing,
    )


def _repeated(other: Path, recipe: Recipe, data: RecipeData) -> PretrainPlan:
    """Steps, microbatch, precision and kernels of another run; the rest is this run's own."""
    plan = read_plan(other)
    batch_size = batch_of(recipe, len(data.train))
    if plan.train.batch_size != batch_size:
        raise UserError(
            f"--plan {other} is for batches of {plan.train.batch_size} images, this run has batches of {batch_size}; "
            f"say batch_size={plan.train.batch_size}, or leave --plan out."
        )
    t = plan.train
    train = _config(recipe, len(data.train), t.steps, t.precision, t.fused_attention, t.microbatch_size)
    return dataclasses.replace(plan, train=dataclasses.replace(train, compiled_blocks=t.compiled_blocks))


def _measured(
    run: Path,
    arguments: PretrainArguments,
    recipe: Recipe,
    data: RecipeData,
    config: ViTConfig,
    module: nn.Module,
    objective: Objective,
    began: float,
    world: World,
    sharded: bool,
    console: Console,
) -> PretrainPlan:
    wanted, batch_size = steps_of(recipe, len(data.train)), batch_of(recipe, len(data.train))
    precision, fused = _precision(recipe, wanted * batch_size)
    own = -(-batch_size // world.size)  # the largest part
    train = _config(recipe, len(data.train), wanted, precision, fused, own)
    batch = next(iter(batches_of(recipe, data, batch_size, range(1), 0, world)))
    measured = measure(
        module,
        dataclasses.replace(train, batch_size=own),
        objective,
        batch,
        free_memory(),
        world.size if sharded else 1,
    )
    micro = measured.microbatch_size
    if not torch.cuda.is_available():
        # Small ones are as fast there, and ranks can share a batch without changing a group.
        micro = min(micro, -(-batch_size // SHARED_BY))
    train = dataclasses.replace(train, microbatch_size=micro)
    seconds = measured.seconds
    if arguments.budget is not None:
        batches = batches_of(recipe, data, batch_size, range(wanted), arguments.workers, world)
        trial = try_steps(module, train, objective, batches, arguments.budget)
        del batches  # ends its processes
        seconds = trial.seconds
        saving = saving_seconds(run, trial.state)
        watching, scoring = _scoring_seconds(data, config, recipe, train, console)
        after = min(recipe.evaluations, wanted) * (watching + saving) + scoring + saving + REPORT_SECONDS
        left = arguments.budget - (time.perf_counter() - began) - after
        steps = steps_within(arguments.budget, left, seconds, wanted)
        train = _config(recipe, len(data.train), steps, precision, fused, micro)
    return PretrainPlan(recipe.name, train, torch.get_num_threads(), train.steps * seconds)


def _precision(recipe: Recipe, views: int) -> tuple[str, bool]:
    """(precision, fused attention) of a run that trains on so many views.

    In bfloat16 a sum that differs in its last bit, as between numbers of threads or ranks, moves the loss by some 1e-4 after
    a few steps. A run that is over in a minute on a CPU is for looking closely, and has nothing to gain by it.
    """
    precision, fused = best_precision()
    if recipe.precision == "auto" and not torch.cuda.is_available() and views < SHORT:
        precision = "fp32"
    elif recipe.precision != "auto":
        precision = recipe.precision
    return precision, fused


def _scoring_seconds(
    data: RecipeData, config: ViTConfig, recipe: Recipe, train: TrainConfig, console: Console
) -> tuple[float, float]:
    """(an evaluation during training, scoring the released model), from a few of their images."""
    if not config.num_classes:
        return 0.0, 0.0
    model = VisionTransformer(config)
    watching = EagerEngine(
        model, precision=train.precision, fused_attention=train.fused_attention, group=WATCHED_TOGETHER
    )
    timed = partial(seconds_for, record=recipe.preprocess, console=console)
    return timed(watching, data.watched), timed(EagerEngine(model), data.scored)
