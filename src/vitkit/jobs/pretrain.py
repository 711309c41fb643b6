"""`vit pretrain`: train from a recipe, pre-training or transfer as published, or small enough to run here.

The steps, in order: the recipe with the user's changes; the data; the model; a plan, fixed before step 0; the loop; the bundle;
its score on the test split; the report.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from vitkit.bundle import Bundle
from vitkit.checkpoint import has_checkpoint, load_checkpoint
from vitkit.config import UserError, from_dict, read_json, write_file, write_json
from vitkit.console import Console, duration, percent
from vitkit.data.loader import spare_cores
from vitkit.data.sources import pinned
from vitkit.engines.eager import EagerEngine
from vitkit.evals.scoring import outputs_of, rows, score_samples
from vitkit.evals.tasks import make_task
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.optim import OptimConfig
from vitkit.pretraining.arguments import PretrainArguments, read_pretrain_arguments
from vitkit.pretraining.data import RecipeData, batches_of, read_recipe_data
from vitkit.pretraining.model import backbone_weights, first_model, released, with_objective
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import Recipe, changed, fitted_optim, steps_of
from vitkit.report import Row, versions, write_training_report
from vitkit.runlog import Evaluated, RunLog
from vitkit.train import TrainConfig, best_precision, measure, start, train

__all__ = ["PretrainResult", "pretrain"]

MEMORY_SHARE = 0.5  # of the free memory that training may plan with


@dataclass(frozen=True)
class PretrainResult:
    """Where the run wrote, and its score rows (none without a test or val split)."""

    run: Path
    bundle: Path
    report: Path
    rows: tuple[Row, ...]


def pretrain(
    recipe: str | None = None,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    resume: str | Path | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> PretrainResult:
    """Train from a recipe.

    Args:
        recipe: a name of `vit recipes`.
        data: class folders, tables or tar files, as of `finetune`; train/ with test/ or val/ inside.
        out: the run folder.
        settings: changes of the recipe: ``{"epochs": 5, "optim.lr": 3e-4, "model.depth": 4}``.
        workers: processes that prepare images; never changes the result.
        resume: a stopped run to go on with; everything else is read from it.
        command: the command line, for the report.

    Raises:
        UserError: no such recipe or setting, data that cannot be trained on, a run folder that is taken.
    """
    console = console or Console()
    if resume is not None:
        if recipe is not None or data is not None or out is not None or settings:
            raise UserError("--resume takes everything from the run it goes on with; leave the other arguments out.")
        run = Path(resume)
        arguments, command = read_pretrain_arguments(run)
        if (run / "report.json").exists():
            console.say(f"{run} is finished; nothing to do. Report: {run / 'report.html'}")
            found = tuple(from_dict(Row, row, "report.json") for row in read_json(run / "report.json")["rows"])
            return PretrainResult(run, run / "model", run / "report.html", found)
        if workers is not None:
            arguments = dataclasses.replace(arguments, workers=workers)
        return _run(run, arguments, command, console)
    if recipe is None:
        raise UserError("name a recipe (see vit recipes), or a run to go on with: --resume RUN.")
    settings = dict(settings or {})
    for key in ("start", "distill.teacher"):
        if (named := settings.get(key)) and Path(str(named)).exists():
            settings[key] = str(Path(str(named)).resolve())
    changed(find_recipe(recipe), settings)  # says what is wrong with them before the data is read
    if data is None:
        raise UserError(f"recipe {recipe} needs its data: say data=FOLDER ({find_recipe(recipe).data}).")
    if out is None:
        raise UserError("name the folder to write to: --out RUN.")
    run = Path(out)
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        hint = f", or go on with it: vit pretrain --resume {run}" if (run / "arguments.json").exists() else ""
        raise UserError(f"{run} already exists. Choose another --out{hint}.")
    arguments = PretrainArguments(recipe, pinned(data), settings, spare_cores() if workers is None else workers)
    return _run(run, arguments, command or arguments.as_python(), console)


def _run(run: Path, arguments: PretrainArguments, command: str, console: Console) -> PretrainResult:
    began = time.perf_counter()
    recipe = changed(find_recipe(arguments.recipe), arguments.settings)
    console.say(f"recipe    {recipe.name}: {recipe.title}")
    data = read_recipe_data(arguments.data, console)
    model = first_model(recipe, len(data.source.classes), console)
    console.say(f"model     {sum(p.numel() for p in model.parameters()):,} parameters, {_words(model.config)}")
    if not (run / "arguments.json").exists():
        write_json(run / "arguments.json", arguments.to_dict())
        write_file(run / "command.txt", (command + "\n").encode("utf-8", "surrogateescape"))
    module, objective = with_objective(recipe, model, data.source.classes, console)
    plan = _plan(run, recipe, data, module, objective, console)
    state = start(module, plan)
    if has_checkpoint(run / "checkpoints"):
        load_checkpoint(run / "checkpoints", state)
        console.say(f"resume    from step {state.step} of {plan.steps}")
    batches = batches_of(recipe, data, plan.batch_size, range(state.step, plan.steps), arguments.workers)
    watch = _Watch(recipe, model.config, data, plan, console)
    with RunLog(run, plan, state.step, watch, f"vit pretrain --resume {run}", console) as log:
        train(state, plan, objective, batches, log)
    training = {"recipe": recipe.name, "settings": dict(arguments.settings), "data": {"name": data.source.name}}
    bundle = released(recipe, model.config, state.best_weights, data.source.classes, training)
    bundle.save(run / "model")
    found = _score(run, data, console)
    facts = {
        "title": f"{recipe.name} on {data.source.name}",
        "command": command,
        "recipe": {"name": recipe.name, "title": recipe.title, "settings": dict(arguments.settings)},
        "plan": dataclasses.asdict(plan),
        "counts": {"train": len(data.train), **({data.split: len(data.scored)} if data.split else {})},
        "parameters": sum(p.numel() for p in bundle.model.parameters()),
        "rows": [row.to_dict() for row in found],
        "expected": [dataclasses.asdict(number) for number in recipe.expected],
        "curves": {"loss": log.losses, "evaluations": log.evaluations},
        "seconds": time.perf_counter() - began,
        "versions": versions(),
    }
    html, _ = write_training_report(run, facts)
    console.say(f"bundle    {run / 'model'}")
    console.say(f"report    {html}")
    return PretrainResult(run, run / "model", html, tuple(found))


def _words(c: ViTConfig) -> str:
    side = f"{c.patch_size[0]}x{c.patch_size[1]} of {c.image_size[0]}x{c.image_size[1]}"
    return f"width {c.embed_dim}, depth {c.depth}, patch {side}"


def _plan(run: Path, recipe: Recipe, data: RecipeData, module: Any, objective: Any, console: Console) -> TrainConfig:
    """Every choice made by timing or memory, fixed before step 0 and stored."""
    path = run / "plan.json"
    if path.exists():
        stored = read_json(path)
        return from_dict(
            TrainConfig, {**stored, "optim": from_dict(OptimConfig, stored["optim"], str(path))}, str(path)
        )
    batch_size = min(recipe.batch_size, len(data.train))
    steps = steps_of(recipe, len(data.train))
    optim, note = fitted_optim(recipe.optim, steps)
    if note:
        console.warn(note)
    precision, fused = best_precision()
    plan = TrainConfig(
        steps, batch_size, batch_size, recipe.seed, max(1, -(-steps // recipe.evaluations)), 0, precision, fused, optim
    )
    batch = next(iter(batches_of(recipe, data, batch_size, range(1), 0)))
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available
    measured = measure(module, plan, objective, batch, int(MEMORY_SHARE * free))
    plan = dataclasses.replace(plan, microbatch_size=measured.microbatch_size)
    write_json(path, dataclasses.asdict(plan))
    console.say(
        f"plan      {steps} steps of {batch_size} images ({steps * batch_size / len(data.train):.1f} epochs), lr {optim.lr:g}, "
        f"{precision}, {measured.microbatch_size} at a time: about {duration(steps * measured.seconds)}"
    )
    return plan


class _Watch:
    """Scores weights on part of the validation split as training goes on. Nothing is chosen by it: the newest are kept."""

    def __init__(
        self, recipe: Recipe, config: ViTConfig, data: RecipeData, plan: TrainConfig, console: Console
    ) -> None:
        self.recipe, self.config, self.data, self.plan, self.console = recipe, config, data, plan, console

    def __call__(self, weights: dict[str, Tensor], step: int) -> Evaluated:
        """Top-1 on the watched images, where there are some and the model has classes."""
        if not self.data.watched or not self.config.num_classes:
            return Evaluated({}, "val", "", float(step), float(step))
        model = VisionTransformer(self.config)
        model.load_state_dict(backbone_weights(weights))
        engine = EagerEngine(model, precision=self.plan.precision, fused_attention=self.plan.fused_attention, group=64)
        logits = outputs_of(engine, self.recipe.preprocess, self.data.watched, self.console, "validating").logits
        task = make_task("single-label", self.config.num_classes)
        values = task.score_logits(logits, task.targets(self.data.watched)).values
        kept = {name: values[name] for name in ("top1", "nll")}
        return Evaluated(kept, "val", f"top-1 {percent(kept['top1'])}", float(step), float(step))


def _score(run: Path, data: RecipeData, console: Console) -> list[Row]:
    """The released bundle, loaded as any command would, on the split that is kept for the end."""
    bundle = Bundle.read(run / "model")
    if not data.split or not bundle.config.num_classes:
        return []
    scored = score_samples(bundle, data.scored, console, f"scoring {data.split}")
    top1, (low, high) = scored.scores.values["top1"], scored.scores.intervals["top1"]
    console.say(
        f"result    {data.split} top-1 {percent(top1)} [{percent(low)}, {percent(high)}] on {scored.scores.n} images"
    )
    return rows(scored, "classify", f"{data.source.name}/{data.split}", str(run / "model"), "")
