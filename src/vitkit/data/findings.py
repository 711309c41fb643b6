"""What an audit tells: findings in the order of what they would cost, each one line with examples.

``cost`` is the part of the images that a finding touches times a weight of the harm: 1 where figures or labels are wrong, less
where training is only poorer. For leaks the part is that of the split that is scored.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitkit.data.pixels import Preprocess
from vitkit.data.survey import Survey, label_key

__all__ = ["EXAMPLES", "Finding", "Losses", "find", "fit_losses", "rank"]

EXAMPLES = 5  # of each finding
SEVERITIES = ("high", "medium", "low")
SKEWED = 3.0  # times as many images in the largest class as in the smallest
FEW = 10  # training images of a class below which little is learnt of it
LOST = 0.05  # part of a typical image that may go without a word


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data."""

    kind: str
    severity: str  # high: figures or labels are wrong | medium: training suffers | low: good to know
    cost: float
    count: int
    message: str
    examples: Sequence[Mapping[str, Any]] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**dataclasses.asdict(self), "cost": round(self.cost, 6), "examples": [dict(e) for e in self.examples]}


def rank(findings: Sequence[Finding]) -> list[Finding]:
    """The costliest first, severity before cost."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), -f.cost, f.kind))


def find(found: Survey, losses: Losses | None = None) -> list[Finding]:
    """Everything that can be told without a classifier, ranked."""
    findings = [*_leaks(found), *_conflicts(found), *_unreadable(found), *_copies(found), *_skew(found)]
    findings += [*_rotated(found), *(losses.findings(found) if losses else ())]
    return rank(findings)


def named(found: Survey, place: int) -> dict[str, str]:
    """An image as the user knows it."""
    return {"split": found.places[place].split, "name": found.places[place].sample.name}


def _leaks(found: Survey) -> list[Finding]:
    sizes = Counter(place.split for place in found.places)
    findings = []
    for kind, how in (("exact", "byte by byte"), ("near", "resized, recompressed or cropped")):
        leaks = [leak for leak in found.leaks if leak.kind == kind]
        between: Counter[tuple[str, str]] = Counter()
        for split, place in {(found.places[leak.first].split, leak.second) for leak in leaks}:
            between[split, found.places[place].split] += 1
        for (first, second), count in between.items():
            shown = [k for k in leaks if (found.places[k.first].split, found.places[k.second].split) == (first, second)]
            share = count / sizes[second]
            findings.append(Finding(
                f"leak_{kind}", "high", share if kind == "exact" else 0.9 * share, count,
                f"{count} of {sizes[second]} {second} images are also in {first} ({how}): figures on {second} are too high, "
                f"by up to {100 * share:.1f} points; remove them from one of the two",
                [{"first": named(found, k.first), "second": named(found, k.second)} for k in shown[:EXAMPLES]],
            ))  # fmt: skip
    return findings


def _conflicts(found: Survey) -> list[Finding]:
    if not found.conflicts:
        return []
    count = sum(map(len, found.conflicts))
    classes = found.source.classes
    return [Finding(
        "conflicting_labels", "high", count / len(found.places), count,
        f"{count} images in {len(found.conflicts)} groups of duplicates bear different labels: at least one of each group is "
        "wrong; look at them and keep one",
        [{"images": [{**named(found, i), "labels": [classes[c] for c in label_key(found.places[i].sample)]} for i in group]}
         for group in found.conflicts[:EXAMPLES]],
    )]  # fmt: skip


def _unreadable(found: Survey) -> list[Finding]:
    if not found.skipped:
        return []
    count, total = len(found.skipped), len(found.skipped) + len(found.places)
    reasons = Counter(reason for _, _, reason in found.skipped)
    reason, times = reasons.most_common(1)[0]
    return [Finding(
        "unreadable", "medium", count / total, count,
        f"{count} of {total} files cannot be used ({times}: {reason}): they are left out, never replaced; mend or remove them",
        [{"split": split, "name": name, "reason": why} for split, name, why in found.skipped[:EXAMPLES]],
    )]  # fmt: skip


def _copies(found: Survey) -> list[Finding]:
    """Duplicates within a split: they count several times in training and in figures."""
    findings, n = [], len(found.places)
    exact = [g for g in found.duplicates.exact if len({found.places[i].split for i in g}) < len(g)]
    spare = sum(len(g) - len({found.places[i].split for i in g}) for g in exact)
    if spare:
        findings.append(Finding(
            "duplicates_exact", "medium", 0.2 * spare / n, spare,
            f"{spare} images are there more than once in their split, byte by byte ({len(exact)} groups): they count several "
            "times; keep one of each",
            [{"images": [named(found, i) for i in group]} for group in exact[:EXAMPLES]],
        ))  # fmt: skip
    near = [p for p in found.duplicates.near if found.places[p.first].split == found.places[p.second].split]
    if near:
        touched = len({p.second for p in near})
        more = f"; {found.duplicates.crowded} images look like so many others that not all pairs were compared"
        findings.append(Finding(
            "duplicates_near", "low", 0.1 * touched / n, len(near),
            f"{len(near)} pairs of images of one split are nearly the same (resized, recompressed or cropped)"
            + (more if found.duplicates.crowded else ""),
            [{"first": named(found, p.first), "second": named(found, p.second), "similarity": p.similarity}
             for p in sorted(near, key=lambda p: -p.similarity)[:EXAMPLES]],
        ))  # fmt: skip
    return findings


def _skew(found: Survey) -> list[Finding]:
    split = found.places[0].split  # train, or all
    classes = found.source.classes
    counts = Counter(c for place in found.places if place.split == split for c in label_key(place.sample))
    numbers = np.array([counts[c] for c in range(len(classes))])
    if len(classes) < 2:
        return []
    findings = []
    order = np.argsort(numbers, kind="stable")
    low, high = int(order[0]), int(order[-1])
    if numbers[high] >= SKEWED * max(1, numbers[low]):
        parts = numbers[numbers > 0] / numbers.sum()
        even = float(np.exp(-(parts * np.log(parts)).sum())) / len(classes)
        ratio = f"{numbers[high] / numbers[low]:.1f} times as many" if numbers[low] else "none of the smallest"
        severity = "medium" if numbers[high] >= 10 * max(1, numbers[low]) else "low"
        findings.append(Finding(
            "class_skew", severity, 0.5 * (1 - even), int(numbers[high]),
            f"{split} has {numbers[high]} images of {classes[high]!r} and {numbers[low]} of {classes[low]!r} ({ratio}): read "
            "balanced accuracy or macro F1 beside the accuracy",
            [{"class": classes[c], "images": int(numbers[c])} for c in order[:EXAMPLES].tolist()],
        ))  # fmt: skip
    few = [int(c) for c in order if numbers[c] < FEW]
    if few:
        findings.append(Finding(
            "few_images", "medium", 0.5 * len(few) / len(classes), len(few),
            f"{len(few)} classes have fewer than {FEW} images in {split}, {classes[few[0]]!r} has {numbers[few[0]]}: little can "
            "be learnt of them, or measured",
            [{"class": classes[c], "images": int(numbers[c])} for c in few[:EXAMPLES]],
        ))  # fmt: skip
    return findings


def _rotated(found: Survey) -> list[Finding]:
    if not found.rotated:
        return []
    count = len(found.rotated)
    return [Finding(
        "exif_rotated", "low", 0.01 * count / len(found.places), count,
        f"{count} images are upright only by their EXIF orientation: vitkit turns them, many other tools do not",
        [named(found, place) for place in found.rotated[:EXAMPLES]],
    )]  # fmt: skip


@dataclass(frozen=True)
class Losses:
    """What fitting images to a size does to them, one value per image."""

    record: Preprocess
    reason: str  # why this fit
    lost: np.ndarray  # part of the image outside what the model sees
    stretched: np.ndarray  # factor by which one side is stretched against the other, at least 1
    enlarged: np.ndarray  # factor by which the image is enlarged, below 1 where it is reduced

    def findings(self, found: Survey) -> list[Finding]:
        """What is worth a word."""
        findings = []
        typical, where = float(np.median(self.lost)), "x".join(map(str, self.record.image_size))
        many = int((self.lost > LOST).sum())
        if many:
            worst = np.argsort(-self.lost, kind="stable")[:EXAMPLES].tolist()
            severity = "medium" if typical > 0.25 else "low"
            findings.append(Finding(
                "fit_loss", severity, 0.25 * float(self.lost.mean()), many,
                f"--fit {self.record.fit} to {where} throws away {100 * typical:.0f} % of a typical image and "
                f"{100 * float(self.lost.max()):.0f} % of the worst; --fit pad keeps all of every image",
                [{**named(found, i), "lost": round(float(self.lost[i]), 3)} for i in worst],
            ))  # fmt: skip
        if bent := int((self.stretched > 1.5).sum()):
            findings.append(Finding(
                "stretched", "low", 0.1 * bent / len(found.places), bent,
                f"--fit {self.record.fit} to {where} stretches {bent} images by more than half; --fit pad keeps their shape",
                [named(found, int(i)) for i in np.argsort(-self.stretched, kind="stable")[:EXAMPLES]],
            ))  # fmt: skip
        if small := int((self.enlarged > 2).sum()):
            findings.append(Finding(
                "enlarged", "low", 0.02 * small / len(found.places), small,
                f"{small} images are enlarged more than twofold to reach {where}: --image-size can be smaller",
                [named(found, int(i)) for i in np.argsort(-self.enlarged, kind="stable")[:EXAMPLES]],
            ))  # fmt: skip
        return findings


def fit_losses(sizes: Sequence[tuple[int, int]], record: Preprocess, reason: str) -> Losses:
    """What `pixels.fit_image` does to images of these (height, width)."""
    height, width = np.array(sizes, dtype=float).reshape(-1, 2).T
    H, W = record.image_size
    by_height, by_width = H / height, W / width
    one = np.ones(len(height))
    if record.fit in ("squash", "squash_crop"):
        bent = np.maximum(by_height, by_width) / np.minimum(by_height, by_width)
        fraction = record.crop_fraction if record.fit == "squash_crop" else 1.0
        return Losses(record, reason, (1 - fraction**2) * one, bent, np.minimum(by_height, by_width) / fraction)
    if record.fit == "pad":
        return Losses(record, reason, 0 * one, one, np.minimum(by_height, by_width))
    scale = np.maximum(by_height, by_width) / record.crop_fraction
    kept = np.minimum(1, by_height / scale) * np.minimum(1, by_width / scale)
    return Losses(record, reason, 1 - kept, one, scale)
