"""Reads, opens and splits the data of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitkit.config import UserError, read_json, write_file, write_json
from vitkit.console import Console
from vitkit.data.audit import CACHE_NAME, Scan, scan
from vitkit.data.cache import Cache
from vitkit.data.findings import Finding, find
from vitkit.data.sources import Sample, Source, match_classes, read_source
from vitkit.data.subsets import Splits, make_splits
from vitkit.data.survey import Survey, survey
from vitkit.finetuning.arguments import Arguments
from vitkit.recipes.finetune import validation_fraction

__all__ = ["TaskData", "read_data", "write_inputs"]

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


def read_data(arguments: Arguments, stored_plan: Path | None, console: Console) -> TaskData:
    """Find and open the images, and make or read the split.

    Raises:
        UserError: see `read_source`, `scan` and `make_splits`.
    """
    source = read_source(arguments.data)
    splits = dict(source.splits)
    if "train" not in splits and "all" not in splits:
        raise UserError(
            f"{arguments.data} has no train/ folder, only {', '.join(splits)}; there is nothing to train on."
        )
    if arguments.val is not None:
        extra = match_classes(read_source(arguments.val), source.classes)
        splits["val"] = next(extra.splits[name] for name in ("val", "all", "train", "test") if name in extra.splits)
        replaced = ("--val replaces the validation split of the data",) if "val" in source.splits else ()
        source = dataclasses.replace(source, splits=splits, notes=(*source.notes, *replaced, *extra.notes))
    console.say(f"data      {source.name}: {source.describe()}")
    for note in source.notes:
        console.say(f"          {note}")
    cache = Cache(CACHE_NAME)
    scans = {
        split: scan(samples, console=console, label=f"opening {split}", strict=arguments.strict, cache=cache)
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
    if stored_plan is not None and "val" not in usable:
        made = _stored_splits(stored_plan, usable, console)
    else:
        training = usable.get("train", usable.get("all", ()))
        fraction = validation_fraction(len(training) / len(source.classes))
        made = make_splits(usable, source.classes, fraction, MAX_VALIDATION_IMAGES, arguments.seed)
    if stored_plan is not None:
        _compare_fingerprints(stored_plan, scans, console)
    console.say(f"split     train {len(made.train)}, val {len(made.val)}, test {len(made.test or [])}: {made.rule}")
    return TaskData(source, made, scans, together, findings)


def _stored_splits(run: Path, usable: Mapping[str, Sequence[Sample]], console: Console) -> Splits:
    stored = read_json(run / "split.json")
    by_name = {sample.name: sample for sample in (usable["train"] if "train" in usable else usable["all"])}
    if gone := [name for name in (*stored["train"], *stored["val"]) if name not in by_name]:
        raise UserError(f"{len(gone)} images of {run}/split.json are gone from the data, the first: {gone[0]}.")
    parts = [[by_name[name] for name in stored[part]] for part in ("train", "val")]
    if new := len(by_name) - len(parts[0]) - len(parts[1]):
        console.warn(f"{new} images are not in {run}/split.json and are left out")
    return Splits(parts[0], parts[1], usable.get("test"), stored["rule"])


def _compare_fingerprints(run: Path, scans: Mapping[str, Scan], console: Console) -> None:
    """Say so where the data is not what a stored run saw."""
    stored = read_json(run / "split.json").get("fingerprints", {})
    changed = [split for split, found in scans.items() if stored.get(split) != found.fingerprint]
    if changed:
        console.warn(f"the data of {', '.join(changed)} is not what {run} saw: the result will differ")


def write_inputs(run: Path, arguments: Arguments, command: str, data: TaskData) -> None:
    """Store what the run was asked, and its split."""
    write_json(run / "arguments.json", dataclasses.asdict(arguments))
    write_file(run / "command.txt", (command + "\n").encode("utf-8", "surrogateescape"))
    parts = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test or []}
    stored = {name: [sample.name for sample in samples] for name, samples in parts.items()}
    fingerprints = {name: found.fingerprint for name, found in data.scans.items()}
    write_json(run / "split.json", {"rule": data.splits.rule, "fingerprints": fingerprints, **stored})
