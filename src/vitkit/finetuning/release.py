"""Chooses between probe and fine-tuned model, calibrates, saves, loads again, scores and reports."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitkit.answers import MULTI, SEPARATOR, SINGLE
from vitkit.bundle import Bundle, read_bundle_config
from vitkit.checkpoint import TrainState
from vitkit.config import UserError, write_file, write_json
from vitkit.console import Console, percent
from vitkit.data.pixels import Preprocess
from vitkit.data.sources import Source
from vitkit.data.thumbnails import picture_address
from vitkit.engines.eager import EagerEngine
from vitkit.evals.linear import Probe
from vitkit.evals.scoring import SELECTION, Scored, outputs_of, score_samples, seen_label, task_of
from vitkit.evals.tasks import AnyScores, Calibration, Task
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.backbone import describe_size, with_new_head
from vitkit.finetuning.balance import Balance
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.errors import explain_errors
from vitkit.finetuning.facts import CROSS_VALIDATION, RunFacts, headline_split, report_facts
from vitkit.finetuning.plan import MAX_UNKNOWN_IMAGES
from vitkit.models.lora import plain_state
from vitkit.models.vit import VisionTransformer
from vitkit.report import write_report
from vitkit.unknown import FALSE_ALARMS, Unknown, fit_unknown
from vitkit.zoo.adapt import resize
from vitkit.zoo.load import load_model

__all__ = ["check_earlier", "finish", "probe_candidate", "release", "tuned_candidate"]


def probe_candidate(backbone: Bundle, probe: Probe, record: Preprocess, task: Task) -> Bundle:
    model = with_new_head(backbone, len(probe.bias))
    model.head.load_state_dict({"weight": probe.weight, "bias": probe.bias})  # type: ignore[union-attr]
    return Bundle(model.eval(), record, task=task.name)


def tuned_candidate(state: TrainState, record: Preprocess, task: Task) -> Bundle:
    """The best weights, merged, at the size the released model runs at."""
    assert isinstance(state.model, VisionTransformer)
    model = VisionTransformer(dataclasses.replace(state.model.config, drop_path=0.0))
    model.load_state_dict(plain_state(state.best_weights))
    return Bundle(resize(model, record.image_size), record, task=task.name)


def release(
    candidates: dict[str, Bundle],
    backbone: Bundle,
    data: TaskData,
    balance: Balance,
    arguments: Arguments,
    console: Console,
) -> Bundle:
    """Score and calibrate both candidates on the validation part, and keep the better."""
    metric, limit = arguments.select_by, arguments.max_pixels
    scored = {
        name: score_samples(bundle, data.splits.val, console, f"validating {name}", max_pixels=limit)
        for name, bundle in candidates.items()
    }
    calibrations = {
        name: data.task.calibrate(result.logits, result.targets, balance.weights) for name, result in scored.items()
    }
    scores = {name: _shifted_scores(result, calibrations[name], data.task) for name, result in scored.items()}
    tuned, probe = (scores[name].selection_key(metric) for name in ("fine-tuned", "linear probe"))
    name = "linear probe" if tuned < probe else "fine-tuned"
    figures = ", ".join(f"{other} {scores[other].values[metric]:.4f}" for other in candidates)
    worse = _why_the_probe(tuned, probe) if name == "linear probe" else ""
    reason = f"Released: the {name} model (validation {metric}, {SELECTION}: {figures}).{worse}"
    console.say(f"release   {reason}")
    bundle = candidates[name]
    shift, bundle.temperature, bundle.thresholds = calibrations[name]
    head = bundle.model.head
    assert head is not None
    head.bias.data += torch.from_numpy(shift).to(head.bias)
    bundle.unknown = _unknown_detector(bundle, data, scored[name].features, limit, console)
    bundle.classes = data.source.classes
    bundle.source = backbone.source
    bundle.licence = backbone.licence
    bundle.training = {
        "released": name,
        "reason": reason,
        "head_shift": shift.tolist() if shift.any() else None,
        "candidates": {
            other: {
                "val": dict(result.values),
                "interval": list(result.intervals[data.task.headline]),
                "n": result.n,
                "label": SELECTION,
            }
            for other, result in scores.items()
        },
    }
    return bundle


def _why_the_probe(tuned: tuple[float, float], probe: tuple[float, float]) -> str:
    """What is said where fine-tuning did not win, from the two selection keys."""
    tie = tuned[0] == probe[0]
    below = "tied with the probe, whose negative log-likelihood is lower" if tie else "ended below the probe"
    return f" Fine-tuning {below}, so the probe is released."


def _shifted_scores(result: Scored, calibration: Calibration, task: Task) -> AnyScores:
    """Scores with the shift that calibration puts into the head, if there is one."""
    if not calibration.shift.any():
        return result.scores
    return task.score_logits(result.logits + calibration.shift.astype(np.float32), result.targets)


def _unknown_detector(
    bundle: Bundle, data: TaskData, held_out: np.ndarray, max_pixels: int, console: Console
) -> Unknown | None:
    """Fit on training images, at most `MAX_UNKNOWN_IMAGES` of them; the threshold on the validation part."""
    training = list(data.splits.train)
    if len(training) > MAX_UNKNOWN_IMAGES:
        part = np.random.default_rng(0).choice(len(training), MAX_UNKNOWN_IMAGES, replace=False)
        training = [training[i] for i in sorted(part)]
    engine = EagerEngine(bundle.model, group=16)
    features = outputs_of(
        engine, bundle.require_preprocess(), training, console, "features of training images", max_pixels=max_pixels
    ).features
    detector = fit_unknown(features, held_out)
    if detector is None:
        console.say(
            f"unknown   no threshold: {len(held_out)} validation images are too few to promise a rate of false alarms"
        )
    else:
        console.say(
            f"unknown   images at a distance above {detector.threshold:.2f} are called unknown: at most {percent(FALSE_ALARMS)} "
            f"of images like the {len(held_out)} held-out ones"
        )
    return detector


def finish(
    run: Path, bundle: Bundle, facts: RunFacts, cross_validated: Scored | None, console: Console
) -> dict[str, Any]:
    """Save the bundle, load it as any command would, score it, and write the report."""
    plan, data = facts.plan, facts.data
    release = dict(bundle.training)
    bundle.training = {
        **release,
        "recipe": dataclasses.asdict(plan.recipe),
        "data": {
            "name": data.source.name,
            "fingerprint": {s: f.fingerprint for s, f in data.scans.items()},
            "digests": {"train": data.digests_of(data.splits.train), "val": data.digests_of(data.splits.val)},
        },
    }
    bundle.save(run / "model")
    loaded = Bundle.read(run / "model")
    limit = facts.arguments.max_pixels
    results = {"val": score_samples(loaded, data.splits.val, console, "scoring val", max_pixels=limit)}
    if data.splits.test:
        results["test"] = score_samples(loaded, data.splits.test, console, "scoring test", max_pixels=limit)
    if cross_validated:
        results[CROSS_VALIDATION] = cross_validated
    loaded.training = {**bundle.training, "metrics": _metrics(results)}
    write_json(run / "model" / "training.json", loaded.training)
    head = results[headline_split(results)]
    earlier = _score_earlier(facts.arguments.earlier, loaded, head, limit, console)
    report = report_facts(facts, loaded, release, results, describe_size(loaded.model), earlier)
    _write_predictions(run, loaded, results)
    maps = (
        {} if facts.arguments.fold is not None else explain_errors(run, loaded, report["gallery"], head, limit, console)
    )
    html, _ = write_report(run, report, _pictures(report["gallery"], head, limit), maps)
    headline = report["headline"]
    label = f", {headline['label']}" if headline["label"] else ""
    console.say(
        f"result    {headline['split']} {data.task.shown} {percent(headline['value'])} "
        f"[{percent(headline['low'])}, {percent(headline['high'])}] on {headline['n']} images{label}"
    )
    console.say(f"bundle    {run / 'model'}")
    console.say(f"report    {html}")
    return report


def check_earlier(earlier: str | None, source: Source) -> None:
    """Refuse to compare with a run of other classes or another task, before anything is trained.

    Raises:
        UserError: the classes differ.
    """
    if earlier is None:
        return
    config = read_bundle_config(Path(earlier) / "model")
    others, task = config["classes"] or [], MULTI if source.multilabel else SINGLE
    if config.get("task", SINGLE) != task:
        raise UserError(f"{earlier} is {config.get('task', SINGLE)}, this data is {task}; the two cannot be compared.")
    if sorted(others) != sorted(source.classes):
        different = ", ".join(sorted(set(others) ^ set(source.classes))[:8])
        raise UserError(f"{earlier} has other classes than this data ({different}); the two cannot be compared.")


def _score_earlier(
    earlier: str | None, bundle: Bundle, head: Scored, max_pixels: int, console: Console
) -> dict[str, Any] | None:
    """The headline's images scored by the model of an earlier run, for the comparison."""
    if earlier is None:
        return None
    name = Path(earlier).name
    other = load_model(Path(earlier) / "model")
    names = list(other.classes or ())
    index = [names.index(own) for own in bundle.classes or ()]
    samples = [
        s._replace(label=index[s.label] if s.label >= 0 else -1, labels=tuple(sorted(index[i] for i in s.labels)))
        for s in head.samples
    ]
    scores, task = (
        score_samples(other, samples, console, f"scoring {name}", max_pixels=max_pixels).scores,
        task_of(bundle),
    )
    value, (low, high) = scores.values[task.headline], scores.intervals[task.headline]
    console.say(f"earlier   {earlier}: {task.shown} {percent(value)} on the same images")
    seen, count = seen_label(other, samples)
    split = "test" if seen == "" else f"the same images, {count} seen before"
    return {
        "model": f"earlier run {name}", "split": split, "value": value, "low": low, "high": high, "n": scores.n,
        "label": seen,
    }  # fmt: skip


