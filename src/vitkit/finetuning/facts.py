"""Gathers the facts of a fine-tuning run for `report.write_report`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitkit.audits.facts import short_facts
from vitkit.bundle import Bundle
from vitkit.checkpoint import TrainState
from vitkit.evals.classify import wilson
from vitkit.evals.scoring import SELECTION, Scored, rows
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.hooks import RunHooks
from vitkit.finetuning.probe import Probed
from vitkit.recipes.finetune import Plan
from vitkit.report import versions

__all__ = ["RunFacts", "report_facts"]


@dataclass(frozen=True)
class RunFacts:
    """What a run knows when it has trained."""

    arguments: Arguments
    command: str
    plan: Plan
    data: TaskData
    probed: Probed
    state: TrainState
    hooks: RunHooks
    began: float


def report_facts(
    facts: RunFacts, bundle: Bundle, release: Mapping[str, Any], results: Mapping[str, Scored], size: str
) -> dict[str, Any]:
    """The contents of ``report.json``; the page shows the same."""
    split = "test" if "test" in results else "val"
    head = results[split]
    label = "" if split == "test" else SELECTION
    low, high = head.scores.top1_interval
    training, plan = plan_facts(facts), facts.plan
    name = facts.data.source.name
    return {
        "format": "vitkit-report",
        "format_version": 1,
        "title": f"{name}: {len(bundle.classes or ())} classes",
        "subtitle": f"{release['released']} model from {bundle.source}, seed {facts.arguments.seed}",
        "headline": {
            "split": split, "metric": "top1", "value": head.scores.values["top1"], "low": low, "high": high,
            "n": head.scores.n, "label": label,
        },
        "release": {"released": release["released"], "reason": release["reason"]},
        "comparison": _comparison(release["candidates"], results, release["released"]),
        "rows": [
            row.to_dict()
            for s, scored in results.items()
            for row in rows(scored, "classify", f"{name}/{s}", "model", SELECTION if s == "val" else "")
        ],
        "classes": list(bundle.classes or ()),
        "per_class": [
            {"name": c, "n": int(head.scores.confusion[i].sum()), "recall": float(head.scores.recall[i]),
             "precision": float(head.scores.precision[i])}
            for i, c in enumerate(bundle.classes or ())
        ],
        "confusion": head.scores.confusion.tolist(),
        "curves": {"loss": facts.hooks.losses, "evaluations": facts.hooks.evaluations, "label": SELECTION},
        "probe": {
            "images": facts.probed.images, "penalty": facts.probed.probe.penalty, "cv_accuracy": facts.probed.probe.cv_accuracy,
            "val_accuracy": facts.probed.val_accuracy, "mirrored_val_accuracy": facts.probed.mirrored_accuracy, "label": SELECTION,
        },
        "finetune": training,
        "temperature": bundle.temperature,
        "data": _data_facts(facts),
        "model": {"source": bundle.source, "licence": bundle.licence, "summary": size},
        "recipe": dataclasses.asdict(plan.recipe),
        "plan": plan.to_dict(),
        "arguments": dataclasses.asdict(facts.arguments),
        "next_steps": _next_steps(facts, head, split),
        "command": facts.command,
        "versions": versions(),
        "seconds": time.perf_counter() - facts.began,
    }  # fmt: skip


def plan_facts(facts: RunFacts) -> dict[str, Any]:
    """What training did."""
    train, state = facts.plan.train, facts.state
    epochs = state.step * train.batch_size / len(facts.data.splits.train)
    parts = {"all": "all layers", "head": "the head only", "lora": "low-rank updates and the head"}
    return {
        "steps": train.steps,
        "steps_done": state.step,
        "best_step": state.best_step,
        "stopped_early": state.step < train.steps,
        "summary": f"{parts[facts.arguments.train]}, {state.step} steps of {train.batch_size} images ({epochs:.1f} epochs), "
        f"{train.precision}",
    }


def _comparison(candidates: Mapping[str, Any], results: Mapping[str, Scored], released: str) -> list[dict[str, Any]]:
    lines = []
    for name, found in candidates.items():
        n, top1 = found["n"], found["val"]["top1"]
        low, high = wilson(round(top1 * n), n)
        lines.append(
            {"model": name, "split": "val", "value": top1, "low": low, "high": high, "n": n, "label": SELECTION}
        )
    if "test" in results:
        scores = results["test"].scores
        low, high = scores.top1_interval
        lines.append(
            {"model": f"{released} (released)", "split": "test", "value": scores.values["top1"], "low": low, "high": high,
             "n": scores.n, "label": ""}
        )  # fmt: skip
    return lines


def _data_facts(facts: RunFacts) -> dict[str, Any]:
    data = facts.data
    parts = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test or ()}
    classes = data.source.classes
    sizes = np.array([size for found in data.scans.values() for size in found.sizes])
    (low_h, low_w), (mid_h, mid_w), (high_h, high_w) = np.quantile(sizes, (0.05, 0.5, 0.95), axis=0).round().astype(int)
    return {
        "name": data.source.name,
        "summary": data.source.describe(),
        "counts": {name: len(samples) for name, samples in parts.items() if samples},
        "per_class": {
            name: np.bincount([s.label for s in samples], minlength=len(classes)).tolist()
            for name, samples in parts.items()
        },
        "split_rule": data.splits.rule,
        "fit": facts.plan.preprocess.fit,
        "fit_reason": facts.plan.fit_reason,
        "sizes": f"median {mid_w}x{mid_h}, most between {low_w}x{low_h} and {high_w}x{high_h} (width x height)",
        "fingerprint": next(iter(data.scans.values())).fingerprint,
        "fingerprints": {split: found.fingerprint for split, found in data.scans.items()},
        "notes": list(data.source.notes),
        "skipped": data.skipped,
        "audit": short_facts(data.survey, data.findings),
    }


def _next_steps(facts: RunFacts, head: Scored, split: str) -> list[str]:
    lines = []
    classes = facts.data.source.classes
    off_diagonal = head.scores.confusion.copy()
    np.fill_diagonal(off_diagonal, 0)
    if off_diagonal.any():
        true, guess = np.unravel_index(off_diagonal.argmax(), off_diagonal.shape)
        lines.append(
            f"The most frequent confusion is {classes[true]} taken for {classes[guess]} ({off_diagonal[true, guess]} of "
            f"{head.scores.confusion[true].sum()}): look at those images in predictions.csv, and add more of both."
        )
    if split == "val":
        lines.append("There is no test/ split: put aside images that the run never sees, for a figure you can quote.")
    if facts.arguments.model is None:
        lines.append("The model started from random weights: name a pre-trained checkpoint with --model.")
    if head.scores.n < 200:
        low, high = head.scores.top1_interval
        lines.append(
            f"{head.scores.n} images leave the accuracy uncertain by {100 * (high - low) / 2:.0f} points either way."
        )
    if facts.data.skipped:
        lines.append(f"{len(facts.data.skipped)} files could not be used; mend or remove them.")
    return lines or ["Nothing stands out. Try the model on new images: vit predict."]
