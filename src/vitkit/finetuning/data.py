"""Reads, opens and splits the data of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitkit.answers import MULTI, SEPARATOR, SINGLE
from vitkit.config import UserError, read_json, write_json
from vitkit.console import Console
from vitkit.data.audit import CACHE_NAME, Scan, scan
from vitkit.data.cache import Cache
from vitkit.data.findings import Finding, find
from vitkit.data.sources import Sample, Source, match_classes
from vitkit.data.subsets import Splits, make_splits, stratified_folds
from vitkit.data.survey import Survey, survey
from vitkit.data.targets import class_counts, strata
from vitkit.datasets import book
from vitkit.evals.tasks import Task, make_task
from vitkit.finetuning.arguments import Arguments
from vitkit.recipes.finetune import validation_fraction

__all__ = ["TaskData", "fold_numbers", "read_data", "write_split"]

MAX_VALIDATION_IMAGES = 2_000  # held out where there is no validation split


@dataclass(frozen=True)
class TaskData:
    """Usable images and what opening them showed."""

    source: Source
    splits: Splits
    scans: Mapping[str, Scan]
    survey: Survey  # all splits together
    findings: Sequence[Finding]  # of the audit, the costliest first

    @property
    def task(self) -> Task:
        """One class per image, or any number."""
        return make_task(MULTI if self.source.multilabel else SINGLE, len(self.source.classes))

    @property
    def training_scan(self) -> Scan:
        """The scan of the images that train, and validate where there is no validation split."""
        return self.scans["train" if "train" in self.scans else "all"]

    def digests_of(self, samples: Sequence[Sample]) -> list[str]:
        """SHA-256 of the files of some usable samples."""
        known = {
            sample.name: digest
            for found in self.scans.values()
            for sample, digest in zip(found.usable, found.digests, strict=True)
        }
        return [known[sample.name] for sample in samples]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return [entry for found in self.scans.values() for entry in found.skipped]


def read_data(arguments: Arguments, stored_plan: Path | None, resumed: bool, console: Console) -> TaskData:
    """Find and open the images, and make or read the split.

    Raises:
        UserError: see `book.read_data`, `scan` and `make_splits`.
    """
    source = book.read_data(arguments.data, partial=True)
    _check_names(source)
    splits = dict(source.splits)
    if "train" not in splits and "all" not in splits:
        raise UserError(
            f"{arguments.data} has no train/ folder, only {', '.join(splits)}; there is nothing to train on."
        )
    if arguments.val is not None:
        extra = match_classes(book.read_data(arguments.val, partial=True), source.classes)
        if extra.multilabel != source.multilabel:
            kinds = [MULTI if part.multilabel else SINGLE for part in (source, extra)]
            raise UserError(
                f"the training data is {kinds[0]}, --val {arguments.val} is {kinds[1]}; both must be alike."
            )
        splits["val"] = next(extra.splits[name] for name in ("val", "all", "train", "test") if name in extra.splits)
        replaced = ("--val replaces the validation split of the data",) if "val" in source.splits else ()
        source = dataclasses.replace(source, splits=splits, notes=(*source.notes, *replaced, *extra.notes))
    console.say(f"data      {source.name}: {source.describe()}")
    for note in source.notes:
        console.say(f"          {note}")
    cache = Cache(CACHE_NAME)
    scans = {
        split: scan(
            samples,
            console=console,
            label=f"opening {split}",
            strict=arguments.strict,
            channels=arguments.channels,
            max_pixels=arguments.max_pixels,
            cache=cache,
        )
        for split, samples in splits.items()
    }
    for split, found in scans.items():
        for name, reason in found.skipped:
            console.warn(f"{split}: {name} cannot be used and is left out: {reason}")
    cache.close()
    together = survey(source, scans)
    findings = [finding for finding in find(together) if finding.kind != "unreadable"]  # those were told one by one
    for finding in findings:
        if finding.severity == "high":
            console.warn(finding.message)
        else:
            console.say(f"audit     {finding.message}")
    usable = {split: found.usable for split, found in scans.items()}
    if arguments.fold is not None:
        part = "train" if "train" in usable else "all"
        numbers = fold_numbers(usable[part], arguments.folds, arguments.seed)
        usable["test"] = [sample for sample, n in zip(usable[part], numbers, strict=True) if n == arguments.fold]
        usable[part] = [sample for sample, n in zip(usable[part], numbers, strict=True) if n != arguments.fold]
    if stored_plan is not None and "val" not in usable:
        made = _stored_splits(stored_plan, usable, console)
    else:
        training = usable.get("train", usable.get("all", ()))
        per_class = sum(class_counts(training, len(source.classes))) / len(source.classes)
        fraction = validation_fraction(per_class)
        made = make_splits(usable, source.classes, fraction, MAX_VALIDATION_IMAGES, arguments.seed)
    if source.multilabel:
        counts = class_counts(made.val, len(source.classes))
        for name in [name for name, count in zip(source.classes, counts, strict=True) if not count]:
            console.warn(
                f"class {name!r} has no image in the validation part: nothing is known of how well it is found"
            )
    if stored_plan is not None:
        _compare_fingerprints(stored_plan, scans, resumed, console)
    console.say(f"split     train {len(made.train)}, val {len(made.val)}, test {len(made.test or [])}: {made.rule}")
    return TaskData(source, made, scans, together, findings)


def fold_numbers(samples: Sequence[Sample], folds: int, seed: int) -> list[int]:
    """Which fold tests each image: a function of the labels and the seed, equal in the run of every fold."""
    numbers: list[int] = stratified_folds(strata(samples), folds, seed).tolist()
    return numbers


def _check_names(source: Source) -> None:
    """Answers of several classes are written with a separator that no name may hold."""
    if source.multilabel and (bad := [name for name in source.classes if SEPARATOR in name or not name]):
        raise UserError(
            f"class {bad[0]!r} cannot be told apart in a list of classes: names of multi-label data must not be empty or hold "
            f"{SEPARATOR!r}, which separates them in predictions. Rename it."
        )


def _stored_splits(run: Path, usable: Mapping[str, Sequence[Sample]], console: Console) -> Splits:
    stored = read_json(run / "split.json")
    by_name = {sample.name: sample for sample in (usable["train"] if "train" in usable else usable["all"])}
    if gone := [name for name in (*stored["train"], *stored["val"]) if name not in by_name]:
        raise UserError(f"{len(gone)} images of {run}/split.json are gone from the data, the first: {gone[0]}.")
    parts = [[by_name[name] for name in stored[part]] for part in ("train", "val")]
    if new := len(by_name) - len(parts[0]) - len(parts[1]):
        console.warn(f"{new} images are not in {run}/split.json and are left out")
    return Splits(parts[0], parts[1], usable.get("test"), stored["rule"])


def _compare_fingerprints(run: Path, scans: Mapping[str, Scan], resumed: bool, console: Console) -> None:
    """Say so where the data is not what a stored run saw; a run that goes on must see the same."""
    stored = read_json(run / "split.json").get("fingerprints", {})
    changed = [split for split, found in scans.items() if stored.get(split) != found.fingerprint]
    if changed and resumed:
        raise UserError(
            f"the data of {', '.join(changed)} changed since {run} began (names, labels or contents of images): going on would mix "
            "two data sets in one model. Restore the data, or start a new run."
        )
    if changed:
        console.warn(f"the data of {', '.join(changed)} is not what {run} saw: the result will differ")


def write_split(run: Path, data: TaskData) -> None:
    """Store which image is in which part, and what tells that the data changed."""
    parts = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test or []}
    stored = {name: [sample.name for sample in samples] for name, samples in parts.items()}
    fingerprints = {name: found.fingerprint for name, found in data.scans.items()}
    write_json(run / "split.json", {"rule": data.splits.rule, "fingerprints": fingerprints, **stored})
