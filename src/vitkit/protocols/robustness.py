"""`--protocol robustness`: a model of ImageNet's classes on ImageNet-V2, ReaL, ObjectNet, -A, -R, Sketch, -C and VizWiz.

DATA is the name of one of them, or ``robustness`` for every one that is found below the data root. Each is scored by the rule of
its publisher's code:

    imagenet_v2*, imagenet_sketch, imagenet_c    the greatest of 1,000 logits is the label
    imagenet_a, imagenet_r                       the greatest of the 200 logits of the set's classes is the label
    imagenet_real                                the greatest of 1,000 is one of the labels; images without labels are left out
    objectnet                                    the greatest of 1,000 is one of the classes that mean the object
    vizwiz_classification                        the greatest of the set's 200 logits is one of the labels
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.config import UserError, did_you_mean, write_json
from vitkit.console import Console, percent
from vitkit.data.classnames import class_indices, class_names, class_wnids
from vitkit.data.samples import Sample, Source
from vitkit.datasets.book import find_dataset, place_of
from vitkit.datasets.corruptions import ALEXNET, IMAGES, SEVERITIES
from vitkit.datasets.objectnet import shared_classes
from vitkit.datasets.vizwiz import FLAWS
from vitkit.evals.features import data_fingerprint
from vitkit.evals.robustness import UNLABELLED, Tally, corruption_errors, ranks, tally
from vitkit.evals.scoring import seen_label
from vitkit.protocols.opening import chosen_view, open_model, parts_of, table_of
from vitkit.protocols.request import Request
from vitkit.report import Row

__all__ = ["ALL", "SETS", "run"]

ALL = "robustness"  # the word for every set that is there
SETS = (
    "imagenet_v2", "imagenet_v2_threshold", "imagenet_v2_top", "imagenet_real", "objectnet",
    "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_c", "vizwiz_classification",
)  # fmt: skip
RESTRICTED = ("imagenet_a", "imagenet_r", "vizwiz_classification")  # only the set's own classes may be answered
COPY = "classes as the copy's own files say"
UNSCORED = "cannot be scored here: the copy has no labels, the publisher's server keeps them."


class _Opened(NamedTuple):
    """A set whose numbers were checked."""

    name: str
    source: Source
    accepted: Sequence[tuple[int, ...]]  # of each of the source's classes, the indices of ImageNet's that are right
    label: str  # what a reader of its rows must know


class _Model(NamedTuple):
    """A model of ImageNet's classes."""

    bundle: Bundle
    columns: list[int]  # its output for each of ImageNet's classes
    view: str  # how images are fitted


class _Answers(NamedTuple):
    """What the model said to the images that could be used."""

    samples: Sequence[Sample]
    logits: np.ndarray  # (n, 1000) float32, in the order of ImageNet's classes
    skipped: int
    digests: Sequence[str]  # of every image's file, those that could not be used too


class _Scored(NamedTuple):
    """What came of a set."""

    rows: list[Row]  # of the first rank only
    split: str | None
    images: int
    digests: Sequence[str]


def run(request: Request, console: Console) -> list[Row]:
    """Score a model on the sets that ``request.data`` names.

    Raises:
        UserError: a model of other classes, no such set, another layout or number of images than published (unless
            ``request.partial``), or no image that can be scored.
    """
    opened = _open(request, console)
    bundle = open_model(request, console)
    model = _Model(bundle, _columns(bundle), chosen_view(request, bundle, "own", console))
    scored = {
        found.name: (_corruptions if found.name == "imagenet_c" else _plain)(found, model, request, console)
        for found in opened
    }
    _account(request, scored)
    return [row for each in scored.values() for row in each.rows]


def _account(request: Request, scored: Mapping[str, _Scored]) -> None:
    """Note each set, and over all of them one fingerprint."""
    sets = [
        {"name": name, "split": each.split, "images": each.images, "fingerprint": data_fingerprint(each.digests)}
        for name, each in scored.items()
    ]
    together = {
        "name": ALL,
        "split": request.split,
        "images": sum(each.images for each in scored.values()),
        "fingerprint": data_fingerprint([digest for each in scored.values() for digest in each.digests]),
    }
    request.account.data.update(sets[0] if len(sets) == 1 else together, sets=sets)


