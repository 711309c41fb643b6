"""`vit audit`: what is wrong with the data, before anything is trained on it.

The steps, in order: find the images; open every file once; compare all splits; what fitting would lose; likely label errors;
rank the findings; write the page and the JSON.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.audits.facts import audit_facts
from vitkit.audits.gallery import galleries
from vitkit.audits.labels import find_label_errors
from vitkit.config import UserError, did_you_mean, free_folder
from vitkit.console import Console
from vitkit.data.audit import CACHE_NAME, Scan, scan
from vitkit.data.cache import Cache
from vitkit.data.download import without_secrets
from vitkit.data.findings import Losses, find, fit_losses, rank
from vitkit.data.pixels import FITS, MAX_PIXELS, Preprocess, choose_fit
from vitkit.data.sources import Source
from vitkit.data.survey import survey
from vitkit.datasets.book import data_name, read_data
from vitkit.report import write_audit

__all__ = ["AuditResult", "audit"]

DEFAULT = Preprocess((224, 224), crop_fraction=0.875)  # where no model says how it sees images


@dataclass(frozen=True)
class AuditResult:
    """Where the audit wrote, and what it found: the contents of ``audit.json``."""

    folder: Path
    page: Path
    facts: Mapping[str, Any]


def audit(
    data: str | Path,
    *,
    model: str | Path | None = None,
    out: str | Path | None = None,
    fit: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    strict: bool = False,
    workers: int = 2,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    overrides: Mapping[str, Any] | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> AuditResult:
    """Open every image once and tell what is broken, duplicated, leaked, skewed or likely mislabelled.

    Args:
        data: as for `vitkit.finetune`.
        model: a bundle or checkpoint whose features find label errors, and whose preprocessing is judged.
        out: the folder to write to; by default ``runs/audit-<data>``, numbered.
        fit: auto | crop | squash | pad: how images are to be fitted.
        image_size: the size to fit to, instead of the model's own.
        strict: fail on the first file that cannot be used.
        workers: threads that open files.
        channels: that images must have; 3: every image becomes RGB.
        max_pixels: larger images are listed without being decoded.
        overrides: of the loaded model, see `vitkit.load`.
        command: the command line, for the page.

    Raises:
        UserError: anything in data, model or output that the user can mend.
    """
    began, console = time.perf_counter(), console or Console()
    if fit not in ("auto", *FITS):
        raise UserError(f"--fit is {fit!r}; known: auto, {', '.join(FITS)}.{did_you_mean(fit, ('auto', *FITS))}")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}.")
    folder = Path(out) if out is not None else free_folder(Path("runs"), f"audit-{data_name(data)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists. Choose another --out.")
    return audit_source(
        read_data(data, partial=True), folder, model=model, fit=fit, image_size=image_size, strict=strict, workers=workers,
        channels=channels, max_pixels=max_pixels, overrides=overrides or {},
        command=command or without_secrets(f"vitkit.audit({str(data)!r})"), console=console, began=began,
    )  # fmt: skip


def audit_source(
    source: Source,
    folder: Path,
    *,
    model: str | Path | None = None,
    fit: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    strict: bool = False,
    workers: int = 2,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    overrides: Mapping[str, Any],
    command: str,
    console: Console,
    began: float,
) -> AuditResult:
    """Audit what `read_data` understood; see `audit`."""
    record = _record(model, image_size, overrides)  # a mistaken model is told before the files are opened
    console.say(f"data      {source.name}: {source.describe()}")
    for note in source.notes:
        console.say(f"          {note}")
    cache = Cache(CACHE_NAME)
    scans = {
        split: scan(
            samples,
            console=console,
            label=f"opening {split}",
            strict=strict,
            workers=workers,
            channels=channels,
            max_pixels=max_pixels,
            cache=cache,
            may_be_empty=True,
        )
        for split, samples in source.splits.items()
    }
    if not any(found.usable for found in scans.values()):
        name, reason = next(entry for found in scans.values() for entry in found.skipped)
        count = sum(len(found.skipped) for found in scans.values())
        raise UserError(
            f"none of the {count} files can be used, the first: {name}: {reason}. There is nothing to audit."
        )
    if cache.problem:
        console.warn(cache.problem)
    losses = _losses(scans, record, fit)
    found = survey(source, scans)
    labels = find_label_errors(found, scans, model, dict(overrides), console)
    findings = rank([*find(found, losses), *labels.findings])
    facts = audit_facts(found, scans, findings, labels, losses, command)
    facts["seconds"] = time.perf_counter() - began
    page, _ = write_audit(folder, facts, galleries(found, losses, labels, cache, console))
    cache.close()
    for finding in findings:
        console.say(f"{finding.severity:<9} {finding.message}")
    for note in labels.notes:
        console.say(f"labels    {note}")
    if not findings:
        console.say("nothing to complain about was found")
    console.say(f"report    {page}")
    return AuditResult(folder, page, facts)


def _record(
    model: str | Path | None, image_size: int | tuple[int, int] | None, overrides: Mapping[str, Any]
) -> Preprocess:
    record = DEFAULT
    if model is not None:
        from vitkit.zoo.load import load_model

        record = load_model(model, **overrides).require_preprocess()
    if image_size is None:
        return record
    pair = (image_size, image_size) if isinstance(image_size, int) else image_size
    return dataclasses.replace(record, image_size=pair)


def _losses(scans: Mapping[str, Scan], record: Preprocess, fit: str) -> Losses:
    sizes: Sequence[tuple[int, int]] = [size for found in scans.values() for size in found.sizes]
    chosen, reason = (
        choose_fit(sizes, record.image_size, record.crop_fraction) if fit == "auto" else (fit, "as asked for")
    )
    return fit_losses(sizes, dataclasses.replace(record, fit=chosen), reason)