def _pictures(gallery: Mapping[str, Any], head: Scored, max_pixels: int) -> dict[str, str]:
    """Image name -> thumbnail, for the page."""
    sources = {sample.name: sample.source for sample in head.samples}
    names = {entry["name"] for entries in gallery.values() for entry in entries}
    made = {name: picture_address(sources[name], max_pixels) for name in names}
    return {name: picture for name, picture in made.items() if picture}


def _metrics(results: Mapping[str, Scored]) -> dict[str, Any]:
    return {
        split: {**result.scores.values, "n": result.scores.n, "label": SELECTION if split == "val" else ""}
        for split, result in results.items()
    }


def _write_predictions(run: Path, bundle: Bundle, results: Mapping[str, Scored]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    mark = ["unknown"] if bundle.unknown else []
    writer.writerow(["split", "path", "label", "prediction", "probability", *mark])
    for split, result in results.items():
        for i, (sample, row) in enumerate(zip(result.samples, result.probabilities, strict=True)):
            best = bundle.top(row, 1)
            flag = [] if result.unknown is None else [str(bool(result.unknown[i])).lower()]
            truth = sample.labels if bundle.task == MULTI else (sample.label,)
            label = SEPARATOR.join(bundle.class_name(index) for index in truth)
            writer.writerow([split, sample.name, label, best.answer, best.probability, *flag])
    write_file(run / "predictions.csv", text.getvalue().encode("utf-8", "surrogateescape"))
