"""Finds images that are there twice: equal files, and near duplicates by a perceptual hash with an index, no pairwise loop.

Near duplicates survive resizing, recompression and cropping of a few percent at the edges. Each image's low cosine frequencies,
also those of its croppings, become bits by random projections; images that agree in all bits of one of several tables are
candidates (locality-sensitive hashing: Charikar, STOC 2002), and a stricter comparison of the blurred images, aligned over the
same croppings, decides.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitkit.data.thumbnails import CHROMA, LUMA, cosines

__all__ = ["Duplicates", "Pair", "exact_groups", "find_duplicates", "near_pairs"]

CROP = 0.03  # part of a side that a cropping takes away
HASHED = 6  # luma frequencies each way that are hashed, chroma: 2
COMPARED = 8  # luma frequencies each way that are compared
BITS = 256  # random projections
FAR = 0.22  # part of the bits in which candidates may differ: an angle of 40 degrees
REACH = 12  # neighbours in brightness that an image is compared with, each way, where very many share a hash
RELATIVE = 0.12  # of the contrast: difference up to which two aligned blurred images are one
ABSOLUTE = 0.75  # gray levels: the same, for images of hardly any contrast
COLOUR = 6.0  # gray levels that mean luma or chroma may differ
PIECE = 16_384


class Pair(NamedTuple):
    """Two near duplicates, places of the images, first < second."""

    first: int
    second: int
    similarity: float  # correlation of the aligned blurred images, 1 where neither has any contrast


@dataclass(frozen=True)
class Duplicates:
    """Images that are there twice, by their places."""

    exact: Sequence[Sequence[int]]  # groups of equal files
    near: Sequence[Pair]  # between files that differ; of equal files the first stands for all
    groups: Sequence[Sequence[int]]  # of images that are one by equal files or near pairs, directly or by others
    crowded: int  # images whose hash was so common that not all candidates were compared


def find_duplicates(digests: Sequence[str], descriptions: np.ndarray) -> Duplicates:
    """Compare images by the SHA-256 of their files and their descriptions (n, 288), see `thumbnails.describe`."""
    exact = exact_groups(digests)
    copies = {place for group in exact for place in group[1:]}
    kept = np.array([i for i in range(len(digests)) if i not in copies])
    pairs, crowded = near_pairs(descriptions[kept])
    near = [Pair(int(kept[p.first]), int(kept[p.second]), p.similarity) for p in pairs]
    links = [(group[0], other) for group in exact for other in group[1:]] + [(p.first, p.second) for p in near]
    return Duplicates(exact, near, connected(links), crowded)


def exact_groups(digests: Sequence[str]) -> list[list[int]]:
    """Groups of places with equal digests, in order."""
    places = defaultdict(list)
    for place, digest in enumerate(digests):
        places[digest].append(place)
    return [group for group in places.values() if len(group) > 1]


def connected(links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of places that links connect, sorted."""
    parent: dict[int, int] = {}

    def root(place: int) -> int:
        parent.setdefault(place, place)
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for first, second in links:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    groups = defaultdict(list)
    for place in sorted(parent):
        groups[root(place)].append(place)
    return sorted(groups.values())


def near_pairs(descriptions: np.ndarray) -> tuple[list[Pair], int]:
    """Near duplicates among descriptions (n, 288), and how many images had too common a hash to compare with all."""
    if len(descriptions) < 2:
        return [], 0
    hashes = _Hashes(descriptions)
    seen = [np.empty(0, np.int64)]
    crowded = np.zeros(len(descriptions), bool)
    for variant in range(len(CROPPINGS)):
        candidates, many = hashes.candidates(variant)
        seen.append(candidates)
        crowded |= many
    keys = np.unique(np.concatenate(seen))
    n = len(descriptions)
    found = []
    for start in range(0, len(keys), PIECE):
        first, second = np.divmod(keys[start : start + PIECE], n)
        same, similarity = compare(descriptions[first], descriptions[second])
        found += [
            Pair(a, b, round(s, 4))
            for a, b, s in zip(first[same].tolist(), second[same].tolist(), similarity[same].tolist(), strict=True)
        ]
    return found, int(crowded.sum())


# (left, top, right, bottom) parts that are cut away; the first is the whole image
CROPPINGS = ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 1, 1))
# what two images are aligned over: every choice of edges at the full part, and all edges at half of it
ALIGNED = (*itertools.product((0, 1), repeat=4), (0.5, 0.5, 0.5, 0.5))


