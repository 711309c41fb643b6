"""Opens every file once, in parallel, before anything is trained or scored: what decodes, how large, which content."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.containers import read_bytes
from vitkit.data.pixels import MAX_PIXELS, ImageError, open_picture, picture_size
from vitkit.data.sources import Sample

__all__ = ["Scan", "digest", "scan"]


@dataclass(frozen=True)
class Scan:
    """What opening the files showed."""

    usable: Sequence[Sample]
    sizes: Sequence[tuple[int, int]]  # (height, width) of each usable image, upright
    skipped: Sequence[tuple[str, str]]  # (name, reason) of each file that cannot be used
    digests: Sequence[str]  # SHA-256 of each usable image's file
    fingerprint: str  # SHA-256 over the names, labels and contents of the usable images


def scan(
    samples: Sequence[Sample],
    *,
    console: Console,
    label: str = "opening",
    strict: bool = False,
    workers: int = 2,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
) -> Scan:
    """Decode every sample once, in threads, with a progress bar; what `open_picture` refuses is listed.

    Raises:
        UserError: with ``strict``, if any file cannot be used; always, if none can.
    """
    usable, sizes, skipped, digests, total = [], [], [], [], hashlib.sha256()
    look = functools.partial(_look, channels=channels, max_pixels=max_pixels)
    with ThreadPoolExecutor(workers) as pool:
        for sample, found in zip(samples, console.track(pool.map(look, samples), len(samples), label), strict=True):
            if isinstance(found, str):
                skipped.append((sample.name, found))
                continue
            usable.append(sample)
            sizes.append(found.size)
            digests.append(found.digest)
            label = str(sample.label) if sample.label >= 0 else ",".join(map(str, sample.labels))
            total.update(f"{sample.name}\0{label}\0{found.digest}\n".encode("utf-8", "surrogateescape"))
    if skipped and (strict or not usable):
        name, reason = skipped[0]
        raise UserError(f"{len(skipped)} of {len(samples)} files cannot be used, the first: {name}: {reason}.")
    return Scan(usable, sizes, skipped, digests, total.hexdigest())


class _Found(NamedTuple):
    size: tuple[int, int]  # (height, width)
    digest: str


def _look(sample: Sample, channels: int, max_pixels: int) -> _Found | str:
    """Open one file: what it is, or why it cannot be used."""
    try:
        content = read_bytes(sample.source)
        picture = open_picture(content, channels, max_pixels)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ImageError as error:
        return str(error)
    return _Found(picture_size(picture), hashlib.sha256(content).hexdigest())


def digest(sample: Sample) -> str:
    """SHA-256 of an image's file."""
    content = read_bytes(sample.source)
    return hashlib.sha256(content).hexdigest()
