"""What a report says of each class, for either task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitkit.evals.classify import Scores
from vitkit.evals.multilabel import FEW, MultiScores
from vitkit.evals.tasks import AnyScores

__all__ = ["class_facts", "weakest_spot"]

MISSES = 12  # pairs of a missed and a wrongly predicted class that are listed


def class_facts(scores: AnyScores, classes: Sequence[str]) -> dict[str, Any]:
    """``per_class``, and ``confusion`` (O, O) or in multi-label data ``misses``, of ``report.json``."""
    if isinstance(scores, Scores):
        per_class = [
            {"name": name, "n": int(scores.confusion[i].sum()), "recall": float(scores.recall[i]),
             "precision": float(scores.precision[i])}
            for i, name in enumerate(classes)
        ]  # fmt: skip
        return {"per_class": per_class, "confusion": scores.confusion.tolist()}
    per_class = [
        {"name": name, "n": int(scores.positives[i]), "average_precision": float(scores.average_precision[i]),
         "auroc": float(scores.auroc[i]), "threshold": scores.thresholds[i], "precision": float(scores.precision[i]),
         "recall": float(scores.recall[i]), "f1": float(scores.f1[i])}
        for i, name in enumerate(classes)
    ]  # fmt: skip
    pairs = sorted(zip(*np.nonzero(scores.missed), strict=True), key=lambda pair: -scores.missed[pair])
    misses = [
        {
            "missed": classes[i],
            "predicted": classes[j],
            "count": int(scores.missed[i, j]),
            "of": int(scores.positives[i]),
        }
        for i, j in pairs[:MISSES]
    ]
    return {"per_class": per_class, "misses": misses, "few_positives": FEW}


def weakest_spot(scores: AnyScores, classes: Sequence[str]) -> list[str]:
    """The most useful thing to look at, in a sentence; none where nothing is wrong."""
    return _weakest_class(scores, classes) if isinstance(scores, MultiScores) else _top_confusion(scores, classes)


def _top_confusion(scores: Scores, classes: Sequence[str]) -> list[str]:
    off_diagonal = scores.confusion.copy()
    np.fill_diagonal(off_diagonal, 0)
    if not off_diagonal.any():
        return []
    true, guess = divmod(int(off_diagonal.argmax()), len(classes))
    return [
        f"The most frequent confusion is {classes[true]} taken for {classes[guess]} ({off_diagonal[true, guess]} of "
        f"{scores.confusion[true].sum()}): look at those images in predictions.csv, and add more of both."
    ]


def _weakest_class(scores: MultiScores, classes: Sequence[str]) -> list[str]:
    lines = []
    worst = int(np.nanargmin(scores.average_precision))
    if scores.average_precision[worst] < 1:
        lines.append(
            f"The weakest class is {classes[worst]}: average precision {100 * scores.average_precision[worst]:.1f} % over "
            f"{scores.positives[worst]} images. Look at them in predictions.csv, and add more."
        )
    if absent := [name for name, count in zip(classes, scores.positives, strict=True) if not count]:
        lines.append(
            f"Nothing is known of {len(absent)} classes without an image in this split: {', '.join(absent[:8])}."
        )
    return lines
