"""`vit pretrain`: train from a recipe, pre-training or transfer as published, or small enough to run here.

The steps, in order: the recipe with the user's changes; the data; the model; a plan, fixed before step 0; the loop; the bundle;
its score on the test split; the report. Under torchrun every rank runs this; the first one alone prints and writes, and after
the loop it goes on alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitkit.bundle import Bundle
from vitkit.checkpoint import has_checkpoint, load_checkpoint
from vitkit.config import UserError, did_you_mean, from_dict, read_json
from vitkit.console import Console, percent
from vitkit.data.loader import spare_cores
from vitkit.data.resized import check_size, open_resized
from vitkit.datasets.book import pinned
from vitkit.engines.eager import EagerEngine
from vitkit.evals.scoring import outputs_of, rows, score_samples
from vitkit.evals.tasks import make_task
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.parallel.launch import is_restart, launch_name, launched_rank, ranks_here
from vitkit.parallel.shard import KINDS, full_weights
from vitkit.parallel.world import ALONE, PATIENCE, World, session
from vitkit.pretraining.arguments import PretrainArguments, read_pretrain_arguments
from vitkit.pretraining.data import RecipeData, batches_of, fingerprint, read_recipe_data
from vitkit.pretraining.model import backbone_weights, check_start, first_model, released, with_objective
from vitkit.pretraining.plan import WATCHED_TOGETHER, PretrainPlan, check_plan, make_plan, plan_from
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import Recipe, changed
from vitkit.report import Row, code_fingerprint, versions, write_training_report
from vitkit.runfolder import began_by, check_free, claimed, write_arguments
from vitkit.runlog import Evaluated, RunLog
from vitkit.trackers import check_trackers
from vitkit.train import TrainConfig, start, train
from vitkit.zoo.load import unseen_pixels

__all__ = ["PretrainResult", "pretrain"]


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
    budget: float | None = None,
    plan: str | Path | None = None,
    resume: str | Path | None = None,
    command: str | None = None,
    began: float | None = None,
    parallel: str = "ddp",
    rank_timeout: float = PATIENCE,
    resized_cache: float = 0.0,
    track: Sequence[str] = (),
    console: Console | None = None,
) -> PretrainResult:
    """Train from a recipe.

    Under torchrun the ranks share the work, with the losses of one process.

    Args:
        recipe: a name of `vit recipes`.
        data: class folders, tables or tar files, as of `finetune`; train/ with test/ or val/ inside.
        out: the run folder.
        settings: changes of the recipe: ``{"epochs": 5, "optim.lr": 3e-4, "model.depth": 4}``.
        workers: processes that prepare images; never changes the result.
        budget: seconds that the whole command may take; the number of steps is made to fit.
        plan: a run of the same recipe whose number of steps, microbatch, precision and kernels are used again.
        resume: a stopped run to go on with; everything else is read from it.
        command: the command line, for the report.
        began: when the command began, as of ``time.perf_counter``, where that was before this call.
        parallel: ``ddp``, every rank has the whole model, or ``fsdp2``, each has a part of every tensor; never changes the
            result, nor must a resumed run say the same.
        rank_timeout: seconds after which ranks that wait for another one name it and end the run.
        resized_cache: GB of decoded training images that may be kept on disk for later runs; never changes the result.
        track: programs that get the run's numbers beside ``metrics.jsonl``: tensorboard, wandb, mlflow.

    Raises:
        UserError: no such recipe or setting, data that cannot be trained on, a run folder that is taken.
    """
    console = console or Console()
    began = time.perf_counter() if began is None else began
    if parallel not in KINDS:
        raise UserError(f"parallel is {parallel!r}; known: {', '.join(KINDS)}.{did_you_mean(parallel, KINDS)}")
    if not rank_timeout > 0:
        raise UserError(f"rank_timeout must be above 0 seconds, got {rank_timeout}.")
    if launched_rank():  # ranks after the first one only speak up when something is wrong
        console = Console(out=open(os.devnull, "w"), err=open(os.devnull, "w"))  # noqa: SIM115, until the process ends
    check_trackers(track)
    check_size(resized_cache)
    how = _How(parallel == "fsdp2", rank_timeout, tuple(track))
    if resume is not None:
        given = (recipe, data, out, settings or None, budget, plan)
        if any(value is not None for value in given):
            raise UserError("--resume takes everything from the run it goes on with; leave the other arguments out.")
        run = Path(resume)
        arguments, command = read_pretrain_arguments(run)
        if (run / "report.json").exists():
            console.say(f"{run} is finished; nothing to do. Report: {run / 'report.html'}")
            found = tuple(from_dict(Row, row, "report.json") for row in read_json(run / "report.json")["rows"])
            return PretrainResult(run, run / "model", run / "report.html", found)
        if workers is not None:
            arguments = dataclasses.replace(arguments, workers=workers)
        if resized_cache:
            arguments = dataclasses.replace(arguments, resized_cache=resized_cache)
        with claimed(run) if _writes() else contextlib.nullcontext():
            return _run(run, arguments, command, began, how, console)
    if recipe is None:
        raise UserError("name a recipe (see vit recipes), or a run to go on with: --resume RUN.")
    settings = dict(settings or {})
    for key in ("start", "distill.teacher"):
        if (named := settings.get(key)) and Path(str(named)).exists():
            settings[key] = str(Path(str(named)).resolve())
    check_start(changed(find_recipe(recipe), settings))  # says what is wrong with them before the data is read
    if data is None:
        raise UserError(f"recipe {recipe} needs its data: say data=FOLDER ({find_recipe(recipe).data}).")
    if out is None:
        raise UserError("name the folder to write to: --out RUN.")
    run = Path(out)
    planned = str(Path(plan).resolve()) if plan is not None and Path(plan).exists() else plan
    arguments = PretrainArguments(
        recipe,
        pinned(data),
        settings,
        spare_cores(ranks_here()) if workers is None else workers,
        budget,
        None if planned is None else str(planned),
        resized_cache,
    )
    check_plan(arguments)
    command = command or arguments.as_python()
    if is_restart(began_by(run)):  # of this very run, by torchrun: it goes on, and another command is refused as ever
        stored, _ = read_pretrain_arguments(run)
        if json.dumps(dataclasses.replace(stored, workers=0).to_dict()) == json.dumps(
            dataclasses.replace(arguments, workers=0).to_dict()
        ):
            return pretrain(
                resume=run, workers=workers, began=began, parallel=parallel, rank_timeout=rank_timeout, track=track,
                console=console,
            )  # fmt: skip
    if not _writes():
        return _run(run, arguments, command, began, how, console)
    check_free(run, "pretrain")
    with claimed(run):
        write_arguments(run, arguments.to_dict(), command, launch_name())
        return _run(run, arguments, command, began, how, console)


class _How(NamedTuple):
    """What is said anew each time a run is begun or gone on with."""

    sharded: bool
    rank_timeout: float
    track: tuple[str, ...]


class _Trained(NamedTuple):
    data: RecipeData
    config: ViTConfig
    plan: TrainConfig
    weights: dict[str, Tensor]
    log: RunLog


def _writes() -> bool:
    return not launched_rank()


def _run(
    run: Path, arguments: PretrainArguments, command: str, began: float, how: _How, console: Console
) -> PretrainResult:
    recipe = changed(find_recipe(arguments.recipe), arguments.settings)
    with session(how.rank_timeout, _speak) as world:
        trained = _train(run, arguments, recipe, began, how, world, console)
    if not world.main:
        return PretrainResult(run, run / "model", run / "report.html", ())
    data, log = trained.data, trained.log
    training = {"recipe": recipe.name, "settings": dict(arguments.settings), "data": {"name": data.source.name}}
    bundle = released(recipe, trained.config, trained.weights, data.source.classes, training)
    bundle.save(run / "model")
    found = _score(run, data, console)
    facts = {
        "title": f"{recipe.name} on {data.source.name}",
        "command": command,
        "code": code_fingerprint(),
        "data": {"name": data.source.name, "fingerprints": _scored_fingerprint(data)},
        "model": {"source": recipe.name},
        "recipe": {"name": recipe.name, "title": recipe.title, "settings": dict(arguments.settings)},
        "plan": dataclasses.asdict(trained.plan),
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


def _scored_fingerprint(data: RecipeData) -> dict[str, str]:
    """Of the split that the report's rows are of."""
    return {data.split: fingerprint(dataclasses.replace(data, train=data.scored))} if data.split else {}


