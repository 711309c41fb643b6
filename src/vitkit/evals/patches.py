"""Features of thumbnails without any model: patches compared with filters learnt from the data itself, in seconds.

Patches are contrast-normalised and whitened, filters are their spherical k-means, responses above and below a threshold are
averaged over the quarters of the image and over its mirror image.
Source: Coates and Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning, AISTATS 2011; the two-sided threshold
is that of Coates and Ng, ICML 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitkit.console import Console
from vitkit.data.thumbnails import SIDE, Thumbnails, to_rgb

__all__ = ["count_filters", "patch_features"]

PATCH, STRIDE = 6, 2
GRID = (SIDE - PATCH) // STRIDE + 1  # positions of a patch, each way; even, so that quarters are equal
LEARNT = 30_000  # patches that the filters are learnt from
ROUNDS = 6  # of k-means
BLOCKS = 250  # places of the data that these patches are from
THRESHOLD = 0.25
VALUES = 128_000_000  # features in all: 256 MB, and about a minute on two cores
MOST, LEAST = 400, 32  # filters
BATCH = 32


def count_filters(images: int) -> int:
    """How many filters keep time and memory bounded, and are not too many to learn from so few images."""
    return max(LEAST, min(MOST, images // 10, VALUES // (8 * max(1, images))))


@torch.inference_mode()
def patch_features(thumbnails: Thumbnails, console: Console, *, filters: int, seed: int = 0) -> Tensor:
    """Features (n, 8 * filters) float16 of every thumbnail, a function of the thumbnails and ``seed``."""
    n = len(thumbnails)
    weight, offset = _learn(thumbnails, filters, seed)
    features = torch.empty(n, 8 * filters, dtype=torch.float16)
    quarters = _quarters()
    starts = range(0, n, BATCH)
    for start in console.track(starts, len(starts), "comparing patches", unit="batch"):
        images = _images(thumbnails, start, start + BATCH)
        responses = sum(_respond(side, weight, offset, quarters) for side in (images, images.flip(-1)))
        features[start : start + BATCH] = responses.half()  # type: ignore[union-attr]
    return features


def _images(thumbnails: Thumbnails, start: int, stop: int) -> Tensor:
    """RGB (B, 3, 32, 32) float32, gray levels around 0."""
    return torch.from_numpy(to_rgb(thumbnails.read(start, stop))).movedim(-1, 1).float() - 128


def _patches(images: Tensor) -> Tensor:
    """Contrast-normalised patches (B, GRID * GRID, 108)."""
    patches = images.unfold(2, PATCH, STRIDE).unfold(3, PATCH, STRIDE).permute(0, 2, 3, 1, 4, 5)
    patches = patches.reshape(len(images), GRID * GRID, -1)
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, correction=0)
    return (patches - mean) * (variance + 10).rsqrt()  # 10 squared gray levels: the source's


def _learn(thumbnails: Thumbnails, filters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Filters (108, K) and offsets (K,): a patch's response is patch @ filters - offsets."""
    generator = torch.Generator().manual_seed(seed)
    starts = range(0, len(thumbnails), BATCH)
    chosen = torch.randperm(len(starts), generator=generator)[:BLOCKS].sort().values.tolist()
    each = max(1, LEARNT // len(chosen))
    taken = []
    for block in chosen:
        patches = _patches(_images(thumbnails, starts[block], starts[block] + BATCH)).flatten(0, 1)
        taken.append(patches[torch.randint(len(patches), (each,), generator=generator)])
    patches = torch.cat(taken)
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    whitening = vectors @ torch.diag((values.clamp(min=0) + 0.1).rsqrt()) @ vectors.T  # 0.1: the source's
    white = (patches - mean) @ whitening
    centres = _unit(white[torch.randint(len(white), (filters,), generator=generator)])
    for _ in range(ROUNDS):
        strength, nearest = (white @ centres.T).max(1)
        moved = torch.zeros_like(centres).index_add_(0, nearest, strength[:, None] * white)
        empty = moved.norm(dim=1) < 1e-6
        moved[empty] = white[torch.randint(len(white), (int(empty.sum()),), generator=generator)]
        centres = _unit(moved)
    weight = whitening @ centres.T
    return weight, mean @ weight


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _quarters() -> Tensor:
    """The matrix (4, GRID * GRID) that averages over the quarters of the image."""
    half = torch.arange(GRID) // (GRID // 2)
    quarter = (2 * half[:, None] + half[None, :]).flatten()
    return torch.nn.functional.one_hot(quarter, 4).T.float() / (GRID // 2) ** 2


def _respond(images: Tensor, weight: Tensor, offset: Tensor, quarters: Tensor) -> Tensor:
    """Pooled responses (B, 8 K) float32. bfloat16 inside: its errors are far below the responses' spread."""
    low = torch.bfloat16
    response = (_patches(images).to(low) @ weight.to(low)).sub_(offset.to(low))  # (B, GRID * GRID, K)
    above = quarters.to(low) @ (response - THRESHOLD).relu_()
    below = quarters.to(low) @ response.neg_().sub_(THRESHOLD).relu_()
    return torch.cat([above, below], -1).float().flatten(1) / 2