class _Hashes:
    """Bits of every image and of its croppings, and sorted tables of the whole images' bits."""

    def __init__(self, descriptions: np.ndarray) -> None:
        self.n = len(descriptions)
        rng = np.random.default_rng(0)
        self.mean, self.scale = self._statistics(descriptions)
        self.projection = rng.standard_normal((len(self.mean), BITS)).astype(np.float32)
        # Thresholds beside 0, so that the noise of images without contrast decides no bit.
        self.threshold = rng.standard_normal(BITS).astype(np.float32)
        self.brightness = descriptions[:, 0].astype(np.float32)
        bits = min(24, max(12, math.ceil(math.log2(self.n)) + 4))
        self.tables = [np.arange(i, i + bits) for i in range(0, BITS - bits + 1, bits)]
        self.descriptions = descriptions
        self.whole = self._bits(0)

    def _statistics(self, descriptions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        part = descriptions[:: max(1, self.n // 20_000)]
        vectors = cropped(part, CROPPINGS[0], HASHED, 2)
        vectors = np.delete(vectors, 0, axis=1)
        return vectors.mean(0), np.maximum(vectors.std(0), 1.0)  # a gray level: less is noise

    def _bits(self, variant: int) -> np.ndarray:
        """Packed bits (n, BITS / 8) uint8 of one cropping of every image."""
        packed = np.empty((self.n, BITS // 8), np.uint8)
        for start in range(0, self.n, PIECE):
            part = slice(start, start + PIECE)
            vectors = np.delete(cropped(self.descriptions[part], CROPPINGS[variant], HASHED, 2), 0, axis=1)
            packed[part] = np.packbits((vectors - self.mean) / self.scale @ self.projection > self.threshold, axis=1)
        return packed

    def candidates(self, variant: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of an image whose cropping has the hash of a whole image, as first * n + second; and crowded images."""
        own = self.whole if variant == 0 else self._bits(variant)
        found, crowded = [np.empty(0, np.int64)], np.zeros(self.n, bool)
        level = np.clip(np.round(16 * self.brightness), 0, 4095).astype(np.int64)
        for places in self.tables:
            table, ours = (_key(bits, places) << 12 | level for bits in (self.whole, own))
            order = np.argsort(table, kind="stable")
            table = table[order]
            at = np.searchsorted(table, ours)
            for step in range(-REACH, REACH + 1):
                other = at + step
                inside = (other >= 0) & (other < self.n)
                other = np.where(inside, other, 0)
                match = np.flatnonzero(inside & (table[other] >> 12 == ours >> 12))
                if abs(step) == REACH:
                    crowded[match] = True
                partner = order[other[match]]
                near = self._near(own[match], self.whole[partner]) & (partner != match)
                first, second = np.minimum(match, partner)[near], np.maximum(match, partner)[near]
                found.append(first * self.n + second)
        return np.unique(np.concatenate(found)), crowded

    @staticmethod
    def _near(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return ONES[first ^ second].sum(1, dtype=np.int32) <= FAR * BITS


ONES = np.array([bin(i).count("1") for i in range(256)], np.uint8)


def _key(packed: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The bits at ``places`` of packed bits, as one number each."""
    key = np.zeros(len(packed), np.int64)
    for place in places.tolist():
        key = key << 1 | (packed[:, place // 8] >> (7 - place % 8) & 1)
    return key


def cropped(descriptions: np.ndarray, cropping: Sequence[float], luma: int, chroma: int) -> np.ndarray:
    """Descriptions (n, 288) to low frequencies (n, luma^2 + 2 chroma^2) of a part of the images, float32.

    The cosine series is evaluated over the part and transformed again.
    """
    left, top, right, bottom = (CROP * part for part in cropping)
    n, parts = len(descriptions), []
    values = descriptions.astype(np.float32)
    start = 0
    for size, kept in ((LUMA, luma), (CHROMA, chroma), (CHROMA, chroma)):
        plane = values[:, start : start + size * size].reshape(n, size, size)
        rows, columns = _resample(size, kept, top, bottom), _resample(size, kept, left, right)
        parts.append((rows @ plane @ columns.T).reshape(n, -1))
        start += size * size
    return np.concatenate(parts, 1)


def _resample(size: int, kept: int, before: float, after: float) -> np.ndarray:
    """The matrix (kept, size) from cosine coefficients of [0, 1] to those of [before, 1 - after]."""
    if not before and not after:
        return np.eye(kept, size, dtype=np.float32)
    points = 64
    return cosines(kept, points) @ cosines(size, points, before, 1 - after).T / points


def compare(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Are these pairs of descriptions (n, 288) near duplicates; and their similarity, at the best alignment."""
    best = np.full(len(first), np.inf, np.float32)
    similarity, same = np.zeros(len(first), np.float32), np.zeros(len(first), bool)
    whole = [cropped(side, CROPPINGS[0], COMPARED, 3) for side in (first, second)]
    for cropping, side in _alignments():
        part = cropped((first, second)[side], cropping, COMPARED, 3)
        distance, alike, close = _distance(part, whole[1 - side])
        better = distance < best
        best = np.where(better, distance, best)
        similarity = np.where(better, alike, similarity)
        same = np.where(better, close, same)
    return same, similarity


def _alignments() -> Iterator[tuple[Sequence[float], int]]:
    for cropping in ALIGNED:
        yield cropping, 0
        if any(cropping):
            yield cropping, 1


def _distance(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference without the mean colour, relative to the allowed one; correlation; and whether both images are one."""
    means = np.array([0, COMPARED**2, COMPARED**2 + 9])
    colour = np.abs(a[:, means] - b[:, means]).max(1)
    a, b = np.delete(a, means, axis=1), np.delete(b, means, axis=1)
    size_a, size_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    contrast = np.sqrt(size_a * size_b)
    distance = np.linalg.norm(a - b, axis=1) / np.maximum(ABSOLUTE, RELATIVE * contrast)
    flat = contrast < ABSOLUTE / RELATIVE
    alike = np.where(flat & (distance <= 1), 1.0, (a * b).sum(1) / np.maximum(contrast**2, 1e-6))
    return distance, alike, (distance <= 1) & (colour <= COLOUR)
