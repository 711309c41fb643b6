"""`vit compare`: two models on the same images, the difference with its interval and test, and where they disagree.

The steps, in order: load both; read the data; ask both about every image; leave out what either cannot use; compare; write.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.config import UserError, free_folder, write_file
from vitkit.console import Console, percent
from vitkit.data.classnames import class_indices
from vitkit.data.download import without_secrets
from vitkit.data.official import describe_view
from vitkit.data.pixels import MAX_PIXELS, ImageError
from vitkit.data.samples import Sample, Source, match_classes
from vitkit.data.sources import data_name
from vitkit.data.thumbnails import picture_address
from vitkit.datasets.book import read_data
from vitkit.evals.compare import Answer, Paired, compare_answers, verdict
from vitkit.evals.scoring import classify_stream, seen_label
from vitkit.jobs.load import load
from vitkit.protocols.opening import describe_model
from vitkit.report import versions, write_compare

__all__ = ["CompareResult", "compare"]

SHOWN = 48  # pictures of each kind of disagreement on the page; all are in the table
SIDES = ("A", "B")
NOBODY = "neither"
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class CompareResult:
    """Where the comparison wrote, and what it found: the contents of ``compare.json``."""

    folder: Path
    page: Path
    facts: Mapping[str, Any]


class _Side(NamedTuple):
    """One model, and the data in its numbering."""

    label: str  # A or B
    name: str  # as the user wrote it
    bundle: Bundle
    source: Source


class _Pair(NamedTuple):
    """One image that both could use."""

    sample: Sample  # in A's numbering
    label: str  # the class's name in the data
    answers: tuple[Answer, Answer]
    names: tuple[str, str]  # of the classes that they answer
    same: bool  # the answers mean one class

    @property
    def right(self) -> str:
        """Who is right, where they disagree."""
        return next((side for side, answer in zip(SIDES, self.answers, strict=True) if answer.right), NOBODY)


def compare(
    a: str | Path,
    b: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    out: str | Path | None = None,
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    data_root: str | Path | None = None,
    partial: bool = False,
    overrides: Mapping[str, Any] | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> CompareResult:
    """Compare the models ``a`` and ``b`` on the same labelled images.

    Args:
        a, b: each a bundle folder, a checkpoint or a name of the zoo.
        data: as for `vitkit.evaluate`, or the name of a published data set.
        split: which split; by default test, else val, else all of a flat folder.
        out: the folder to write to; by default ``runs/compare-<data>``, numbered.
        strict: fail on the first file that cannot be used, instead of leaving it out for both.
        workers: threads that decode images.
        max_pixels: larger images are left out without being decoded.
        data_root: the folder with a folder for each published data set.
        partial: compare on a part of a published data set too.
        overrides: of both loaded models, see `vitkit.load`.
        command: the command line, for the page.

    Raises:
        UserError: no such model, data or split; classes that a model does not know; multi-label models or data.
    """
    console = console or Console()
    name = data_name(str(data).partition("=")[0])
    folder = Path(out) if out is not None else free_folder(Path("runs"), f"compare-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists. Choose another --out.")
    bundles = [load(model, **dict(overrides or {})) for model in (a, b)]
    source = read_data(data, root=data_root, partial=partial)
    sides = [_side(*each, source, console) for each in zip(SIDES, (str(a), str(b)), bundles, strict=True)]
    console.say(f"data: {source.name}: {source.describe()}")
    for note in source.notes:
        console.say(f"data: {note}")
    chosen = split or next((name for name in ("test", "val", "all") if name in source.splits), "train")
    if chosen not in source.splits:
        raise UserError(f"{data} has no split {chosen!r}; it has {', '.join(source.splits)}.")
    asked = [_ask(side, chosen, console, strict=strict, workers=workers, max_pixels=max_pixels) for side in sides]
    pairs, skipped = _pair(sides, source.splits[chosen], sides[0].source.splits[chosen], asked, source.classes)
    for image, reason in skipped:
        console.warn(f"left out for both: {image}: {reason}")
    if not pairs:
        raise UserError(
            f"none of the {len(skipped)} images can be used by both models; the first: {': '.join(skipped[0])}."
        )
    right = np.array([[pair.answers[side].right for pair in pairs] for side in (0, 1)])
    nll = np.array([[pair.answers[side].nll for pair in pairs] for side in (0, 1)])
    disagreements = [pair for pair in pairs if not pair.same]
    found = compare_answers(right, nll, len(disagreements))
    facts = _facts(sides, source, chosen, pairs, skipped, found, console)
    facts["command"] = command or without_secrets(f"vitkit.compare({str(a)!r}, {str(b)!r}, {str(data)!r})")
    table = folder / "disagreements.csv"
    write_file(table, _table(disagreements))
    page, _ = write_compare(folder, facts, _galleries(disagreements, max_pixels))
    _say(found, facts, console)
    console.say(f"report    {page}, all {len(disagreements)} disagreements in {table}")
    return CompareResult(folder, page, facts)


def _side(label: str, name: str, bundle: Bundle, source: Source, console: Console) -> _Side:
    for note in bundle.notes:
        console.say(f"{label}: {note}")
    try:
        bundle.require_classes()
    except UserError as error:
        raise UserError(f"model {label} ({name}): {error}") from None
    console.say(f"{label}: {name}: {describe_model(bundle)}")
    console.say(f"{label}: images: {describe_view('own', bundle.require_preprocess())}")
    if bundle.task == MULTI or source.multilabel:
        what = f"model {label} ({name})" if bundle.task == MULTI else source.name
        raise UserError(
            f"{what} is multi-label: an answer is any number of classes, not right or wrong as a whole. vit compare takes "
            "models and data with one class per image; vit evaluate scores the others."
        )
    if bundle.classes is None:
        if len(source.classes) != bundle.config.num_classes:
            raise UserError(
                f"model {label} ({name}) has {bundle.config.num_classes} classes without names, the data "
                f"{len(source.classes)}; classes are matched by name, so this cannot be compared."
            )
        console.warn(f"{label}'s classes have no names: the data's classes in sorted order are taken for them")
        return _Side(label, name, bundle, source)
    try:
        return _Side(label, name, bundle, match_classes(source, bundle.classes))
    except UserError as error:
        raise UserError(f"model {label} ({name}): {error}") from None


def _ask(
    side: _Side, split: str, console: Console, *, strict: bool, workers: int, max_pixels: int
) -> list[Answer | str]:
    """The answer to each image, or why it cannot be used."""
    samples = side.source.splits[split]
    results = classify_stream(side.bundle, [sample.source for sample in samples], workers, max_pixels)
    answers: list[Answer | str] = []
    for sample, result in zip(samples, console.track(results, len(samples), f"asking {side.label}"), strict=True):
        if isinstance(result, ImageError):
            if strict:
                raise UserError(f"{sample.name}: {result} (--strict)")
            answers.append(str(result))
            continue
        if not np.isfinite(result.logits).all():
            raise UserError(
                f"model {side.label} ({side.name}) gives {sample.name} numbers that are not finite; its weights are damaged "
                "or its training diverged."
            )
        probabilities = side.bundle.probabilities(result.logits[None])[0]
        best = int(probabilities.argmax())  # the lower index wins a tie, as everywhere
        own = max(float(probabilities[sample.label]), TINY)
        answers.append(Answer(best, float(probabilities[best]), best == sample.label, -float(np.log(own))))
    return answers


def _pair(
    sides: Sequence[_Side],
    samples: Sequence[Sample],
    numbered: Sequence[Sample],
    asked: Sequence[Sequence[Answer | str]],
    classes: Sequence[str],
) -> tuple[list[_Pair], list[tuple[str, str]]]:
    """The images that both could use, and the others with the reason. ``samples`` are in the data's own numbering."""
    names = [side.bundle.classes or tuple(classes) for side in sides]
    # Of each other's classes; -1 for an unknown one. Spellings of ImageNet's are known to a model that has them in order.
    in_a, in_b = class_indices(names[0], names[1]), class_indices(names[1], names[0])
    pairs, skipped = [], []
    for sample, own, first, second in zip(samples, numbered, *asked, strict=True):
        if isinstance(first, str) or isinstance(second, str):
            reasons = {
                side.label: each for side, each in zip(sides, (first, second), strict=True) if isinstance(each, str)
            }
            same = len(reasons) == 2 and len(set(reasons.values())) == 1
            told = str(first) if same else "; ".join(f"{label}: {reason}" for label, reason in reasons.items())
            skipped.append((sample.name, told))
            continue
        said = names[0][first.predicted], names[1][second.predicted]
        alike = (
            (first.right and second.right)
            or in_b[first.predicted] == second.predicted
            or in_a[second.predicted] == first.predicted
        )
        pairs.append(_Pair(own, classes[sample.label], (first, second), said, alike))
    return pairs, skipped


