"""Samples to batches. What a batch holds is a function of (seed, step), whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vitkit.data.augment import Augment, augment_image
from vitkit.data.pixels import Preprocess, normalise, open_image
from vitkit.data.sources import Sample

__all__ = ["Batch", "to_tensor", "training_batches"]


class Batch(NamedTuple):
    """One step's examples."""

    images: Tensor  # (B, C, H, W) float32, preprocessed
    labels: Tensor  # (B,) int64


def to_tensor(pixels: np.ndarray) -> Tensor:
    """float32 (..., H, W, C) of `pixels.prepare` to a tensor (..., C, H, W)."""
    return torch.from_numpy(pixels).movedim(-1, -3).contiguous()


class _Views(Dataset[tuple[np.ndarray, int]]):
    """Random views, addressed by (epoch, index)."""

    def __init__(self, samples: Sequence[Sample], record: Preprocess, augment: Augment, seed: int) -> None:
        self.samples, self.record, self.augment, self.seed = samples, record, augment, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int]:  # type: ignore[override]
        epoch, index = key
        sample = self.samples[index]
        rng = np.random.default_rng([self.seed, epoch, index])
        view = augment_image(open_image(sample.source), self.record, self.augment, rng)
        return normalise(view, self.record), sample.label


class _Stream(Sampler[list[tuple[int, int]]]):
    """Shuffled epochs, one after the other, cut into full batches: step s holds places s*B .. (s+1)*B - 1."""

    def __init__(self, length: int, batch_size: int, steps: range, seed: int) -> None:
        self.length, self.batch_size, self.steps, self.seed = length, batch_size, steps, seed

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in self.steps:
            keys = []
            for place in range(step * self.batch_size, (step + 1) * self.batch_size):
                if place // self.length != epoch:
                    epoch = place // self.length
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                keys.append((epoch, int(order[place % self.length])))
            yield keys


def _collate(views: list[tuple[np.ndarray, int]]) -> Batch:
    return Batch(to_tensor(np.stack([pixels for pixels, _ in views])), torch.tensor([label for _, label in views]))


def training_batches(
    samples: Sequence[Sample],
    record: Preprocess,
    augment: Augment,
    *,
    batch_size: int,
    steps: range,
    seed: int,
    workers: int,
) -> DataLoader[Batch]:
    """Batches of augmented views for ``steps`` (a range, so that a resumed run goes on where it stopped).

    Raises, while iterating:
        ImageError: a file that cannot be decoded any more.
    """
    return DataLoader(
        _Views(samples, record, augment, seed),  # type: ignore[arg-type]
        batch_sampler=_Stream(len(samples), batch_size, steps, seed),
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
    )