def _open(request: Request, console: Console) -> list[_Opened]:
    """All sets are opened before the first is scored, so that a wrong one is told at once."""
    name, equals, folder = request.data.partition("=")
    if name == ALL:
        root = folder if equals else request.data_root
        if not (root or os.environ.get("VITKIT_DATA")):
            raise UserError(
                "where are the robustness sets? Write robustness=FOLDER, or give --data-root FOLDER or the environment variable "
                f"VITKIT_DATA, with any of the folders {', '.join(SETS)} in it; vit datasets NAME says what each must hold."
            )
        places = {each: place_of(each, root) for each in SETS}
        here = {each: place for each, place in places.items() if place.is_dir()}
        if not here:
            parent = next(iter(places.values())).parent
            raise UserError(
                f"{parent} has none of the folders {', '.join(SETS)}. Put each set into a folder of its name."
            )
        if absent := [each for each in SETS if each not in here]:
            console.warn(f"not there, so not scored: {', '.join(absent)}")
    elif name in SETS:
        here = {name: Path(folder) if equals else place_of(name, request.data_root)}
    else:
        raise UserError(
            f"the protocol robustness does not know the data {request.data!r}.{did_you_mean(name, (*SETS, ALL))} Expected "
            f"{ALL} for every set below --data-root, or one of {', '.join(SETS)}, also as NAME=FOLDER."
        )
    return [_open_one(each, place, request) for each, place in here.items()]


def _open_one(name: str, place: Path, request: Request) -> _Opened:
    source = find_dataset(name).open(place, partial=request.partial)
    if request.split and request.split not in source.splits:
        shown = ", ".join(list(source.splits)[:12])
        raise UserError(f"{name} has no split {request.split!r}; it has {shown}.")
    own = name == "objectnet"
    mapped = shared_classes(place) if own else {}
    number = {wnid: index for index, wnid in enumerate(class_wnids())}
    accepted = [mapped[each] if own else (number[each],) for each in source.classes]
    parts = parts_of(source)
    if name in ("objectnet", "vizwiz_classification"):
        parts.append(COPY)
    return _Opened(name, source, accepted, "; ".join(parts))


def _columns(bundle: Bundle) -> list[int]:
    """The model's output for each of ImageNet's classes."""
    bundle.require_classes()
    if bundle.task == MULTI:
        raise UserError("the protocol robustness scores models that give one class per image; this one is multi-label.")
    expected = "the protocol robustness takes models of ImageNet's 1,000 classes, known by name or WordNet id"
    if bundle.classes is None:
        raise UserError(f"{expected}; this one has {bundle.config.num_classes:,} outputs without names.")
    order = class_indices(class_names("imagenet1k"), bundle.classes)
    if sorted(order) != list(range(len(class_wnids()))):
        strange = [name for name, index in zip(bundle.classes, order, strict=True) if index < 0]
        why = f"{len(strange):,} of them unknown, the first {strange[0]!r}" if strange else "and not each of them once"
        raise UserError(f"{expected}; this one has {len(bundle.classes):,} classes, {why}.")
    return [order.index(number) for number in range(len(order))]


def _answers(model: _Model, samples: Sequence[Sample], request: Request, console: Console, shown: str) -> _Answers:
    """What the model says to every image, whichever rank computes it or whatever run kept it."""
    table = table_of(request, model.bundle, samples, console, shown, model.view)
    return _Answers(table.samples, table.logits.numpy()[:, model.columns], len(table.skipped), table.digests)


def _right(found: _Opened, sample: Sample) -> tuple[int, ...]:
    """The indices of ImageNet's classes that are right."""
    labels = sample.labels if found.source.multilabel else (sample.label,)
    return tuple(index for label in labels for index in found.accepted[label])


def _ranked(found: _Opened, answers: _Answers) -> np.ndarray:
    among = [index for each in found.accepted for index in each] if found.name in RESTRICTED else None
    return ranks(answers.logits, [_right(found, sample) for sample in answers.samples], among)


