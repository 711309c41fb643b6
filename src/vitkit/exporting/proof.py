"""Does an artefact answer as its model does? The figures, and the limits beyond which an export is refused. Runs no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vitkit.answers import MULTI, Answers
from vitkit.console import percent

__all__ = ["LEAST_AGREEMENT", "Proof", "Speed", "compare", "refusals"]

Array = np.ndarray
LEAST_AGREEMENT = {"fp32": 1.0, "fp16": 0.995, "bf16": 0.995, "int8": 0.97}  # of equal answers, ties apart in fp32
MOST_DIFFERENCE = 1e-3  # of fp32's logits, in units of the largest where that is above 1
MOST_LOST = 0.01  # of accuracy, in int8
SHOWN = 5  # images that are named


@dataclass(frozen=True)
class Speed:
    """Images a second, all processor threads, timed in turn; ratios are medians of rounds."""

    images_per_second: float  # of the artefact
    over_plain: float  # times plain PyTorch in fp32
    over_fp32: float | None  # times the same target in fp32; None where this is fp32


@dataclass(frozen=True)
class Proof:
    """An artefact's outputs beside those of plain PyTorch in fp32, on the same images."""

    images: int
    real: bool  # False: random pixels
    name: str  # of the images
    agreement: float | None  # share of equal answers, ties counted as equal; None: the model gives no classes
    ties: tuple[
        str, ...
    ]  # images whose answer differs where the model itself is undecided, by no more than what outputs differ by
    differing: tuple[str, ...]  # images whose answer differs otherwise
    difference: float  # the largest of logits (of features without a head); infinite where an output is no number
    largest: float  # logit
    metric: str = ""  # what accuracy is called; empty: the images have no labels
    model_accuracy: float | None = None
    accuracy: float | None = None
    skipped: int = 0  # images that could not be read
    speed: Speed | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what is not a number is null."""
        told = asdict(self)
        told["difference"] = self.difference if math.isfinite(self.difference) else None
        return {**told, "ties": list(self.ties), "differing": list(self.differing)}

    def describe(self) -> list[str]:
        """Lines for people."""
        lines = []
        if self.agreement is not None:
            among = f" ({len(self.ties)} of them ties)" if self.ties else ""
            lines.append(
                f"{percent(self.agreement)} the same answer as PyTorch in fp32, on {self.images:,} images{among}"
            )
        lines.append(f"outputs differ by at most {self.difference:.1e}, the largest is {self.largest:.3g}")
        if self.accuracy is not None and self.model_accuracy is not None:
            lines.append(f"{self.metric} {percent(self.accuracy)}, the model's {percent(self.model_accuracy)}")
        if self.speed:
            fp32 = "" if self.speed.over_fp32 is None else f", {self.speed.over_fp32:.2f} of the same in fp32"
            lines.append(
                f"{self.speed.images_per_second:.1f} images/s, {self.speed.over_plain:.2f} of plain PyTorch{fp32}"
            )
        return lines


def compare(answers: Answers, names: Sequence[str], plain: Array, other: Array) -> Mapping[str, Any]:
    """The fields of a `Proof` that outputs tell: logits (n, ..., O), or features where ``answers`` has no classes.

    A tie is an image whose two answers the model's own logits hold apart by no more than twice what any output differs by: then
    either is right to within rounding.
    """
    plain, other = plain.astype(np.float64), other.astype(np.float64)
    finite = bool(np.isfinite(other).all())
    difference = float(np.abs(other - plain).max(initial=0.0)) if finite else math.inf
    figures: dict[str, Any] = {
        "images": len(plain), "agreement": None, "ties": (), "differing": (), "difference": difference,
        "largest": float(np.abs(plain).max(initial=0.0)),
    }  # fmt: skip
    if not answers.num_classes:
        return figures
    if answers.task == MULTI:
        cuts = np.asarray(answers.cuts)
        with np.errstate(divide="ignore"):
            needed = answers.temperature * (np.log(cuts) - np.log1p(-cuts))  # the logit of each threshold
        changed = (plain >= needed) != (other >= needed)
        apart = np.where(changed, np.abs(plain - needed), 0.0)
    else:
        first, second = plain.argmax(-1), other.argmax(-1)
        changed = first != second
        apart = (
            np.take_along_axis(plain, first[..., None], -1)[..., 0]
            - np.take_along_axis(plain, second[..., None], -1)[..., 0]
        )
    axes = tuple(range(1, changed.ndim))
    unequal, gap = changed.any(axes), np.where(changed, apart, 0.0).max(axes, initial=0.0)
    tied = unequal & (gap <= 2 * min(difference, MOST_DIFFERENCE))
    figures["agreement"] = float(1 - (unequal & ~tied).mean())
    figures["ties"] = tuple(names[i] for i in np.flatnonzero(tied).tolist())
    figures["differing"] = tuple(names[i] for i in np.flatnonzero(unequal & ~tied).tolist())
    return figures


def refusals(proof: Proof, precision: str) -> list[str]:
    """Why the export is refused; empty where it passes."""
    if not math.isfinite(proof.difference):
        return ["its outputs are not all numbers"]
    found = []
    least = LEAST_AGREEMENT[precision]
    if proof.agreement is not None and proof.agreement < least:
        named = ", ".join(proof.differing[:SHOWN]) + (", ..." if len(proof.differing) > SHOWN else "")
        found.append(
            f"only {100 * proof.agreement:.2f} % of its answers are the model's (at least {100 * least:g} % in {precision}): "
            f"it differs at {named}"
        )
    allowed = MOST_DIFFERENCE * max(1.0, proof.largest)
    if precision == "fp32" and proof.difference > allowed:
        found.append(f"its outputs differ by {proof.difference:.1e} (at most {allowed:.1e})")
    if precision == "int8":
        if proof.accuracy is not None and proof.model_accuracy is not None:
            lost = proof.model_accuracy - proof.accuracy
            if lost > MOST_LOST + 1e-12:
                found.append(f"it loses {100 * lost:.1f} points of {proof.metric} (at most {100 * MOST_LOST:g})")
        if proof.speed and proof.speed.over_fp32 is not None and proof.speed.over_fp32 < 1:
            found.append(
                f"it is slower than fp32 ({proof.speed.over_fp32:.2f} of its images a second), so that it gains nothing"
            )
    return found
