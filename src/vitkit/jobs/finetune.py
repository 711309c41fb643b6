"""`vit finetune`: a folder of labelled images in, an honest and deployable classifier out.

The steps, in order: read and open the data; load the backbone; a linear probe on its frozen features; plan; fine-tune;
release the better of the two; calibrate; save the bundle; load it again and score it; write the report.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from vitkit.bundle import Bundle
from vitkit.checkpoint import TrainState, has_checkpoint, load_checkpoint
from vitkit.config import UserError, override, read_json, write_file, write_json
from vitkit.console import Console, duration, percent
from vitkit.data.audit import Scan, scan
from vitkit.data.loader import training_batches
from vitkit.data.pixels import FITS, Preprocess, choose_fit
from vitkit.data.sources import Sample, Source, match_classes, read_source
from vitkit.data.subsets import Splits, make_splits, stratified_split
from vitkit.engines.eager import EagerEngine
from vitkit.evals.calibration import fit_temperature
from vitkit.evals.classify import METRICS, Scores
from vitkit.evals.linear import Probe, fit_probe
from vitkit.jobs.finetune_hooks import RunHooks, features_of
from vitkit.jobs.finetune_report import RunFacts, report_facts
from vitkit.jobs.scoring import Scored, score_samples
from vitkit.models.lora import add_lora, merge_lora
from vitkit.models.vit import VisionTransformer
from vitkit.objectives.classify import Classify
from vitkit.recipes.finetune import (
    FinetuneRecipe,
    Plan,
    choose_recipe,
    scratch_config,
    train_config,
    validation_fraction,
)
from vitkit.report import write_report
from vitkit.train import measure, start, train
from vitkit.zoo.load import load_model, resize

__all__ = ["Arguments", "FinetuneResult", "finetune"]

MAX_PROBE_IMAGES = 5_000  # the probe is to take seconds, not the time of an epoch
MAX_VALIDATION_IMAGES = 2_000  # held out where there is no validation split
FLIP_TOLERANCE = 0.1  # mirrored images may cost the probe this much accuracy and still be used for training
MEMORY_SHARE = 0.5  # of the free memory that training may plan with


@dataclass(frozen=True)
class Arguments:
    """What the user asked for; stored with the run and read again by ``--resume``."""

    data: str
    model: str | None = None
    val: str | None = None
    budget: float | None = None  # seconds of training
    epochs: float | None = None
    image_size: tuple[int, int] | None = None
    fit: str = "auto"
    train: str = "all"
    select_by: str = "top1"
    seed: int = 0
    strict: bool = False
    workers: int = 1
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of FinetuneRecipe
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the loaded model


@dataclass(frozen=True)
class FinetuneResult:
    """Where the run wrote, and its headline."""

    run: Path
    bundle: Path
    report: Path
    headline: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class _Data:
    """Usable images and what opening them showed."""

    source: Source
    splits: Splits
    scans: Mapping[str, Scan]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return [entry for found in self.scans.values() for entry in found.skipped]


@dataclass(frozen=True)
class _Probed:
    """The linear probe and what it showed."""

    probe: Probe
    images: int
    val_accuracy: float
    mirrored_accuracy: float


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
    select_by: str = "top1",
    seed: int = 0,
    strict: bool = False,
    workers: int = 1,
    settings: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    plan: str | Path | None = None,
    resume: str | Path | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> FinetuneResult:
    """Fine-tune a Vision Transformer on labelled images.

    Args:
        data: class folders, or train/ with val/ and test/ inside, or ``digits``.
        model: a bundle or checkpoint to start from; None or ``scratch`` trains a small model from random weights.
        out: the run folder; by default ``runs/<data>``, numbered.
        val: a folder of validation images, classes matched by name.
        budget: seconds that training may take; the schedule is made to end in time.
        epochs: passes over the training images, instead of the recipe's.
        image_size: the size to run at, one number or (height, width), instead of the model's own.
        fit: auto | crop | squash | pad.
        train: all | head | lora.
        select_by: metric that chooses the kept weights: top1, balanced_accuracy, macro_f1 or nll.
        seed: of the split and of training; equal seeds give equal results, whatever the number of workers.
        strict: fail on the first file that cannot be used, instead of listing it.
        workers: processes that prepare images.
        settings: fields of `FinetuneRecipe` to change.
        overrides: of the loaded model, see `vitkit.load`.
        plan: a finished run whose plan (split, recipe, every choice made by timing or memory) is used again.
        resume: a stopped run to go on with; all other arguments are read from it.
        command: the command line, for the report.

    Raises:
        UserError: anything in data, model, settings or output that the user can mend.
    """
    console = console or Console()
    if resume is not None:
        run = Path(resume)
        arguments, command = _read_arguments(run)
        if (run / "report.json").exists():
            console.say(f"{run} is finished; nothing to do. Report: {run / 'report.html'}")
            facts = read_json(run / "report.json")
            return FinetuneResult(run, run / "model", run / "report.html", facts["headline"], facts)
        plan = run if (run / "plan.json").exists() else None
    else:
        if data is None:
            raise UserError("name the data to fine-tune on, or a run to go on with: --resume RUN.")
        pair = (image_size, image_size) if isinstance(image_size, int) else image_size
        arguments = Arguments(
            str(data), None if model in (None, "scratch") else str(model), None if val is None else str(val), budget, epochs,
            pair, fit, train, {"accuracy": "top1"}.get(select_by, select_by), seed, strict, workers,
            dict(settings or {}), dict(overrides or {}),
        )  # fmt: skip
        _check(arguments)
        run = Path(out) if out is not None else _free_run(Path("runs"), Path(arguments.data).resolve().name)
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise UserError(f"{run} already exists. Choose another --out, or go on with it: vit finetune --resume {run}")
    stored_plan = Path(plan) if plan is not None else None
    return _run(run, arguments, stored_plan, command or f"vitkit.finetune({arguments.data!r}, seed={arguments.seed})", console)


def _run(run: Path, arguments: Arguments, stored_plan: Path | None, command: str, console: Console) -> FinetuneResult:
    began = time.perf_counter()
    data = _read_data(arguments, stored_plan, console)
    backbone, pretrained = _backbone(arguments, data, console)
    record, fit_reason = _preprocess(arguments, backbone, data, console)
    _write_inputs(run, arguments, command, data)

    probed = _probe(backbone, record, data.splits, arguments, console)
    model = _with_head(backbone, len(data.source.classes))
    chosen = _plan(arguments, stored_plan, model, record, fit_reason, data, probed, pretrained, began, console)
    write_json(run / "plan.json", chosen.to_dict())
    state, hooks = _train(run, arguments, chosen, model, data.splits, console)

    candidates = {"linear probe": _probe_model(backbone, probed.probe, record), "fine-tuned": _tuned_model(state, record)}
    bundle = _release(candidates, backbone, data, arguments, console)
    return _finish(run, bundle, RunFacts(arguments, command, chosen, data, probed, state, hooks, began), console)


def _check(arguments: Arguments) -> None:
    if arguments.fit not in ("auto", *FITS):
        raise UserError(f"--fit is {arguments.fit!r}; known: auto, {', '.join(FITS)}.")
    if arguments.train not in ("all", "head", "lora"):
        raise UserError(f"--train is {arguments.train!r}; known: all, head, lora.")
    if arguments.select_by not in METRICS:
        raise UserError(f"--select-by is {arguments.select_by!r}; known: {', '.join(METRICS)}.")
    if arguments.epochs is not None and arguments.epochs <= 0:
        raise UserError(f"--epochs must be above 0, got {arguments.epochs}.")
    if arguments.seed < 0 or arguments.workers < 0:
        raise UserError("--seed and --workers must not be negative.")
    if arguments.train != "all" and arguments.model is None:
        raise UserError(f"--train {arguments.train} needs weights to keep: name a --model.")


def _free_run(parent: Path, name: str) -> Path:
    number = 1
    while (run := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return run


def _read_arguments(run: Path) -> tuple[Arguments, str]:
    if not (run / "arguments.json").exists():
        raise UserError(f"{run} is not a fine-tuning run: it has no arguments.json.")
    stored = read_json(run / "arguments.json")
    size = stored["image_size"]
    arguments = Arguments(**{**stored, "image_size": tuple(size) if size else None})
    return arguments, (run / "command.txt").read_text(encoding="utf-8").strip()


def _write_inputs(run: Path, arguments: Arguments, command: str, data: _Data) -> None:
    write_json(run / "arguments.json", dataclasses.asdict(arguments))
    write_file(run / "command.txt", (command + "\n").encode())
    parts = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test or []}
    stored = {name: [sample.name for sample in samples] for name, samples in parts.items()}
    write_json(run / "split.json", {"rule": data.splits.rule, **stored})


def _read_data(arguments: Arguments, stored_plan: Path | None, console: Console) -> _Data:
    source = read_source(arguments.data)
    splits = dict(source.splits)
    if arguments.val is not None:
        extra = match_classes(read_source(arguments.val), source.classes)
        splits["val"] = next(extra.splits[name] for name in ("val", "all", "train", "test") if name in extra.splits)
        source = dataclasses.replace(source, splits=splits)
    console.say(f"data      {source.name}: {source.describe()}")
    for note in source.notes:
        console.say(f"          {note}")
    scans = {
        split: scan(
            samples,
            strict=arguments.strict,
            progress=lambda items, total, split=split: console.track(items, total, f"opening {split}"),
        )
        for split, samples in splits.items()
    }
    for split, found in scans.items():
        for name, reason in found.skipped:
            console.warn(f"{split}: {name} cannot be used and is left out: {reason}")
    usable = {split: found.usable for split, found in scans.items()}
    if stored_plan is not None and "val" not in usable:
        made = _stored_splits(stored_plan, usable)
    else:
        training = usable.get("train", usable.get("all", ()))
        fraction = validation_fraction(len(training) / len(source.classes))
        made = make_splits(usable, source.classes, fraction, MAX_VALIDATION_IMAGES, arguments.seed)
    console.say(f"split     train {len(made.train)}, val {len(made.val)}, test {len(made.test or [])}: {made.rule}")
    return _Data(source, made, scans)


def _stored_splits(run: Path, usable: Mapping[str, Sequence[Sample]]) -> Splits:
    stored = read_json(run / "split.json")
    by_name = {sample.name: sample for sample in (usable["train"] if "train" in usable else usable["all"])}
    if gone := [name for name in (*stored["train"], *stored["val"]) if name not in by_name]:
        raise UserError(f"{len(gone)} images of {run}/split.json are gone from the data, the first: {gone[0]}.")
    parts = [[by_name[name] for name in stored[part]] for part in ("train", "val")]
    return Splits(parts[0], parts[1], usable.get("test"), stored["rule"])


def _backbone(arguments: Arguments, data: _Data, console: Console) -> tuple[Bundle, bool]:
    """The weights to start from, without their head, at the size to run at."""
    if arguments.model is not None:
        sized = {"image_size": arguments.image_size} if arguments.image_size else {}
        bundle = load_model(arguments.model, **{**arguments.overrides, **sized})
        bundle.require_preprocess()
        if bundle.config.pool == "none":
            raise UserError("this model classifies every token (pool='none'); fine-tuning needs one answer per image.")
        console.say(f"model     {bundle.source}, {_size_of(bundle.model)}, licence {bundle.licence}")
        for note in bundle.notes:
            console.say(f"          {note}")
        return bundle, True
    sizes = np.array(data.scans["train" if "train" in data.scans else "all"].sizes)
    median = tuple(int(n) for n in np.median(sizes, axis=0))
    side = min(64, min(median)) if arguments.image_size is None else 0
    config = scratch_config(arguments.image_size or (side, side), len(data.source.classes))
    model = VisionTransformer(config)
    model.init_weights(arguments.seed)
    console.warn(
        "no --model: training a small Vision Transformer from random weights. Without pre-training it learns little from "
        "few images; name a pre-trained checkpoint with --model for a much better result."
    )
    console.say(f"model     random weights, {_size_of(model)}")
    record = Preprocess(image_size=config.image_size, fit="squash", crop_fraction=0.875)
    return Bundle(model.eval(), record, source="random weights", licence="the user's own"), False


def _size_of(model: VisionTransformer) -> str:
    c = model.config
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{parameters / 1e6:.2f} M parameters, width {c.embed_dim}, depth {c.depth}, patch {c.patch_size[0]}x{c.patch_size[1]}, "
        f"image {c.image_size[0]}x{c.image_size[1]}"
    )


def _preprocess(arguments: Arguments, backbone: Bundle, data: _Data, console: Console) -> tuple[Preprocess, str]:
    record = backbone.require_preprocess()
    if arguments.fit == "auto":
        sizes = data.scans["train" if "train" in data.scans else "all"].sizes
        fit, reason = choose_fit(sizes, record.image_size)
    else:
        fit, reason = arguments.fit, "as asked for"
    console.say(f"fit       {fit}: {reason}")
    return dataclasses.replace(record, fit=fit), reason


def _probe(
    backbone: Bundle, record: Preprocess, splits: Splits, arguments: Arguments, console: Console
) -> _Probed:
    began = time.perf_counter()
    engine = EagerEngine(backbone.model, features=True)
    training = list(splits.train)
    if len(training) > MAX_PROBE_IMAGES:
        labels = [sample.label for sample in training]
        _, part = stratified_split(labels, MAX_PROBE_IMAGES / len(training), arguments.seed)
        training = [training[i] for i in part]
    x = features_of(engine, record, training, console, "probe: training features")
    x_val = features_of(engine, record, splits.val, console, "probe: validation features")
    mirrored = features_of(engine, record, splits.val, console, "probe: mirrored", mirror=True)
    classes = 1 + max(sample.label for sample in splits.train)
    probe = fit_probe(x, torch.tensor([sample.label for sample in training]), classes, arguments.seed)
    labels_val = torch.tensor([sample.label for sample in splits.val])
    accuracy, flipped = (float((probe.logits(f).argmax(1) == labels_val).double().mean()) for f in (x_val, mirrored))
    console.say(
        f"probe     linear probe on frozen features: validation top-1 {percent(accuracy)}, "
        f"cross-validated on {len(training)} training images {percent(probe.cv_accuracy)} "
        f"({duration(time.perf_counter() - began)})"
    )
    return _Probed(probe, len(training), accuracy, flipped)


def _with_head(backbone: Bundle, classes: int) -> VisionTransformer:
    """The backbone with a zero head for the data's classes."""
    config = dataclasses.replace(backbone.config, num_classes=classes)
    model = VisionTransformer(config)
    state = {name: t for name, t in backbone.model.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict(state, strict=False)
    model.reset_head()
    return model


def _plan(
    arguments: Arguments,
    stored: Path | None,
    model: VisionTransformer,
    record: Preprocess,
    fit_reason: str,
    data: _Data,
    probed: _Probed,
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
    trial = _trainable(model, arguments.train, recipe, arguments.seed)
    memory = int(MEMORY_SHARE * (torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available))
    view = dataclasses.replace(record, image_size=recipe.train_size)
    draft = Plan(record, fit_reason, recipe, config, torch.get_num_threads(), 0.0)
    batch = next(iter(training_batches(
        data.splits.train, view, draft.augment(), batch_size=config.batch_size, steps=range(1), seed=arguments.seed, workers=0
    )))  # fmt: skip
    measured = measure(trial, config, Classify(recipe.smoothing), batch, memory)
    steps = config.steps
    if arguments.budget is not None:
        left = arguments.budget - (time.perf_counter() - began)
        steps = min(steps, int(0.85 * left / measured.seconds))  # the rest is for evaluation, scoring and the report
        if steps < 1:
            raise UserError(
                f"a budget of {duration(arguments.budget)} is spent before the first step; one step takes "
                f"{measured.seconds:.1f} s here. Allow more, or take a smaller model or image size."
            )
    config = dataclasses.replace(
        config, steps=steps, microbatch_size=measured.microbatch_size, eval_every=max(1, -(-steps // recipe.evaluations))
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
    arguments: Arguments, model: VisionTransformer, data: _Data, probed: _Probed, pretrained: bool, console: Console
) -> FinetuneRecipe:
    sizes = np.array(data.scans["train" if "train" in data.scans else "all"].sizes)
    upscaled = bool(np.median(sizes.min(axis=1)) < min(model.config.image_size))
    recipe = choose_recipe(
        images=len(data.splits.train),
        classes=len(data.source.classes),
        config=model.config,
        pretrained=pretrained,
        train=arguments.train,
        upscaled=upscaled,
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


def _trainable(model: VisionTransformer, what: str, recipe: FinetuneRecipe, seed: int) -> VisionTransformer:
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


def _train(
    run: Path, arguments: Arguments, plan: Plan, model: VisionTransformer, splits: Splits, console: Console
) -> tuple[TrainState, RunHooks]:
    config = plan.train
    state = start(_trainable(model, arguments.train, plan.recipe, arguments.seed), config)
    folder = run / "checkpoints"
    if has_checkpoint(folder):
        load_checkpoint(folder, state)
        console.say(f"resume    from step {state.step} of {config.steps}")
    batches = training_batches(
        splits.train,
        dataclasses.replace(plan.preprocess, image_size=plan.recipe.train_size),
        plan.augment(),
        batch_size=config.batch_size,
        steps=range(state.step, config.steps),
        seed=arguments.seed,
        workers=arguments.workers,
    )
    with RunHooks(run, plan, splits.val, arguments.select_by, state, console) as hooks:
        train(state, config, Classify(plan.recipe.smoothing), batches, hooks)
    return state, hooks


def _probe_model(backbone: Bundle, probe: Probe, record: Preprocess) -> Bundle:
    model = _with_head(backbone, len(probe.bias))
    model.head.load_state_dict({"weight": probe.weight, "bias": probe.bias})  # type: ignore[union-attr]
    return Bundle(model.eval(), record)


def _tuned_model(state: TrainState, record: Preprocess) -> Bundle:
    """The best weights, merged, at the size the released model runs at."""
    model = copy.deepcopy(state.model).cpu()
    model.load_state_dict(state.best_weights)
    merge_lora(model)
    return Bundle(resize(model, record.image_size), record)


def _release(
    candidates: dict[str, Bundle], backbone: Bundle, data: _Data, arguments: Arguments, console: Console
) -> Bundle:
    """Score both candidates on the validation part, keep the better, fit its temperature."""
    scored: dict[str, Scored] = {}
    for name, bundle in candidates.items():
        scored[name] = score_samples(bundle, data.splits.val, console, f"validating {name}")
    scores: dict[str, Scores] = {name: result.scores for name, result in scored.items()}
    metric = arguments.select_by
    sign = -1 if metric == "nll" else 1
    tuned, probe = (sign * scores[name].values[metric] for name in ("fine-tuned", "linear probe"))
    name = "linear probe" if tuned < probe else "fine-tuned"
    figures = ", ".join(f"{other} {scores[other].values[metric]:.4f}" for other in candidates)
    worse = " Fine-tuning ended below the probe, so the probe is released." if name == "linear probe" else ""
    reason = f"Released: the {name} model (validation {metric}: {figures}).{worse}"
    console.say(f"release   {reason}")
    bundle = candidates[name]
    labels = np.array([sample.label for sample in scored[name].samples])
    bundle.temperature = fit_temperature(scored[name].logits, labels)
    bundle.classes = data.source.classes
    bundle.source = backbone.source
    bundle.licence = backbone.licence
    bundle.training = {
        "released": name,
        "reason": reason,
        "candidates": {other: {"val": dict(result.values), "n": result.n} for other, result in scores.items()},
    }
    return bundle


def _finish(run: Path, bundle: Bundle, facts: RunFacts, console: Console) -> FinetuneResult:
    """Save the bundle, load it as any command would, score it, and write the report."""
    plan, data = facts.plan, facts.data
    release = dict(bundle.training)
    bundle.training = {
        **release,
        "recipe": dataclasses.asdict(plan.recipe),
        "data": {"name": data.source.name, "fingerprint": {s: f.fingerprint for s, f in data.scans.items()}},
    }
    bundle.save(run / "model")
    loaded = Bundle.read(run / "model")
    results = {"val": score_samples(loaded, data.splits.val, console, "scoring val")}
    if data.splits.test:
        results["test"] = score_samples(loaded, data.splits.test, console, "scoring test")
    loaded.training = {**bundle.training, "metrics": {s: dict(r.scores.values) for s, r in results.items()}}
    write_json(run / "model" / "training.json", loaded.training)
    report = report_facts(facts, loaded, release, results, _size_of(loaded.model))
    html, _ = write_report(run, report)
    _write_predictions(run, loaded, results)
    headline = report["headline"]
    label = f", {headline['label']}" if headline["label"] else ""
    console.say(
        f"result    {headline['split']} top-1 {percent(headline['value'])} [{percent(headline['low'])}, {percent(headline['high'])}] "
        f"on {headline['n']} images{label}"
    )
    console.say(f"bundle    {run / 'model'}")
    console.say(f"report    {html}")
    return FinetuneResult(run, run / "model", html, headline, report)


def _write_predictions(run: Path, bundle: Bundle, results: Mapping[str, Scored]) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "path", "label", "prediction", "probability"])
    for split, result in results.items():
        for sample, row in zip(result.samples, result.probabilities, strict=True):
            best = bundle.top(torch.from_numpy(row), 1)
            writer.writerow([split, sample.name, bundle.class_name(sample.label), best.classes[0], best.probabilities[0]])
    write_file(run / "predictions.csv", text.getvalue().encode())
