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

from vitkit.bundle import Bundle
from vitkit.checkpoint import TrainState
from vitkit.config import write_file, write_json
from vitkit.console import Console, percent
from vitkit.data.pixels import Preprocess
from vitkit.evals.calibration import fit_temperature
from vitkit.evals.linear import Probe
from vitkit.evals.scoring import SELECTION, Scored, score_samples
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.backbone import describe_size, with_new_head
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.facts import RunFacts, report_facts
from vitkit.models.lora import plain_state
from vitkit.models.vit import VisionTransformer
from vitkit.report import write_report
from vitkit.zoo.load import resize

__all__ = ["finish", "probe_candidate", "release", "tuned_candidate"]


def probe_candidate(backbone: Bundle, probe: Probe, record: Preprocess) -> Bundle:
    model = with_new_head(backbone, len(probe.bias))
    model.head.load_state_dict({"weight": probe.weight, "bias": probe.bias})  # type: ignore[union-attr]
    return Bundle(model.eval(), record)


def tuned_candidate(state: TrainState, record: Preprocess) -> Bundle:
    """The best weights, merged, at the size the released model runs at."""
    model = VisionTransformer(dataclasses.replace(state.model.config, drop_path=0.0))
    model.load_state_dict(plain_state(state.best_weights))
    return Bundle(resize(model, record.image_size), record)


def release(
    candidates: dict[str, Bundle], backbone: Bundle, data: TaskData, arguments: Arguments, console: Console
) -> Bundle:
    """Score both candidates on the validation part, keep the better, fit its temperature."""
    scored: dict[str, Scored] = {}
    for name, bundle in candidates.items():
        scored[name] = score_samples(
            bundle, data.splits.val, console, f"validating {name}", max_pixels=arguments.max_pixels
        )
    scores = {name: result.scores for name, result in scored.items()}
    metric = arguments.select_by
    tuned, probe = (scores[name].selection_key(metric) for name in ("fine-tuned", "linear probe"))
    name = "linear probe" if tuned < probe else "fine-tuned"
    figures = ", ".join(f"{other} {scores[other].values[metric]:.4f}" for other in candidates)
    worse = " Fine-tuning ended below the probe, so the probe is released." if name == "linear probe" else ""
    reason = f"Released: the {name} model (validation {metric}, {SELECTION}: {figures}).{worse}"
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
        "candidates": {
            other: {"val": dict(result.values), "n": result.n, "label": SELECTION} for other, result in scores.items()
        },
    }
    return bundle


def finish(run: Path, bundle: Bundle, facts: RunFacts, console: Console) -> dict[str, Any]:
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
    loaded.training = {**bundle.training, "metrics": _metrics(results)}
    write_json(run / "model" / "training.json", loaded.training)
    report = report_facts(facts, loaded, release, results, describe_size(loaded.model))
    _write_predictions(run, loaded, results)
    html, _ = write_report(run, report)
    headline = report["headline"]
    label = f", {headline['label']}" if headline["label"] else ""
    console.say(
        f"result    {headline['split']} top-1 {percent(headline['value'])} "
        f"[{percent(headline['low'])}, {percent(headline['high'])}] on {headline['n']} images{label}"
    )
    console.say(f"bundle    {run / 'model'}")
    console.say(f"report    {html}")
    return report


def _metrics(results: Mapping[str, Scored]) -> dict[str, Any]:
    return {
        split: {**result.scores.values, "n": result.scores.n, "label": SELECTION if split == "val" else ""}
        for split, result in results.items()
    }


def _write_predictions(run: Path, bundle: Bundle, results: Mapping[str, Scored]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "path", "label", "prediction", "probability"])
    for split, result in results.items():
        for sample, row in zip(result.samples, result.probabilities, strict=True):
            best = bundle.top(torch.from_numpy(row), 1)
            writer.writerow(
                [split, sample.name, bundle.class_name(sample.label), best.classes[0], best.probabilities[0]]
            )
    write_file(run / "predictions.csv", text.getvalue().encode("utf-8", "surrogateescape"))
