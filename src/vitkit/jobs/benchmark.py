"""`vit benchmark`: which engine is fastest for a model on this machine, in which precision, and whether it computes the same.

The steps, in order: understand what to measure; the model; the images; measure in turn; recommend; tell, write and store.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitkit.analysis.flops import forward_macs
from vitkit.bundle import Bundle
from vitkit.config import UserError, check_writable, did_you_mean, override, write_file, write_json
from vitkit.console import Console, duration
from vitkit.data.containers import ImageSource, read_bytes
from vitkit.data.download import without_secrets
from vitkit.data.pixels import MAX_PIXELS, ImageError, Preprocess, load_input, to_planes
from vitkit.data.random_pixels import random_images
from vitkit.datasets.book import data_name, read_data
from vitkit.engines import book, choose
from vitkit.engines.calibration import SHARE, calibrate, find_calibration, for_calibration, split, write_calibration
from vitkit.engines.engine import PRECISIONS
from vitkit.engines.measured.cells import ENOUGH, Cell, Choice, recommend
from vitkit.engines.measured.machine import library_versions, this_machine
from vitkit.engines.measured.rounds import BASE, LeftOut, Measured, Plan, measure
from vitkit.models.vit import SIZES, VisionTransformer, ViTConfig
from vitkit.predicting.finding import expand_paths
from vitkit.report import versions
from vitkit.zoo.load import load_model

__all__ = ["SCRATCH", "BenchmarkResult", "benchmark", "find_model"]

Array = np.ndarray[Any, Any]
SCRATCH = "scratch"
RANDOM = 16  # images of random numbers, where none are given
MOST = 256  # images that answers are compared on
MOST_BYTES = 2**28  # of images in memory
MOST_BATCH = 4096


@dataclass(frozen=True)
class BenchmarkResult:
    """What was found: ``facts`` is what ``benchmark.json`` holds; ``recommended`` None where nothing can be."""

    facts: Mapping[str, Any]
    cells: tuple[Cell, ...]
    recommended: Choice | None
    stored: Path | None


class _Images(NamedTuple):
    """Preprocessed images (n, C, H, W) and where they are from."""

    pixels: Array
    name: str
    real: bool


def benchmark(
    model: str | Path | Bundle | None = None,
    *,
    engines: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batch: Sequence[int] = (1, 8, 32),
    images: str | Path | None = None,
    seconds: float = 60.0,
    store: bool = False,
    out: str | Path | None = None,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    overrides: Mapping[str, Any] | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> BenchmarkResult:
    """Measure engines x precisions x batch sizes on this machine, in turn, each engine in a process of its own.

    Args:
        model: a bundle, a bundle folder, a checkpoint or a name of the zoo; a size as ``S/16`` or ``scratch`` has random weights.
            None: ``Ti/16`` with random weights.
        engines: names of `vitkit.engines.book.ENGINES`; None: all that can be used here.
        precisions: ``fp32``, ``bf16``, ``int8``; None: all. Reduced ones are recommended only if they are named here.
        batch: images of a call.
        images: where agreement with plain PyTorch in fp32 is looked at: labelled data, or files, folders and globs of images.
        seconds: what comparing and timing may take; engines that have to be compiled first take their time beside it.
        store: keep the recommendation beside the model, for ``auto``.
        out: a folder for ``benchmark.json`` and ``benchmark.csv``.
        workers: threads that decode images.
        max_pixels: larger images are left out.
        overrides: of a loaded model, see `vitkit.load`.
        command: the command line, for the file.

    Raises:
        UserError: no such model, engine, precision or images; nothing that can be measured; a place that cannot be written.
    """
    console = console or Console()
    batches = _batches(batch, seconds)
    if store and not isinstance(model, Bundle) and is_random(model):
        raise UserError("--store keeps a choice beside a model, and there is none: vit benchmark M --store names it.")
    if out is not None:
        check_writable(Path(out))
    bundle, name = find_model(model, overrides or {})
    pairs, left_out = (
        _wanted(engines, precisions) if bundle.artefact is None else (_exported(bundle, engines, precisions), [])
    )
    if store and bundle.artefact is not None:
        raise UserError(
            f"{name} is an exported artefact: one engine alone computes it, so there is no choice to --store."
        )
    for note in bundle.notes:
        console.warn(note)
    reduced = [precision for precision in precisions or () if precision != "fp32"]
    eight = any(precision == "int8" for _, precision in pairs)
    given = _images(bundle, images, eight, "int8" in reduced, workers, max_pixels, console)
    machine = this_machine()
    c = bundle.config
    flops = 2 * forward_macs(c)
    console.say(f"model     {name}: {c.embed_dim} wide, {c.depth} deep, {c.image_size[0]}x{c.image_size[1]}, "
                f"{flops / 1e9:.1f} GFLOP an image")  # fmt: skip
    console.say(f"machine   {machine.describe()}")
    console.say(f"images    {given.name}")
    least = min(len(given.pixels), ENOUGH if given.real and reduced else RANDOM)
    plan = Plan(pairs, batches, seconds, (least, len(given.pixels)))
    console.say(f"time      about {duration(seconds)}, and what making the engines takes")
    with console.live(100, "benchmark") as line:
        found = measure(
            bundle, plan, given.pixels, given.real, console.say, lambda part, text: line.update(round(100 * part), text)
        )
    left_out += found.left_out
    choice, notes = recommend(found.cells, found.agreements, reduced) if bundle.artefact is None else (None, [])
    kept = choose.store(bundle, found.cells, found.agreements, reduced, machine) if store else None
    facts: dict[str, Any] = {
        "format": "vitkit-benchmark",
        "format_version": 1,
        "command": command or without_secrets(f"vitkit.benchmark({str(model)!r})" if model else "vitkit.benchmark()"),
        "model": {
            "name": name, "random_weights": not isinstance(model, Bundle) and is_random(model), "embed_dim": c.embed_dim,
            "depth": c.depth, "image_size": list(c.image_size), "flops": flops,
            "parameters": sum(each.numel() for each in bundle.model.parameters()),
        },
        "machine": machine._asdict(),
        "versions": {**versions(), **library_versions()},
        "seconds": seconds,
        "in_turn": found.together,
        "peaks": {precision: peak._asdict() for precision, peak in found.peaks.items()},
        "images": {"name": given.name, "real": given.real, "n": max((a.images for a in found.agreements.values()), default=0)},
        "cells": [{**cell._asdict(), **_agreement(found, cell)} for cell in found.cells],
        "left_out": [each._asdict() for each in left_out],
        "recommended": choice and choice._asdict(),
        "notes": notes,
        "stored": kept and str(kept),
    }  # fmt: skip
    _tell(found, left_out, choice, notes, kept, console)
    if out is not None:
        write_json(Path(out) / "benchmark.json", facts)
        write_file(Path(out) / "benchmark.csv", _table(facts["cells"]))
        console.say(f"wrote     {Path(out) / 'benchmark.json'} and benchmark.csv")
    return BenchmarkResult(facts, tuple(found.cells), choice, kept)


def _batches(batch: Sequence[int], seconds: float) -> list[int]:
    """Batch sizes, rising.

    Raises:
        UserError: numbers that are none, or no time.
    """
    batches = sorted(set(batch))
    if not batches or not all(type(n) is int and 1 <= n <= MOST_BATCH for n in batches):
        shown = ", ".join(map(str, batch)) or "none"
        raise UserError(f"--batch takes whole numbers from 1 to {MOST_BATCH}, as 1,8,32; got {shown}.")
    if not 0 < seconds <= 86400:
        raise UserError(f"--seconds must be above 0 and at most a day, got {seconds:g}.")
    return batches


def _exported(bundle: Bundle, engines: Sequence[str] | None, precisions: Sequence[str] | None) -> list[tuple[str, str]]:
    """The one engine of an exported artefact.

    Raises:
        UserError: others are asked for, or its runtime is missing.
    """
    for engine in engines or (book.AUTO,):
        for precision in precisions or (book.AUTO,):
            facts = book.make_engine(bundle, engine, precision).facts
    return [(facts.name, facts.precision)]


def _wanted(
    engines: Sequence[str] | None, precisions: Sequence[str] | None
) -> tuple[list[tuple[str, str]], list[LeftOut]]:
    """Pairs of engine and precision, and what cannot be used here.

    Raises:
        UserError: a name that is none, or nothing left.
    """
    for option, values, known in (("--engines", engines, book.ENGINES), ("--precisions", precisions, PRECISIONS)):
        if values is not None and not values:
            raise UserError(f"{option} names nothing; known: {', '.join(known)}.")
        for value in values or ():
            if value not in known:
                raise UserError(f"{option} {value!r}; known: {', '.join(known)}.{did_you_mean(value, known)}")
    pairs, left_out = [], []
    for name in engines or book.ENGINES:
        if reason := book.missing(name):
            left_out.append(LeftOut(name, "", None, reason))
            continue
        own = book.precisions(name)
        for precision in precisions or own:
            if precision in own:
                pairs.append((name, precision))
            else:
                left_out.append(LeftOut(name, precision, None, f"it computes in {', '.join(own)}"))
    if not pairs:
        reasons = "; ".join(_name(each) + ": " + each.reason for each in left_out)
        raise UserError(f"nothing of this can be measured here: {reasons}")
    return pairs, left_out


def is_random(model: str | Path | None) -> bool:
    """Does this name random weights? Local paths win over names of sizes."""
    if model is None:
        return True
    left, slash, patch = str(model).partition("/")
    size = left.rpartition("+")[2]
    named = str(model) == SCRATCH or bool(slash and size in SIZES and re.fullmatch(r"\d+", patch))
    return named and not Path(model).exists()


def find_model(model: str | Path | Bundle | None, overrides: Mapping[str, Any]) -> tuple[Bundle, str]:
    """The bundle and what to call it.

    Raises:
        UserError: nothing of that name.
    """
    if isinstance(model, Bundle):
        return model, model.source or "a bundle"
    if model is not None and not is_random(model):
        return load_model(model, exported=True, **overrides), str(model)
    size = "Ti/16" if model is None or str(model) == SCRATCH else str(model)
    config = override(ViTConfig.named(size), overrides, "--override of random weights")
    network = VisionTransformer(config)
    network.init_weights(0)
    for head in (network.head, network.head_dist):
        if head is not None:  # else all logits are zero, and nothing can differ
            head.weight.data.normal_(0, config.feature_dim**-0.5, generator=_generator())
    told = f"{size} with random weights" + (", as no model was named" if model is None else "")
    grey = (0.5,) * config.in_channels
    return Bundle(network.eval(), Preprocess(config.image_size, mean=grey, std=grey), source=told), told


def _generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def _images(
    bundle: Bundle, data: str | Path | None, eight: bool, named: bool, workers: int, max_pixels: int, console: Console
) -> _Images:
    """Images evenly spread over those that were given, or random numbers.

    Where int8 is measured (``eight``), images that calibrate are not among them; where it was ``named`` and the model was never
    calibrated, it is calibrated on those.

    Raises:
        UserError: no such data, no image of it can be used, or too few to calibrate.
    """
    c = bundle.config
    each = 4 * c.in_channels * c.image_size[0] * c.image_size[1]
    most = max(RANDOM, min(MOST, MOST_BYTES // each))
    if data is None:
        grey = (0.5,) * c.in_channels
        record = bundle.preprocess_record or Preprocess(c.image_size, mean=grey, std=grey)
        pixels = random_images(record, RANDOM)
        return _Images(
            pixels, f"{RANDOM} of random pixels: name some with --images to know how often answers agree", False
        )
    record = bundle.require_preprocess()
    sources = _sources(data)
    wanted = round(most / (1 - SHARE)) if eight else most
    chosen = [sources[place] for place in np.unique(np.linspace(0, len(sources) - 1, wanted).round().astype(int))]

    def load(source: ImageSource) -> tuple[str, Array] | ImageError:
        try:
            pixels = to_planes(load_input(source, record, max_pixels))
            return hashlib.sha256(read_bytes(source)).hexdigest(), pixels
        except ImageError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        loaded = list(console.track(pool.map(load, chosen), len(chosen), "reading"))
    good = [found for found in loaded if not isinstance(found, ImageError)]
    bad = [found for found in loaded if isinstance(found, ImageError)]
    if not good:
        raise UserError(f"none of {len(bad)} images of {data} can be used, the first: {bad[0]}.")
    if bad:
        console.warn(f"left out {len(bad)} images that cannot be used, the first: {bad[0]}")
    if named and find_calibration(bundle) is None:
        ours, _ = split([digest for digest, _ in good])
        console.say(f"calibrating int8 on {len(ours)} images, on which nothing is compared")
        path = write_calibration(bundle, calibrate(bundle, (good[place][1] for place in ours), console))
        console.say(f"wrote     {path}")
    kept = [pixels for digest, pixels in good if not (eight and for_calibration(digest))] or [good[0][1]]
    return _Images(np.stack(kept), f"up to {len(kept)} of the {len(sources):,} of {data_name(data)}", True)


def _sources(data: str | Path) -> list[ImageSource]:
    """The test images of labelled data, else its validation images, else all; or the images that paths name."""
    try:
        source = read_data(data)
    except UserError:
        if not Path(data).exists() and not re.search(r"[*?\[]", str(data)):
            raise
        return [image for _, image in expand_paths([data], Counter())]
    chosen = next((name for name in ("test", "val", "all") if name in source.splits), "train")
    return [sample.source for sample in source.splits[chosen]]


def _agreement(found: Measured, cell: Cell) -> dict[str, Any]:
    """The part of a cell's JSON that tells about its outputs; null where they could not be compared."""
    each = found.agreements.get((cell.engine, cell.precision))
    numbers = each is not None and np.isfinite(each.difference)
    return {
        "compared_images": each.images if each else 0,
        "same_answers": each.same if each else None,
        "largest_difference": each.difference if each and numbers else None,
        "relative_difference": each.relative if each and numbers else None,
        "agrees": each.passes(cell.precision) if each else False,
    }


