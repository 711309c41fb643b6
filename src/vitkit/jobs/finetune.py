"""`vit finetune`: a folder of labelled images in, an honest and deployable classifier out.

The steps, in order: read and open the data; load the backbone; cross-validate if asked to; a linear probe on its frozen
features; plan; fine-tune; calibrate both and release the better; save the bundle; load it again and score it; write the report.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vitkit.config import UserError, free_folder, read_json, write_json
from vitkit.console import Console
from vitkit.data.loader import spare_cores
from vitkit.data.pixels import MAX_PIXELS
from vitkit.datasets.book import data_name, pinned
from vitkit.evals.tasks import check_metric
from vitkit.finetuning.arguments import Arguments, absolute, check_arguments, read_arguments
from vitkit.finetuning.backbone import check_model, choose_preprocess, load_backbone, with_new_head
from vitkit.finetuning.balance import choose_balance
from vitkit.finetuning.data import read_data, write_split
from vitkit.finetuning.default import SCRATCH, default_model, model_of_plan
from vitkit.finetuning.facts import RunFacts
from vitkit.finetuning.folds import check_folds, cross_validate
from vitkit.finetuning.plan import make_plan
from vitkit.finetuning.probe import run_probe
from vitkit.finetuning.release import check_earlier, finish, probe_candidate, release, tuned_candidate
from vitkit.finetuning.training import run_training
from vitkit.parallel.launch import launched_rank
from vitkit.planning import check_budget, is_pretrain_plan
from vitkit.runfolder import check_free, claimed, write_arguments

__all__ = ["FinetuneResult", "finetune"]


@dataclass(frozen=True)
class FinetuneResult:
    """Where the run wrote, and its headline."""

    run: Path
    bundle: Path
    report: Path
    headline: Mapping[str, Any]
    facts: Mapping[str, Any]


def finetune(
    data: str | Path | None = None,
    *,
    model: str | Path | None = None,
    out: str | Path | None = None,
    val: str | Path | None = None,
    budget: float | None = None,
    epochs: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    fit: str = "auto",
    train: str = "all",
    select_by: str = "auto",
    balance: str = "auto",
    earlier: str | Path | None = None,
    folds: int = 0,
    seed: int = 0,
    strict: bool = False,
    workers: int | None = None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    settings: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    plan: str | Path | None = None,
    resized_cache: float = 0.0,
    track: Sequence[str] = (),
    resume: str | Path | None = None,
    download: bool | None = None,
    command: str | None = None,
    began: float | None = None,
    console: Console | None = None,
) -> FinetuneResult:
    """Fine-tune a Vision Transformer on labelled images.

    Args:
        data: class folders, or train/ with val/ and test/ inside, a CSV, Parquet or tar file, or ``digits``.
        model: a bundle or checkpoint to start from, ``box``, or ``scratch`` for a small model from random weights. None: the
            recommended checkpoint where it is here or may be downloaded, else ``box``; which one, and why, is said.
        out: the run folder; by default ``runs/<data>``, numbered.
        val: a folder of validation images, classes matched by name.
        budget: seconds that the whole command may take; the schedule is made to end in time.
        epochs: passes over the training images, instead of the recipe's.
        image_size: the size to run at, one number or (height, width). By default the model's own, or 8/7 of it where that
            is at most 224 pixels and the photos are larger.
        fit: auto | crop | squash | pad.
        train: all | head | lora.
        select_by: metric that chooses the kept weights: top1, balanced_accuracy, macro_f1 or nll; in multi-label data map,
            micro_f1, macro_f1 or nll. ``auto`` is top1, balanced_accuracy where errors are weighted by class, or map.
        balance: what an error of each class costs: auto (inverse to class size where sizes differ by half or more),
            none, or a JSON or CSV file of class and weight.
        earlier: a finished run; its model is scored on the same images, for the comparison in the report.
        folds: train this many models, each tested on the part it never saw, before the released one: an honest estimate
            where there is no test split.
        seed: of the split and of training; equal seeds give equal results, whatever the number of workers.
        strict: fail on the first file that cannot be used, instead of listing it.
        workers: processes that prepare images; None for as many as this machine has cores to spare.
        channels: 3 makes every image RGB; with another number, images (`.npy`, multi-band TIFF, gray, ...) must have so many.
        max_pixels: larger images are listed without being decoded.
        settings: fields of `FinetuneRecipe` to change.
        overrides: of the loaded model, see `vitkit.load`.
        plan: a finished run whose plan (split, recipe, every choice made by timing or memory) is used again.
        resized_cache: GB of decoded training images that may be kept on disk for later runs; never changes the result.
        track: programs that get the run's numbers beside ``metrics.jsonl``: tensorboard, wandb, mlflow.
        resume: a stopped run to go on with; all other arguments are read from it.
        download: without ``model``, may the recommended checkpoint be fetched? None: as VITKIT_DOWNLOAD in the environment says.
        command: the command line, for the report.
        began: when the command began, as of ``time.perf_counter``, where that was before this call.

    Raises:
        UserError: anything in data, model, settings or output that the user can mend.
    """
    console = console or Console()
    began = time.perf_counter() if began is None else began
    asked = Arguments(
        data="" if data is None else pinned(data),
        model=absolute(None if model == SCRATCH else model),
        val=None if val is None else pinned(val),
        budget=budget,
        epochs=epochs,
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        fit=fit,
        train=train,
        select_by={"accuracy": "top1"}.get(select_by, select_by),
        balance=balance if balance in ("auto", "none") else str(absolute(balance)),
        earlier=absolute(earlier),
        folds=folds,
        seed=seed,
        strict=strict,
        workers=spare_cores() if workers is None else workers,
        channels=channels,
        max_pixels=max_pixels,
        settings=dict(settings or {}),
        overrides=dict(overrides or {}),
        plan=absolute(plan),
        resized_cache=resized_cache,
        track=tuple(track),
    )
    if launched_rank() is not None:
        raise UserError(
            "vit finetune runs in one process; start it without torchrun. Several ranks share a recipe: see vit pretrain, whose "
            "recipes also fine-tune (start=WEIGHTS)."
        )
    if resume is not None:
        if asked != Arguments(data="", workers=asked.workers) or out is not None:
            raise UserError("--resume takes everything from the run it goes on with; leave the other arguments out.")
        run = Path(resume)
        arguments, command = read_arguments(run)
        if workers is not None:  # never changes the result
            arguments = dataclasses.replace(arguments, workers=workers)
        if (run / "report.json").exists():
            console.say(f"{run} is finished; nothing to do. Report: {run / 'report.html'}")
            facts = read_json(run / "report.json")
            return FinetuneResult(run, run / "model", run / "report.html", facts["headline"], facts)
    else:
        arguments = asked
        if data is None:
            raise UserError("name the data to fine-tune on, or a run to go on with: --resume RUN.")
        check_arguments(arguments)
        check_budget(budget)
        if plan is not None and folds:
            raise UserError("--plan repeats one run; leave --folds out.")
        if plan is not None and (settings or epochs or budget or image_size or fit != "auto"):
            raise UserError(
                "--plan fixes recipe and size; leave --set, --epochs, --budget, --image-size and --fit out."
            )
        run = Path(out) if out is not None else free_folder(Path("runs"), data_name(arguments.data))
        check_free(run, "finetune")
        if model is None:
            default = (model_of_plan(plan) if plan is not None else None) or default_model(download)
            console.say(f"default   {default.model}, as no --model is named: {default.why}")
            arguments = dataclasses.replace(
                arguments, model=absolute(None if default.model == SCRATCH else default.model)
            )
    with claimed(run):
        write_arguments(run, dataclasses.asdict(arguments), command := command or arguments.as_python())
        return _run(run, arguments, command, began, console)


def _run(run: Path, arguments: Arguments, command: str, began: float, console: Console) -> FinetuneResult:
    stored_plan = _stored_plan(run, arguments)
    check_model(arguments)
    data = read_data(arguments, stored_plan, stored_plan == run, console)
    check_earlier(arguments.earlier, data.source)
    check_folds(arguments, data)
    balance = choose_balance(arguments.balance, data, console)
    metric = check_metric(data.task, balance.metric(arguments.select_by))
    arguments = dataclasses.replace(arguments, select_by=metric)
    backbone, pretrained = load_backbone(arguments, stored_plan, data, console)
    record, fit_reason = choose_preprocess(arguments, stored_plan, backbone, data, console)
    write_arguments(run, dataclasses.asdict(arguments), command)
    write_split(run, data)

    cross_validated = None
    if arguments.folds and arguments.fold is None:
        cross_validated = cross_validate(
            run, arguments, data, partial(_run_fold, command=command, console=console), console
        )
    probed = run_probe(backbone, record, data, balance, arguments, console)
    model = with_new_head(backbone, len(data.source.classes), data.task.head_bias(data.task.targets(data.splits.train)))
    chosen = make_plan(run, arguments, stored_plan, model, record, fit_reason, data, probed, pretrained, began, console)
    write_json(run / "plan.json", chosen.to_dict())
    state, hooks = run_training(run, arguments, chosen, model, data, balance, console)

    candidates = {
        "linear probe": probe_candidate(backbone, probed.probe, record, data.task),
        "fine-tuned": tuned_candidate(state, record, data.task),
    }
    bundle = release(candidates, backbone, data, balance, arguments, console)
    facts = RunFacts(arguments, command, chosen, data, balance, probed, state, hooks, began)
    report = finish(run, bundle, facts, cross_validated, console)
    return FinetuneResult(run, run / "model", run / "report.html", report["headline"], report)


def _run_fold(folder: Path, arguments: Arguments, *, command: str, console: Console) -> None:
    """The run of one fold; a stopped one goes on."""
    _run(folder, arguments, command, time.perf_counter(), console)


def _stored_plan(run: Path, arguments: Arguments) -> Path | None:
    """The run whose plan is used: this one where it was stopped after planning, or the one that was named."""
    if (run / "plan.json").exists():
        return run
    if arguments.plan is None:
        return None
    if not (Path(arguments.plan) / "plan.json").exists():
        raise UserError(f"--plan {arguments.plan} is not a run with a plan: it has no plan.json.")
    if is_pretrain_plan(Path(arguments.plan)):
        raise UserError(f"--plan {arguments.plan} is a run from a recipe (vit pretrain); name a fine-tuning run.")
    return Path(arguments.plan)