def _facts(
    sides: Sequence[_Side],
    source: Source,
    split: str,
    pairs: Sequence[_Pair],
    skipped: Sequence[tuple[str, str]],
    found: Paired,
    console: Console,
) -> dict[str, Any]:
    models, notes = [], []
    for number, side in enumerate(sides):
        value, low, high = found.accuracy(number)
        label, count = seen_label(side.bundle, [pair.sample for pair in pairs])
        if label:
            notes.append(f"{count} of these images took part in making {side.label}: {label}")
        models.append({
            "model": f"{side.label}: {side.name}", "split": split, "n": found.n, "value": value, "low": low, "high": high,
            "right": found.right[number], "nll": found.nll[number], "classes": side.bundle.config.num_classes, "label": label,
        })  # fmt: skip
    known = [tuple(side.bundle.classes or source.classes) for side in sides]
    sizes = [len(names) for names in known]
    if sizes[0] != sizes[1] or all(-1 in class_indices(*pair) for pair in (known, known[::-1])):
        notes.append(
            f"the models do not choose among the same class names ({sizes[0]:,} and {sizes[1]:,} classes): with fewer classes to "
            "choose from it is easier to be right"
        )
    for note in notes:
        console.warn(note)
    return {
        "format": "vitkit-compare",
        "format_version": 1,
        "title": f"{source.name}: A against B",
        "subtitle": f"{found.n:,} images of the split {split}, {len(skipped):,} left out",
        "verdict": verdict(found),
        "models": models,
        "data": {"name": source.name, "split": split, "classes": len(source.classes), "notes": list(source.notes)},
        "counts": {
            "images": found.n, "both": found.both, "only_a": found.only_a, "only_b": found.only_b, "neither": found.neither,
            "differing": found.differing,
        },
        "difference": {"value": found.difference, "low": found.interval[0], "high": found.interval[1]},
        "p": found.p,
        "nll_difference": {
            "value": found.nll[0] - found.nll[1],
            "low": found.nll_interval and found.nll_interval[0],
            "high": found.nll_interval and found.nll_interval[1],
        },
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "notes": notes,
        "versions": versions(),
    }  # fmt: skip