def _table(cells: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name in (cells[0] if cells else {}) if name != "notes"]
    writer.writerows([names, *([cell[name] for name in names] for cell in cells)])
    return text.getvalue().encode()


def _name(each: LeftOut) -> str:
    batch = "" if each.batch is None else f"batch {each.batch}"
    return " ".join(filter(None, (each.engine, each.precision, batch)))


HEAD = (
    "engine",
    "",
    "batch",
    "images/s",
    "x plain",
    "p50 ms",
    "p99 ms",
    "MB",
    "of peak",
    "same answers",
    "logits differ",
)


def _tell(
    found: Measured,
    left_out: Sequence[LeftOut],
    choice: Choice | None,
    notes: Sequence[str],
    kept: Path | None,
    console: Console,
) -> None:
    if found.peaks:
        peaks = " · ".join(f"{precision} {peak.gflops:.0f}" for precision, peak in found.peaks.items())
        threads = next(iter(found.peaks.values())).threads
        console.say(f"peak      of matrix products, GFLOP/s on {threads} threads: {peaks}")
    rows = [HEAD, *(_row(cell, found) for cell in found.cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    console.say("")
    for row in rows:
        cells = (text.ljust(width) if column < 2 else text.rjust(width)
                 for column, (text, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        console.say("  ".join(cells).rstrip())
    console.say("")
    if not found.together:
        console.say("Memory does not hold all engines at once: they were measured one after the other, and what the machine did "
                    "meanwhile is in the comparison.")  # fmt: skip
    for each in left_out:
        console.say(f"not measured: {_name(each)}: {each.reason}")
    for note in notes:
        console.say(note)
    if choice is None and found.base != BASE:
        return  # an artefact: there is no choice
    if choice is None:
        console.say("recommended: nothing; no engine in fp32 could be measured")
        return
    console.say(f"recommended: --engine {choice.engine} --precision {choice.precision}: {choice.why}")
    if kept:
        console.say(f"stored for --engine auto: {kept}")


def _row(cell: Cell, found: Measured) -> tuple[str, ...]:
    each = found.agreements.get((cell.engine, cell.precision))
    base = (cell.engine, cell.precision) == found.base
    alone = "plain" if found.base == BASE else "-"
    return (
        f"{cell.engine} {cell.precision}",
        "ours" if cell.ours else "wrapped",
        str(cell.batch),
        f"{cell.images_per_second:.1f}",
        "-" if cell.speedup is None or alone == "-" else f"{cell.speedup:.2f}",
        f"{cell.p50_ms:.1f}",
        f"{cell.p99_ms:.1f}",
        "-" if cell.memory_mb is None else f"{cell.memory_mb:.0f}",
        "-" if cell.share_of_peak is None else f"{100 * cell.share_of_peak:.0f}%",
        alone if base else "-" if each is None else f"{100 * each.same:.1f}% of {each.images}",
        alone if base else "-" if each is None else f"{each.difference:.1e}",
    )