def _rows(found: _Opened, split: str, counted: Tally, request: Request, seen: str = "") -> list[Row]:
    label = "; ".join(part for part in (found.label, seen) if part)
    dataset = f"{found.name}/{split}"
    return [
        Row(ALL, dataset, metric, value, low, high, counted.n, request.model, label=label)
        for metric, (value, low, high) in counted.figures().items()
    ]


def _say(found: _Opened, split: str, counted: Tally, skipped: int, console: Console) -> None:
    value, low, high = counted.figures()["top1"]
    without = f", {counted.unlabelled} without labels left out" if counted.unlabelled else ""
    console.say(
        f"{found.name} {split}: top-1 {percent(value)} [{percent(low)}, {percent(high)}], {counted.n} scored, {skipped} "
        f"skipped{without}"
    )


def _plain(found: _Opened, model: _Model, request: Request, console: Console) -> _Scored:
    """Every set but ImageNet-C. Splits may share images: each image is asked once."""
    for note in found.source.notes:
        console.say(f"{found.name}: {note}")
    whole = request.split or next(iter(found.source.splits))
    samples = found.source.splits[whole]
    unlabelled = found.name == "vizwiz_classification" and not any(sample.labels for sample in samples)
    if unlabelled and request.out is None:
        raise UserError(f"{found.name} {UNSCORED} Give --out DIR for the file of predictions that it takes.")
    answers = _answers(model, samples, request, console, found.name)
    rows: list[Row] = []
    with request.world.first_alone(f"scoring {found.name}"):
        if request.world.main and unlabelled:
            _write_predictions(found, answers, request, console)
        elif request.world.main:
            rows = _splits(found, whole, model.bundle, answers, request, console)
    return _Scored(rows, whole, len(answers.samples), answers.digests)


def _splits(
    found: _Opened, whole: str, bundle: Bundle, answers: _Answers, request: Request, console: Console
) -> list[Row]:
    """The figures of the split whose images were asked, and of those that are parts of it."""
    place = _ranked(found, answers)
    seen, count = seen_label(bundle, answers.samples)
    if seen:
        console.warn(f"{count} of these images took part in making the model: {seen}")
    rank_of = {sample.name: rank for sample, rank in zip(answers.samples, place.tolist(), strict=True)}
    rows: list[Row] = []
    kinds: dict[str, Tally] = {}
    for split, samples in found.source.splits.items():
        if split != whole and (request.split or whole != "all"):
            continue
        used = np.array([rank_of[sample.name] for sample in samples if sample.name in rank_of], np.int64)
        if split != whole and not (used != UNLABELLED).any():
            console.say(f"{found.name} {split}: no image can be scored")
            continue
        counted = tally(used)
        _say(found, split, counted, len(samples) - len(used), console)
        rows += _rows(found, split, counted, request, seen)
        kinds[split] = counted
    if found.name == "vizwiz_classification" and not request.split:
        rows += _corrupted(found, kinds, request, console)
    return rows


def _corrupted(found: _Opened, kinds: Mapping[str, Tally], request: Request, console: Console) -> list[Row]:
    """The publisher's figure of corrupted images: the mean over the six kinds. Source: its eval.py."""
    wanted = [name for name in FLAWS.values() if name != "clean"]
    if absent := [name for name in wanted if name not in kinds]:
        console.warn(f"{found.name}: no figure of corrupted images: the copy tells of no image as {', '.join(absent)}")
        return []
    value = float(np.mean([kinds[name].top1 / kinds[name].n for name in wanted]))
    n = sum(kinds[name].n for name in wanted)
    console.say(f"{found.name} corrupted: top-1 {percent(value)}, the mean of six kinds")
    label = f"{found.label}; the mean of six kinds of corruption, an image counting in each of its own"
    return [Row(ALL, f"{found.name}/corrupted", "top1", value, None, None, n, request.model, label=label)]


def _write_predictions(found: _Opened, answers: _Answers, request: Request, console: Console) -> None:
    """What the publisher's server takes: pairs of an image's name and the index of its class. Source: its eval.py."""
    assert request.out is not None
    among = np.array(sorted(index for each in found.accepted for index in each))
    answered = among[answers.logits[:, among].argmax(axis=1)].tolist()
    path = Path(request.out) / "vizwiz_predictions.json"
    write_json(path, [[sample.name, index] for sample, index in zip(answers.samples, answered, strict=True)])
    console.warn(f"{found.name} {UNSCORED} Its predictions are in {path}.")


