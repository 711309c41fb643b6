"""Gathers the facts of a fine-tuning run for `report.write_report`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitkit.answers import calibrated
from vitkit.audits.facts import short_facts
from vitkit.bundle import Bundle
from vitkit.checkpoint import TrainState
from vitkit.data.targets import class_counts
from vitkit.evals.classify import Scores, reliability, score
from vitkit.evals.scoring import SELECTION, Scored, rows
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.balance import Balance
from vitkit.finetuning.classes import class_facts, weakest_spot
from vitkit.finetuning.data import TaskData
from vitkit.finetuning.probe import Probed
from vitkit.recipes.finetune import Plan
from vitkit.report import code_fingerprint, versions
from vitkit.runlog import RunLog

__all__ = ["CROSS_VALIDATION", "RunFacts", "gallery", "headline_split", "report_facts"]

CROSS_VALIDATION = "cross-validation"  # every image scored by a model that never saw it
SHOWN = 12  # pictures of errors, and of hits


@dataclass(frozen=True)
class RunFacts:
    """What a run knows when it has trained."""

    arguments: Arguments
    command: str
    plan: Plan
    data: TaskData
    balance: Balance
    probed: Probed
    state: TrainState
    hooks: RunLog
    began: float


def report_facts(
    facts: RunFacts,
    bundle: Bundle,
    release: Mapping[str, Any],
    results: Mapping[str, Scored],
    size: str,
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contents of ``report.json``; the page shows the same."""
    split = headline_split(results)
    head = results[split]
    label = SELECTION if split == "val" else ""
    task = facts.data.task
    low, high = head.scores.intervals[task.headline]
    training, plan = plan_facts(facts), facts.plan
    name = facts.data.source.name
    return {
        "format": "vitkit-report",
        "format_version": 1,
        "title": f"{name}: {len(bundle.classes or ())} classes",
        "subtitle": f"{release['released']} model from {bundle.source}, seed {facts.arguments.seed}",
        "task": task.name,
        "headline": {
            "split": split, "metric": task.headline, "value": head.scores.values[task.headline], "low": low, "high": high,
            "n": head.scores.n, "label": label,
        },
        "release": {"released": release["released"], "reason": release["reason"]},
        "comparison": _comparison(release["candidates"], results, release["released"], task.headline, earlier),
        "rows": [
            row.to_dict()
            for s, scored in results.items()
            for row in rows(scored, "classify", f"{name}/{s}", "model", SELECTION if s == "val" else "")
        ],
        "classes": list(bundle.classes or ()),
        **class_facts(head.scores, bundle.classes or ()),
        "curves": {"loss": facts.hooks.losses, "evaluations": facts.hooks.evaluations, "label": SELECTION},
        "probe": _probe_facts(facts.probed, "map" if facts.data.source.multilabel else "accuracy"),
        "finetune": training,
        "calibration": _calibration(bundle, head, label, None if split == CROSS_VALIDATION else release["head_shift"]),
        "unknown": bundle.unknown and {
            **bundle.unknown.to_dict(), "split": split, "n": head.scores.n,
            "flagged": int(head.unknown.sum()) if head.unknown is not None else None,
        },
        "gallery": gallery(bundle, head),
        "data": _data_facts(facts),
        "model": {"source": bundle.source, "licence": bundle.licence, "summary": size},
        "recipe": dataclasses.asdict(plan.recipe),
        "balance": {"weights": facts.balance.weights, "reason": facts.balance.reason},
        "plan": plan.to_dict(),
        "arguments": dataclasses.asdict(facts.arguments),
        "next_steps": _next_steps(facts, head, split),
        "command": facts.command,
        "code": code_fingerprint(),
        "versions": versions(),
        "seconds": time.perf_counter() - facts.began,
    }  # fmt: skip


def headline_split(results: Mapping[str, Scored]) -> str:
    """What heads the report: the test split, else the cross-validation, else the validation part."""
    return next(split for split in ("test", CROSS_VALIDATION, "val") if split in results)