def _speak(text: str) -> None:
    Console().warn(text)


def _train(
    run: Path,
    arguments: PretrainArguments,
    recipe: Recipe,
    began: float,
    how: _How,
    world: World,
    console: Console,
) -> _Trained:
    """Read the data, make model and plan, run the loop: on every rank."""
    console.say(f"recipe    {recipe.name}: {recipe.title}")
    if world.size > 1:
        console.say(
            f"ranks     {world.size}, {'each has a part of the model' if how.sharded else 'each has the whole model'}"
        )
    data = read_recipe_data(arguments.data, console)
    if world.size > 1:
        same = {"settings": str(dict(arguments.settings)), "code": code_fingerprint(), "torch": torch.__version__}
        world.agree({"recipe": recipe.name, **same, "data": fingerprint(data)}, "the comparison of data and code")
    model = first_model(recipe, len(data.source.classes), console)
    console.say(f"model     {sum(p.numel() for p in model.parameters()):,} parameters, {_words(model.config)}")
    if unseen := unseen_pixels(model.config):
        console.warn(unseen)
    module, objective = with_objective(recipe, model, data.source.classes, console)
    _check_alike(module, objective, how, world)
    planned: PretrainPlan | None = None
    with world.first_alone("the plan"):
        if world.main:
            planned = make_plan(
                run, arguments, recipe, data, model.config, module, objective, began, world, how.sharded, console
            )
    plan = plan_from(world.share(planned.to_dict() if planned else None, "the plan"), "the plan").train
    state = start(module, plan, world, sharded=how.sharded)
    if world.share(has_checkpoint(run / "checkpoints"), "the start"):
        load_checkpoint(run / "checkpoints", state, world)
        console.say(f"resume    from step {state.step} of {plan.steps}")
    if how.sharded:
        _check_rounds(plan, state.microbatch_size, world)
    left = range(state.step, plan.steps)
    batches = batches_of(
        recipe, data, plan.batch_size, left, arguments.workers, world, plan.microbatch_size,
        open_resized(arguments.resized_cache, console.warn),
    )  # fmt: skip
    resume = f"vit pretrain --resume {run}" + (" --parallel fsdp2" if how.sharded else "")
    watch = _Watch(recipe, model.config, data, plan, world, console)
    with RunLog(run, plan, state.step, watch, resume, console, how.track, world) as log:
        train(state, plan, objective, batches, log, world)
    return _Trained(data, model.config, plan, full_weights(state.best_weights), log)