def _table(disagreements: Sequence[_Pair]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "a", "a_probability", "b", "b_probability", "right"))
    for pair in disagreements:
        first, second = pair.answers
        writer.writerow((
            pair.sample.name, pair.label, pair.names[0], f"{first.probability:.6f}", pair.names[1],
            f"{second.probability:.6f}", pair.right,
        ))  # fmt: skip
    return text.getvalue().encode("utf-8", "surrogateescape")


def _galleries(disagreements: Sequence[_Pair], max_pixels: int) -> list[dict[str, Any]]:
    """Pictures of the disagreements, the surest answers first."""
    titles = {"A": "Only A is right", "B": "Only B is right", NOBODY: "Both are wrong, each in another way"}
    found = []
    for right, title in titles.items():
        members = [pair for pair in disagreements if pair.right == right]
        members.sort(key=lambda pair: -max(answer.probability for answer in pair.answers))
        items = [
            {
                "picture": picture_address(pair.sample.source, max_pixels),
                "name": pair.sample.name,
                "label": pair.label,
                "answers": [
                    {"side": side, "name": name, "probability": answer.probability, "right": answer.right}
                    for side, name, answer in zip(SIDES, pair.names, pair.answers, strict=True)
                ],
            }
            for pair in members[:SHOWN]
        ]
        found.append({"title": title, "count": len(members), "items": items})
    return found


def _say(found: Paired, facts: Mapping[str, Any], console: Console) -> None:
    for model in facts["models"]:
        console.say(
            f"{model['model']}: top-1 {percent(model['value'])} [{percent(model['low'])}, {percent(model['high'])}], "
            f"NLL {model['nll']:.4f}"
        )
    low, high = (100 * end for end in found.interval)
    console.say(f"A - B: {100 * found.difference:+.1f} points of top-1 [{low:+.1f}, {high:+.1f}]")
    if found.nll_interval:
        low, high = found.nll_interval
        console.say(f"A - B: {found.nll[0] - found.nll[1]:+.4f} of NLL [{low:+.4f}, {high:+.4f}], lower is better")
    console.say(f"verdict   {facts['verdict']}")