def _calibration(bundle: Bundle, head: Scored, label: str, shift: list[float] | None) -> dict[str, Any]:
    """How confidence and accuracy agree on the headline's images, with and without what calibration did to the answers."""
    if not isinstance(head.scores, Scores):  # an image has no single prediction whose confidence could be compared
        return {"temperature": bundle.temperature, "label": label}
    labels = head.targets
    sides = {}
    uncalibrated = head.logits - np.array(shift, np.float32) if shift else head.logits
    plain = calibrated(uncalibrated, 1.0, bundle.task)
    for side, probabilities in (("before", plain), ("after", head.probabilities)):
        bins = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
        values = score(probabilities, labels).values
        sides[side] = {"ece": values["ece"], "nll": values["nll"], "bins": [b._asdict() for b in bins]}
    return {"temperature": bundle.temperature, "head_shift": shift, "label": label, **sides}


def gallery(bundle: Bundle, head: Scored) -> dict[str, list[dict[str, Any]]]:
    """The most confident errors and the least confident hits of the headline's images."""
    if not isinstance(head.scores, Scores):
        return {"errors": [], "unsure": []}
    labels = head.targets
    best, confidence = head.probabilities.argmax(axis=1), head.probabilities.max(axis=1)

    def shown(chosen: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "name": head.samples[i].name,
                "label": bundle.class_name(int(labels[i])),
                "prediction": bundle.class_name(int(best[i])),
                "probability": float(confidence[i]),
            }
            for i in chosen[:SHOWN]
        ]

    order = np.argsort(confidence, kind="stable")
    right = (best == labels)[order]
    return {"errors": shown(order[~right][::-1]), "unsure": shown(order[right])}


def _probe_facts(probed: Probed, metric: str) -> dict[str, Any]:
    return {
        "images": probed.images, "penalty": probed.probe.penalty, f"cv_{metric}": probed.probe.cv_accuracy,
        f"val_{metric}": probed.val_accuracy, f"mirrored_val_{metric}": probed.mirrored_accuracy, "label": SELECTION,
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


def _comparison(
    candidates: Mapping[str, Any],
    results: Mapping[str, Scored],
    released: str,
    metric: str,
    earlier: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    lines = []
    for name, found in candidates.items():
        (low, high), value = found["interval"], found["val"][metric]
        lines.append(
            {
                "model": name,
                "split": "val",
                "value": value,
                "low": low,
                "high": high,
                "n": found["n"],
                "label": SELECTION,
            }
        )
    if "test" in results:
        scores = results["test"].scores
        low, high = scores.intervals[metric]
        lines.append(
            {"model": f"{released} (released)", "split": "test", "value": scores.values[metric], "low": low, "high": high,
             "n": scores.n, "label": ""}
        )  # fmt: skip
    if CROSS_VALIDATION in results:
        scores = results[CROSS_VALIDATION].scores
        low, high = scores.intervals[metric]
        lines.append(
            {"model": "the same recipe, one model per fold", "split": CROSS_VALIDATION, "value": scores.values[metric],
             "low": low, "high": high, "n": scores.n, "label": ""}
        )  # fmt: skip
    return [*lines, dict(earlier)] if earlier else lines


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
        "per_class": {name: class_counts(samples, len(classes)) for name, samples in parts.items()},
        "split_rule": data.splits.rule,
        "fit": facts.plan.preprocess.fit,
        "fit_reason": facts.plan.fit_reason,
        "sizes": f"median {mid_w}x{mid_h}, most between {low_w}x{low_h} and {high_w}x{high_h} (width x height)",
        "fingerprint": next(iter(data.scans.values())).fingerprint,
        "fingerprints": {split: found.fingerprint for split, found in data.scans.items()},
        "notes": list(data.source.notes),
        "skipped": data.skipped,
        "audit": short_facts(data.survey, data.findings, facts.probed.suspects),
    }


def _next_steps(facts: RunFacts, head: Scored, split: str) -> list[str]:
    lines = weakest_spot(head.scores, facts.data.source.classes)
    if split == "val":
        lines.append("There is no test/ split: put aside images that the run never sees, for a figure you can quote.")
    if facts.arguments.model is None:
        lines.append("The model started from random weights: name a pre-trained checkpoint with --model.")
    if head.scores.n < 200:
        low, high = head.scores.intervals[facts.data.task.headline]
        figure = "mAP" if facts.data.source.multilabel else "accuracy"
        lines.append(
            f"{head.scores.n} images leave the {figure} uncertain by {100 * (high - low) / 2:.0f} points either way."
        )
    if facts.data.skipped:
        lines.append(f"{len(facts.data.skipped)} files could not be used; mend or remove them.")
    return lines or ["Nothing stands out. Try the model on new images: vit predict."]
