"""Gathers what an audit found as the contents of ``audit.json``; the page shows the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vitkit.audits.labels import Suspects
from vitkit.data.audit import Scan
from vitkit.data.findings import Finding, Losses, rank
from vitkit.data.survey import Survey, label_key
from vitkit.report import versions

__all__ = ["audit_facts", "short_facts"]

RATIOS = (1 / 3, 1 / 2, 2 / 3, 0.95, 1.05, 3 / 2, 2, 3)  # bounds of the histogram of width over height
SHOWN = 20  # findings and images of a kind that the short facts of a fine-tuning report hold


def audit_facts(
    found: Survey,
    scans: Mapping[str, Scan],
    findings: Sequence[Finding],
    suspects: Suspects,
    losses: Losses,
    command: str,
) -> dict[str, Any]:
    """The contents of ``audit.json``."""
    places, classes = found.places, found.source.classes
    names = [place.sample.name for place in places]
    return {
        "format": "vitkit-audit",
        "format_version": 1,
        "title": f"{found.source.name}: audit of {len(places) + len(found.skipped):,} images",
        "data": {"name": found.source.name, "summary": found.source.describe(), "notes": list(found.source.notes),
                 "fingerprints": {split: scan.fingerprint for split, scan in scans.items()}},
        "counts": {
            "images": len(places) + len(found.skipped), "usable": len(places), "unreadable": len(found.skipped),
            "splits": dict(Counter(place.split for place in places)), "classes": len(classes),
            "exact_groups": len(found.duplicates.exact), "near_pairs": len(found.duplicates.near),
            "leaks": len(found.leaks), "conflicts": len(found.conflicts), "rotated": len(found.rotated),
            "known_from_cache": sum(scan.known for scan in scans.values()),
        },
        "findings": [finding.to_dict() for finding in findings],
        "unreadable": [{"split": s, "name": name, "reason": reason} for s, name, reason in found.skipped],
        "duplicates": {
            "exact": [[names[i] for i in group] for group in found.duplicates.exact],
            "near": [[names[p.first], names[p.second], p.similarity] for p in found.duplicates.near],
            "groups": [[names[i] for i in group] for group in found.duplicates.groups],
            "crowded": found.duplicates.crowded,
        },
        "leaks": [
            {"kind": leak.kind, "similarity": leak.similarity,
             "first": {"split": places[leak.first].split, "name": names[leak.first]},
             "second": {"split": places[leak.second].split, "name": names[leak.second]}}
            for leak in found.leaks
        ],
        "conflicts": [
            [{"name": names[i], "labels": [classes[c] for c in label_key(places[i].sample)]} for i in group]
            for group in found.conflicts
        ],
        "rotated": [names[i] for i in found.rotated],
        "label_errors": _suspects(found, suspects),
        "label_check": _label_check(suspects),
        "sizes": _sizes(found),
        "fit": _fit(losses),
        "classes": _classes(found),
        "command": command,
        "versions": versions(),
    }  # fmt: skip


def short_facts(found: Survey, findings: Sequence[Finding], suspects: Suspects) -> dict[str, Any]:
    """What the report of a fine-tuning run holds of the audit of its data."""
    leaks = [
        {"kind": leak.kind, "first": found.places[leak.first].sample.name, "second": found.places[leak.second].sample.name}
        for leak in found.leaks[:SHOWN]
    ]  # fmt: skip
    ranked = rank([*findings, *suspects.findings])
    return {
        "findings": [finding.to_dict() for finding in ranked[:SHOWN]],
        "leaks": leaks,
        "label_errors": _suspects(found, suspects),
        "label_check": _label_check(suspects),
    }


def _suspects(found: Survey, suspects: Suspects) -> list[dict[str, Any]]:
    classes = found.source.classes
    return [
        {"split": found.places[s.place].split, "name": found.places[s.place].sample.name, "given": classes[s.given],
         "suggested": classes[s.suggested], "score": round(s.score, 6), "probability_given": round(s.probability_given, 6),
         "probability_suggested": round(s.probability_suggested, 6)}
        for s in suspects.ranked
    ]  # fmt: skip


def _label_check(suspects: Suspects) -> dict[str, Any]:
    return {
        "method": suspects.method, "estimated": suspects.estimated, "listed": len(suspects.ranked),
        "notes": list(suspects.notes),
    }  # fmt: skip


def _sizes(found: Survey) -> dict[str, Any]:
    sizes = np.array([place.size for place in found.places])
    ratio = sizes[:, 1] / sizes[:, 0]
    bins = np.bincount(np.digitize(ratio, RATIOS), minlength=len(RATIOS) + 1).tolist()
    bounds = [f"{bound:.2g}" for bound in RATIOS]
    labels = [
        f"below {bounds[0]}",
        *(f"{a} to {b}" for a, b in pairwise(bounds)),
        f"from {bounds[-1]}",
    ]
    quantiles = np.quantile(sizes, (0, 0.05, 0.5, 0.95, 1), axis=0).round().astype(int).tolist()
    return {
        "quantiles": {
            name: {"height": h, "width": w}
            for name, (h, w) in zip(("smallest", "5 %", "median", "95 %", "largest"), quantiles, strict=True)
        },
        "aspect": [{"width_over_height": label, "images": count} for label, count in zip(labels, bins, strict=True)],
        "distinct": len(np.unique(sizes, axis=0)),
    }


def _fit(losses: Losses) -> dict[str, Any]:
    record = losses.record
    return {
        "fit": record.fit, "image_size": list(record.image_size), "crop_fraction": record.crop_fraction,
        "reason": losses.reason, "lost_median": round(float(np.median(losses.lost)), 4),
        "lost_95": round(float(np.quantile(losses.lost, 0.95)), 4), "lost_most": round(float(losses.lost.max()), 4),
        "stretched_most": round(float(losses.stretched.max()), 3),
    }  # fmt: skip


def _classes(found: Survey) -> list[dict[str, Any]]:
    counts = Counter((place.split, c) for place in found.places for c in label_key(place.sample))
    splits = list(dict.fromkeys(place.split for place in found.places))
    return [
        {"name": name, "images": {split: counts[split, index] for split in splits}}
        for index, name in enumerate(found.source.classes)
    ]
