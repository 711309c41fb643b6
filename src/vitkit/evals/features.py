"""Features and logits of a data set: computed once, kept under what they depend on, shared by every protocol.

The key is made of contents: the model's tensors and configuration, the preprocessing, the images' files in order, and the rule
that computes, with the versions of what decides the last digits. A kept file that is damaged is said and computed anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from vitkit.answers import Outputs
from vitkit.bundle import Bundle
from vitkit.config import UserError, write_file
from vitkit.console import Console, duration
from vitkit.data.audit import digest
from vitkit.data.cache import cache_folder
from vitkit.data.official import check_view, describe_view
from vitkit.data.pixels import MAX_PIXELS, ImageError
from vitkit.data.sources import Sample
from vitkit.engines.book import engine_of
from vitkit.engines.kept.places import fingerprint
from vitkit.engines.stream import stream
from vitkit.parallel.world import ALONE, World
from vitkit.weights.safetensors_file import open_safetensors

T = TypeVar("T")

__all__ = ["RULE", "FeatureTable", "compute_features", "data_fingerprint"]

RULE = 1  # goes up when what is computed from the same model and images changes
PIECE = 64  # files that a thread reads before it reports
BEAT = 64  # images, or pieces of files, after which ranks wait for each other
UNREAD = bytes(32)  # instead of the digest of a file that cannot be read


@dataclass(frozen=True)
class FeatureTable:
    """What a model gives for the images that can be used, in the order of the data."""

    samples: Sequence[Sample]
    features: Tensor  # (n, D) float32, what the head reads
    logits: Tensor  # (n, O) float32; (n, 0) of a model without a head
    skipped: Sequence[tuple[str, str]]  # (name, reason) of each image that cannot be used
    digests: Sequence[str]  # SHA-256 of every image's file, those that cannot be used too
    known: bool  # read, not computed


def compute_features(
    bundle: Bundle,
    samples: Sequence[Sample],
    console: Console,
    label: str,
    *,
    view: str = "own",
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    world: World = ALONE,
) -> FeatureTable:
    """Features of samples, each image computed by one rank, all of them known to every rank.

    Every rank of ``world`` calls this alike. Nothing but the images and the model changes a digit of the result.

    Args:
        label: what the progress line says.
        view: how images are fitted, see `vitkit.data.official.VIEWS`.
        strict: fail if any image cannot be used, instead of listing it.

    Raises:
        UserError: no preprocessing is known; no image at all, or none that can be used; with ``strict``, one that cannot.
    """
    record = bundle.require_preprocess()
    check_view(view, record)
    if bundle.config.pool == "none":
        raise UserError("this model gives features of every token (pool='none'); evaluating needs one row per image.")
    if not samples:
        raise UserError(f"{label}: there are no images.")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}.")
    engine = engine_of(bundle)
    mine, most = _share(len(samples), engine.group, world)
    part = samples[mine.start : mine.stop]
    digests = torch.cat(world.gather(_digests(part, most, workers, world, label), f"{label}: files")).numpy()
    facts = {
        "rule": RULE,
        "model": fingerprint(bundle),
        "preprocess": dataclasses.asdict(record),
        "view": describe_view(view, record) if view != "own" else view,
        "max_pixels": max_pixels,
        "group": engine.group,
        "engine": engine.facts[:3],  # not how many threads: they change no digit
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "versions": {name: metadata.version(name) for name in ("torch", "numpy", "pillow")},
        "images": hashlib.sha256(digests.tobytes()).hexdigest(),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "features" / f"{key}.safetensors"
    found = _read(path, len(samples), console)
    known = not world.any(found is None)
    if known:
        console.say(f"{label}: features of {len(samples):,} images were computed before")
    else:
        began = time.perf_counter()
        # Interrupted ranks need not have stopped at the same image.
        begun = _read_begun(path, engine.group, console) if world.size == 1 else None
        first = 0 if begun is None else len(begun.features) + len(begun.bad)
        if first:
            console.say(f"{label}: the first {first:,} of {len(samples):,} images were computed before")
        sources = [sample.source for sample in part[first:]]
        results = stream(engine, record, sources, workers=workers, max_pixels=max_pixels, view=view)
        together = _in_step(console.track(results, len(sources), label), BEAT, most, world, label)
        so_far = _SoFar(bundle, begun)
        try:
            so_far.take(together, mine.start + first)
        except KeyboardInterrupt:
            if world.size == 1:
                _keep_begun(path, so_far.results(engine.group), label, console)
            raise
        own = so_far.results()
        found = _together(own, world, label)
        unread = {place for place, row in enumerate(digests) if row.tobytes() == UNREAD}
        if (
            world.main and unread <= found.bad.keys()
        ):  # else a file came back meanwhile: the key does not say its content
            _write(path, found, console)
            for old in _begun(path).values():
                old.unlink(missing_ok=True)
        took = duration(time.perf_counter() - began)
        console.say(f"{label}: features of {len(samples):,} images computed in {took}, kept for every protocol")
    assert found is not None
    skipped = [(samples[place].name, reason) for place, reason in sorted(found.bad.items())]
    if strict and skipped:
        raise UserError(f"{skipped[0][0]}: {skipped[0][1]} (--strict)")
    if len(skipped) == len(samples):
        raise UserError(f"none of the {len(samples)} images can be used; the first: {skipped[0][0]}: {skipped[0][1]}.")
    if not found.features.isfinite().all():
        raise UserError("the model's outputs are not finite numbers; its weights are damaged or its training diverged.")
    kept = [sample for place, sample in enumerate(samples) if place not in found.bad]
    names = [row.tobytes().hex() for row in digests]
    return FeatureTable(kept, found.features, found.logits, skipped, names, known)


def data_fingerprint(digests: Sequence[str]) -> str:
    """SHA-256 over the digests of images in order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _share(count: int, group: int, world: World) -> tuple[range, int]:
    """The images of this rank, and the most that any rank has.

    They are whole groups, so that each is computed among the images that it would be among with one rank.
    """
    groups = -(-count // group)
    cuts = [min(groups * rank // world.size * group, count) for rank in range(world.size + 1)]
    return range(cuts[world.rank], cuts[world.rank + 1]), max(b - a for a, b in pairwise(cuts))


def _in_step(items: Iterable[T], every: int, most: int, world: World, label: str) -> Iterator[T]:
    """Pass items on; ranks wait for each other after ``every`` of them.

    Else the fastest would wait at the end for longer than a rank that is lost is waited for. ``most``: of any rank.
    """
    done = 0
    for number, item in enumerate(items, 1):
        yield item
        if number % every == 0:
            world.wait(f"{label}: {number}")
            done += 1
    for number in range(done + 1, most // every + 1):
        world.wait(f"{label}: {number * every}")


def _digests(samples: Sequence[Sample], most: int, workers: int, world: World, label: str) -> Tensor:
    """SHA-256 of each file (n, 32) uint8; `UNREAD` where it cannot be read."""

    def sign(start: int) -> bytes:
        return b"".join(_digest(sample) for sample in samples[start : start + PIECE])

    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(sign, range(0, len(samples), PIECE))
        data = bytearray(b"".join(_in_step(parts, BEAT, -(-most // PIECE), world, f"{label}: files")))
    return (torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)).view(-1, 32)


def _digest(sample: Sample) -> bytes:
    try:
        return bytes.fromhex(digest(sample))
    except (OSError, ImageError):  # what is a part of an image, as an image within its border, has to decode it
        return UNREAD


def _processor() -> str:
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


class _Results(NamedTuple):
    """What a file holds."""

    features: Tensor
    logits: Tensor
    bad: dict[int, str]  # why each image that cannot be used cannot, by its place


class _SoFar:
    """The results of images one after the other, behind those of an interrupted run."""

    def __init__(self, bundle: Bundle, begun: _Results | None) -> None:
        self.width, self.outputs = bundle.config.feature_dim, bundle.config.num_classes
        self.features = list(begun.features) if begun else []
        self.logits = list(begun.logits) if begun else []
        self.bad = dict(begun.bad) if begun else {}

    def take(self, results: Iterable[Outputs | ImageError], first: int) -> None:
        """The results of the images from the place ``first`` on."""
        for place, result in enumerate(results, first):
            if isinstance(result, ImageError):
                self.bad[place] = str(result)
            else:
                self.features.append(torch.from_numpy(result.features))
                self.logits.append(torch.from_numpy(result.logits))

    def results(self, group: int = 1) -> _Results:
        """Those there are, of whole groups of images."""
        places = (len(self.features) + len(self.bad)) // group * group
        bad = {place: reason for place, reason in self.bad.items() if group == 1 or place < places}
        n = places - len(bad)
        if not n:
            return _Results(torch.empty(0, self.width), torch.empty(0, self.outputs), bad)
        stacked = torch.stack(self.logits[:n]) if self.outputs else torch.empty(n, 0)
        return _Results(torch.stack(self.features[:n]), stacked, bad)


def _begun(path: Path) -> dict[int, Path]:
    """What interrupted runs kept beside the file ``path`` is to be: by the number of images."""
    found = {each.stem.rpartition("-first-")[2]: each for each in path.parent.glob(f"{path.stem}-first-*{path.suffix}")}
    return {int(count): each for count, each in found.items() if count.isdecimal()}


def _read_begun(path: Path, group: int, console: Console) -> _Results | None:
    """The longest of them."""
    kept = {count: each for count, each in _begun(path).items() if count and count % group == 0}
    return _read(kept[max(kept)], max(kept), console) if kept else None


def _keep_begun(path: Path, found: _Results, label: str, console: Console) -> None:
    if count := len(found.features) + len(found.bad):
        older = _begun(path)
        _write(path.with_name(f"{path.stem}-first-{count}{path.suffix}"), found, console)
        console.say(f"{label}: the first {count:,} images are kept; the same command goes on after them")
        for number, each in older.items():
            if number < count:
                each.unlink(missing_ok=True)


def _together(own: _Results, world: World, label: str) -> _Results:
    """The results of all ranks, in the order of the images."""
    if world.size == 1:
        return own
    text = torch.frombuffer(bytearray(json.dumps(own.bad).encode()), dtype=torch.uint8)
    bad = [json.loads(bytes(each.numpy())) for each in world.gather(text, f"{label}: images that cannot be used")]
    merged = {int(place): reason for each in bad for place, reason in each.items()}
    if not world.any(len(own.features) > 0):
        return own._replace(bad=merged)
    rows = [torch.cat(world.gather(tensor, f"{label}: results")) for tensor in own[:2] if tensor.shape[1]]
    logits = rows[1] if len(rows) > 1 else torch.empty(len(rows[0]), 0)
    return _Results(rows[0], logits, merged)


def _checksum(tensors: dict[str, Tensor]) -> str:
    signed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        signed.update(f"\0{name} {tuple(tensor.shape)}\0".encode())
        signed.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return signed.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, found: _Results, console: Console) -> None:
    """Keep results; a place that cannot be written costs time only."""
    tensors = {"features": found.features, "logits": found.logits}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor.numel()}
    if not tensors:  # no image can be used: it is an error, and soon told
        return
    notes = {"sha256": _checksum(tensors), "bad": json.dumps(found.bad)}
    notes["bad_sha256"] = _sha256(notes["bad"])
    own = path.with_name(f"{path.name}.{os.getpid()}")  # another process may write the same
    try:
        write_file(own, save(tensors, notes))
        own.replace(path)
    except (OSError, UserError) as error:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
        console.warn(f"features are not kept: {error}")


def _read(path: Path, count: int, console: Console) -> _Results | None:
    """Kept results of ``count`` images; None where there are none, or none that are whole."""
    if not path.exists():
        return None
    try:
        file = open_safetensors(path)
        tensors, notes = file.read(), file.metadata
        bad = notes.get("bad", "")
        if notes.get("sha256") != _checksum(tensors) or notes.get("bad_sha256") != _sha256(bad):
            raise UserError(f"{path} is damaged: its checksum differs.")
        found = {int(place): reason for place, reason in json.loads(bad).items()}
        rows = count - len(found)
        features = tensors.get("features", torch.empty(0, 0))
        result = _Results(features, tensors.get("logits", torch.empty(rows, 0)), found)
        if len(result.features) != rows or len(result.logits) != rows:
            raise UserError(f"{path} is damaged: it holds {len(result.features)} rows of {rows} images.")
    except UserError as error:
        console.warn(f"a file of kept features is not used, they are computed anew: {error}")
        return None
    return result
