"""Opens every file once, in parallel, before anything is trained or scored: what decodes, how large, which content."""

from __future__ import annotations

import functools
import hashlib
import io
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.cache import Cache
from vitkit.data.containers import read_bytes
from vitkit.data.pixels import MAX_PIXELS, ImageError, open_picture, picture_size
from vitkit.data.sources import Sample
from vitkit.data.thumbnails import THUMBNAIL_BYTES, Thumbnails, describe, thumbnail

__all__ = ["CACHE_NAME", "Scan", "digest", "scan"]

CACHE_NAME = "images-1"  # the number goes up when what is found out about a file changes
HEAD = struct.Struct("<IIB")  # height, width, EXIF orientation
PIECE = 32  # files that a thread opens, one after the other, before it reports: small images cost little each
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Scan:
    """What opening the files showed."""

    usable: Sequence[Sample]
    sizes: Sequence[tuple[int, int]]  # (height, width) of each usable image, upright
    skipped: Sequence[tuple[str, str]]  # (name, reason) of each file that cannot be used
    digests: Sequence[str]  # SHA-256 of each usable image's file
    fingerprint: str  # SHA-256 over the names, labels and contents of the usable images
    rotated: Sequence[int] = ()  # places in `usable` of images that only the EXIF orientation turns upright
    descriptions: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float16))  # see `thumbnails.describe`
    thumbnails: Thumbnails | None = None  # of the usable images, in their order
    known: int = 0  # usable images that the cache knew, and that were not decoded again


def scan(
    samples: Sequence[Sample],
    *,
    console: Console,
    label: str = "opening",
    strict: bool = False,
    workers: int = 2,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    cache: Cache | None = None,
    may_be_empty: bool = False,
) -> Scan:
    """Read every sample once, in threads, with a progress bar; decode those whose content ``cache`` does not know.

    What `open_picture` refuses is listed. Memory does not grow with the pixels: of each image a description of 576 bytes
    stays, thumbnails go to a temporary file.

    Raises:
        UserError: with ``strict``, if any file cannot be used; if none can, unless it ``may_be_empty``.
    """
    usable: list[Sample] = []
    sizes, skipped, digests, rotated, total = [], [], [], [], hashlib.sha256()
    pictures, described, fresh, known = Thumbnails(), [], dict[str, bytes](), 0
    look = functools.partial(_look, cache=cache, channels=channels, max_pixels=max_pixels)
    for sample, found in zip(
        samples, console.track(_look_all(samples, workers, look), len(samples), label), strict=True
    ):
        if isinstance(found, str):
            skipped.append((sample.name, found))
            continue
        if found.orientation != 1:
            rotated.append(len(usable))
        usable.append(sample)
        sizes.append(found.size)
        digests.append(found.digest)
        known += found.known
        what = ",".join(map(str, sample.labels)) if sample.label < 0 else sample.label
        total.update(f"{sample.name}\0{what}\0{found.digest}\n".encode("utf-8", "surrogateescape"))
        pictures.append(found.thumbnail)
        if cache is not None and not found.known:
            fresh[_key(found.digest, channels)] = HEAD.pack(*found.size, found.orientation) + found.thumbnail
        if len(pictures) % 1024 == 0:
            described.append(describe(pictures.read(len(pictures) - 1024, len(pictures))))
        if cache is not None and len(fresh) >= 1024:
            cache.put(fresh)
            fresh.clear()
    if cache is not None:
        cache.put(fresh)
    if skipped and (strict or not (usable or may_be_empty)):
        name, reason = skipped[0]
        raise UserError(f"{len(skipped)} of {len(samples)} files cannot be used, the first: {name}: {reason}.")
    described.append(describe(pictures.read(1024 * len(described), len(pictures))))
    return Scan(
        usable, sizes, skipped, digests, total.hexdigest(), rotated, np.concatenate(described), pictures, known
    )  # fmt: skip


class _Found(NamedTuple):
    size: tuple[int, int]  # (height, width)
    orientation: int  # EXIF, 1 where nothing is turned
    thumbnail: bytes
    digest: str
    known: bool  # to the cache


def _look_all(
    samples: Sequence[Sample], workers: int, look: Callable[[Sample], _Found | str]
) -> Iterator[_Found | str]:
    """What each file is, in order; a few pieces are under way at a time."""

    def look_at(piece: list[Sample]) -> list[_Found | str]:
        return [look(sample) for sample in piece]

    waiting = iter(samples)
    size = min(PIECE, 1 + len(samples) // (4 * workers))
    pieces = iter(lambda: list(islice(waiting, size)), [])
    with ThreadPoolExecutor(workers) as pool:
        queue: list[Future[list[_Found | str]]] = [pool.submit(look_at, p) for p in islice(pieces, 2 * workers)]
        while queue:
            found = queue.pop(0).result()
            queue += [pool.submit(look_at, piece) for piece in islice(pieces, 1)]
            yield from found


def _key(digest: str, channels: int) -> str:
    """What the cache calls a file: whether it can be used depends on the channels that are asked for."""
    return digest if channels == 3 else f"{channels}:{digest}"


def _look(sample: Sample, cache: Cache | None, channels: int, max_pixels: int) -> _Found | str:
    """Open one file: what it is, or why it cannot be used."""
    try:
        content = read_bytes(sample.source)
        digest = hashlib.sha256(content).hexdigest()
        value = cache.get(_key(digest, channels)) if cache is not None else None
        if value is not None and len(value) == HEAD.size + THUMBNAIL_BYTES:
            height, width, orientation = HEAD.unpack_from(value)
            if height * width <= max_pixels:
                return _Found((height, width), orientation, value[HEAD.size :], digest, True)
        picture = open_picture(content, channels, max_pixels)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except ImageError as error:
        return str(error)
    small = thumbnail(picture if isinstance(picture, Image.Image) else _false_colours(picture.array()))
    return _Found(picture_size(picture), _orientation(content), small, digest, False)


def _false_colours(values: np.ndarray) -> Image.Image:
    """Bands (H, W, C) in [0, 1] as the RGB image that duplicates are looked for in: the means of three groups of them."""
    groups = np.array_split(np.arange(values.shape[-1]), 3) if values.shape[-1] >= 3 else [[0], [0], [-1]]
    mixed = np.stack([np.nan_to_num(values[..., group]).mean(axis=-1) for group in groups], axis=-1)
    return Image.fromarray(np.round(255 * np.clip(mixed, 0, 1)).astype(np.uint8))


def _orientation(content: bytes) -> int:
    """The EXIF orientation, 1 to 8; files that cannot hold one are not opened a second time."""
    if content[:4] not in (b"II*\0", b"MM\0*") and not any(m in content for m in (b"Exif", b"eXIf", b"EXIF")):
        return 1
    try:
        with Image.open(io.BytesIO(content)) as image:
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block loses no image, and turns none
        return 1
    return found if found in range(1, 9) else 1


def digest(sample: Sample) -> str:
    """SHA-256 of an image's file."""
    content = read_bytes(sample.source)
    return hashlib.sha256(content).hexdigest()