def _check_alike(module: nn.Module, objective: Any, how: _How, world: World) -> None:
    """Refuse to begin where ranks have other weights or teachers under the same names."""
    if world.size > 1:
        teacher = getattr(objective, "teacher", None)
        facts = {
            "weights": _sign(module),
            "teacher": _sign(teacher) if teacher else "none",
            "parallel": str(how.sharded),
        }
        world.agree(facts, "the comparison of weights")


def _sign(module: nn.Module) -> str:
    signed = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        signed.update(name.encode() + tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return signed.hexdigest()[:12]


def _check_rounds(plan: TrainConfig, together: int, world: World) -> None:
    """Ranks that have parts of one model compute together: each must have as many microbatches."""
    parts = [World(rank, world.size).part(plan.batch_size, plan.microbatch_size) for rank in range(world.size)]
    if len({-(-len(part) // together) for part in parts}) > 1:
        raise UserError(
            f"fsdp2 needs as many microbatches on each rank: a batch of {plan.batch_size} in microbatches of "
            f"{together} does not divide so among {world.size} ranks. Choose another batch_size or number of "
            "ranks, or --parallel ddp."
        )


def _words(c: ViTConfig) -> str:
    side = f"{c.patch_size[0]}x{c.patch_size[1]} of {c.image_size[0]}x{c.image_size[1]}"
    return f"width {c.embed_dim}, depth {c.depth}, patch {side}"


class _Watch:
    """Scores weights on part of the validation split as training goes on. Nothing is chosen by it: the newest are kept."""

    def __init__(
        self,
        recipe: Recipe,
        config: ViTConfig,
        data: RecipeData,
        plan: TrainConfig,
        world: World,
        console: Console,
    ) -> None:
        self.recipe, self.config, self.data, self.plan = recipe, config, data, plan
        self.world, self.console = world, console

    def __call__(self, weights: dict[str, Tensor], step: int) -> Evaluated:
        """Top-1 on the watched images, where there are some and the model has classes."""
        if not self.data.watched or not self.config.num_classes:
            return Evaluated({}, "val", "", float(step), float(step))
        model = VisionTransformer(self.config)
        model.load_state_dict(backbone_weights(weights))
        engine = EagerEngine(
            model, precision=self.plan.precision, fused_attention=self.plan.fused_attention, group=WATCHED_TOGETHER
        )
        logits = self._logits(engine)
        task = make_task("single-label", self.config.num_classes)
        values = task.score_logits(logits, task.targets(self.data.watched)).values
        kept = {name: values[name] for name in ("top1", "nll")}
        return Evaluated(kept, "val", f"top-1 {percent(kept['top1'])}", float(step), float(step))

    def _logits(self, engine: EagerEngine) -> Tensor:
        """Those of all watched images; every rank computes some, unless there are fewer images than ranks."""
        watched, world = self.data.watched, self.world if len(self.data.watched) >= self.world.size else ALONE
        own = watched[world.rank :: world.size]
        logits = outputs_of(engine, self.recipe.preprocess, own, self.console, "validating").logits
        parts = world.gather(torch.from_numpy(logits), "an evaluation")
        whole = torch.empty(len(watched), logits.shape[1])
        for rank, part in enumerate(parts):
            whole[rank :: world.size] = part
        return whole


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