def _corruptions(found: _Opened, model: _Model, request: Request, console: Console) -> _Scored:
    """ImageNet-C: each severity, the mean of each corruption, and the mean corruption error of the fifteen."""
    record = model.bundle.require_preprocess()
    if model.view == "own" and record.crop_fraction != 1.0:
        # Published figures are of the whole images, which were cut out of 256 to 224 pixels before they were corrupted.
        whole = dataclasses.replace(record, crop_fraction=1.0)
        model = model._replace(bundle=dataclasses.replace(model.bundle, preprocess_record=whole))
        console.say(
            f"{found.name}: its images are cut already; they are taken whole, not cut to {record.crop_fraction:g} again"
        )
    rows: list[Row] = []
    digests: list[str] = []
    right: dict[str, dict[int, Tally]] = {}
    images = 0
    for split in [request.split] if request.split else list(found.source.splits):
        answers = _answers(model, found.source.splits[split], request, console, f"{found.name}/{split}")
        images += len(answers.samples)
        digests += answers.digests
        with request.world.first_alone(f"scoring {found.name}/{split}"):
            if request.world.main:
                counted = tally(_ranked(found, answers))
                _say(found, split, counted, answers.skipped, console)
                seen = seen_label(model.bundle, answers.samples)[0]
                rows += _rows(_of_these(found, [split]), split, counted, request, seen)
                kind, _, severity = split.partition("/")
                right.setdefault(kind, {})[int(severity)] = counted
    if request.world.main and not request.split:
        rows += _means(found, right, request, console)
    return _Scored(rows, request.split, images, digests)


def _of_these(found: _Opened, splits: Sequence[str]) -> _Opened:
    """Severities that are whole can be compared although others of ImageNet-C are absent."""
    whole = all(len(found.source.splits[split]) == IMAGES for split in splits)
    return found._replace(label="") if whole else found


def _means(found: _Opened, right: Mapping[str, Mapping[int, Tally]], request: Request, console: Console) -> list[Row]:
    whole = {kind: list(each.values()) for kind, each in right.items() if len(each) == len(SEVERITIES)}
    top1 = {kind: [counted.top1 / counted.n for counted in each] for kind, each in whole.items()}
    images = {kind: sum(counted.n for counted in each) for kind, each in whole.items()}
    errors = {kind: [1 - value for value in each] for kind, each in top1.items() if kind in ALEXNET}
    parts = corruption_errors(errors, ALEXNET)
    rows = []

    def add(kinds: Sequence[str], metric: str, value: float, label: str) -> None:
        dataset = f"{found.name}/{kinds[0]}" if len(kinds) == 1 else found.name
        part = _of_these(found, [f"{kind}/{severity}" for kind in kinds for severity in SEVERITIES]).label
        label = "; ".join(each for each in (part, label) if each)
        n = sum(images[kind] for kind in kinds)
        rows.append(Row(ALL, dataset, metric, value, None, None, n, request.model, label=label))

    for kind, values in top1.items():
        add([kind], "top1", float(np.mean(values)), "the mean of five severities")
        if kind in ALEXNET:
            add([kind], "ce", parts[kind], "error, as a part of AlexNet's")
    if absent := [kind for kind in ALEXNET if kind not in whole]:
        console.warn(
            f"{found.name}: no mean corruption error: not all five severities of {', '.join(absent)} are there"
        )
        return rows
    mean = float(np.mean([np.mean(top1[kind]) for kind in ALEXNET]))
    mce = float(np.mean([parts[kind] for kind in ALEXNET]))
    console.say(f"{found.name}: top-1 {percent(mean)}, mean corruption error {percent(mce)} of AlexNet's")
    add(list(ALEXNET), "top1", mean, "the mean of 15 corruptions of five severities")
    add(list(ALEXNET), "mce", mce, "the mean of 15 errors, each as a part of AlexNet's")
    return rows
