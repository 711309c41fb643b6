"""Samples to batches. What a batch holds is a function of (seed, step), whatever the number of workers and ranks."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.pixels import MAX_PIXELS, Bands, ImageError, Picture, Preprocess, normalise, open_picture
from vitkit.data.repeats import ViewKey, repeated_keys, view_generator
from vitkit.data.resized import Resized
from vitkit.data.sources import Sample
from vitkit.data.targets import targets

__all__ = ["Augmentation", "Batch", "spare_cores", "to_tensor", "training_batches"]

SHRUNK = 2  # training views are cut from images of at most this many times the model's size: decoding once is enough
CACHE_BYTES = 2**29  # of shrunk images that all workers together keep


class Augmentation(Protocol):
    """How a random view is made; `Augment`, or the reference's."""

    @property
    def whole(self) -> bool:
        """Does it need images in their full size, since shrinking them first would change its numbers?"""
        ...

    def __call__(self, image: Picture, record: Preprocess, rng: np.random.Generator) -> np.ndarray:
        """An upright image to one view (H, W, C) of the record's size, uint8 or float32 in [0, 1]."""
        ...


def spare_cores(shared_by: int = 1) -> int:
    """Processes that prepare images while the rest computes: all cores but one, at most 8, of a share of the machine."""
    return max(1, min(8, (os.cpu_count() or 1) // shared_by - 1))


class Batch(NamedTuple):
    """One step's examples."""

    images: Tensor  # (B, C, H, W) float32, preprocessed
    labels: Tensor  # (B,) int64; (B, O) float32 in multi-label data, 1 for each class of the image, and of mixed images
    places: Tensor | None = None  # (B,) int64, each example's place in the run's stream of examples

    def part(self, start: int, stop: int, device: torch.device) -> Batch:
        """Some of the examples, on a device."""
        return Batch(*(None if field is None else field[start:stop].to(device) for field in self))  # type: ignore[arg-type]


def to_tensor(pixels: np.ndarray) -> Tensor:
    """float32 (..., H, W, C) of `pixels.prepare` to a tensor (..., C, H, W)."""
    return torch.from_numpy(pixels).movedim(-1, -3).contiguous()


class _View(NamedTuple):
    """One random view, or why its file cannot be read any more."""

    pixels: np.ndarray  # (H, W, C), uint8 of RGB, float32 of other channels
    label: int
    labels: tuple[int, ...]
    error: str


class _Views(Dataset[_View]):
    """Random views, addressed by their keys."""

    def __init__(
        self,
        samples: Sequence[Sample],
        record: Preprocess,
        augment: Augmentation,
        seed: int,
        cache_bytes: int,
        max_pixels: int,
        resized: Resized | None,
    ) -> None:
        self.samples, self.record, self.augment, self.seed = samples, record, augment, seed
        self.max_pixels = max_pixels
        self.resized = None if augment.whole else resized  # whole images take too much room
        self.side = math.inf if augment.whole else SHRUNK * max(record.image_size)
        self.cache: dict[int, Picture] = {}
        self.room = cache_bytes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: ViewKey) -> _View:
        sample = self.samples[key.image]
        try:
            view = self.augment(self._open(key.image), self.record, view_generator(self.seed, key))
        except ImageError as error:
            return _View(np.empty(0, np.uint8), sample.label, sample.labels, f"{sample.name}: {error}")
        return _View(view, sample.label, sample.labels, "")

    def _open(self, index: int) -> Picture:
        """The upright image, its short side at most `SHRUNK` times the size unless it must be whole; kept while there is room."""
        if index in self.cache:
            return self.cache[index]
        source = self.samples[index].source
        if self.resized is None:
            image = self._shrunk(source)
        else:  # the limit is among the settings, for an image that another run's limit let pass
            image = self.resized.image(source, f"{self.side}-{self.record.channels}-{self.max_pixels}", self._shrunk)
        bytes_ = (4 * self.record.channels if isinstance(image, Bands) else 3) * image.width * image.height
        if bytes_ <= self.room:
            self.cache[index] = image
            self.room -= bytes_
        return image

    def _shrunk(self, source: ImageSource) -> Picture:
        image = open_picture(source, self.record.channels, self.max_pixels)
        if (scale := self.side / min(image.size)) < 1:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        return image


class _Stream(Sampler[list[ViewKey]]):
    """The views of each step: those of the global batch, or of the positions in it that are asked for."""

    def __init__(
        self,
        length: int,
        batch_size: int,
        steps: range,
        seed: int,
        positions: Sequence[int],
        repeats: int,
    ) -> None:
        self.positions, self.steps = positions, steps
        self.order = (length, batch_size, steps, seed, repeats)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[ViewKey]]:
        for keys in repeated_keys(*self.order):
            yield [keys[position] for position in self.positions]


def _end_with_parent(_worker: int) -> None:
    """Make a loader process end when its parent was killed, whatever it is doing.

    torch's own look at the parent comes every 5 seconds and only between batches: a process that hands on a batch when
    nobody reads the pipe any more would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)


class _Classes(NamedTuple):
    """Of one view: what `targets` reads."""

    label: int
    labels: tuple[int, ...]


class _Stacked(NamedTuple):
    """The views of a batch, or the first error of one of them."""

    pixels: np.ndarray  # (B, H, W, C)
    classes: list[_Classes]
    error: str


def _collate(views: list[_View]) -> _Stacked:
    # Arrays go through a pipe. Tensors would go through shared memory, which file-size limits and small containers break.
    if broken := [view.error for view in views if view.error]:
        return _Stacked(np.empty(0, np.uint8), [], broken[0])
    return _Stacked(
        np.stack([view.pixels for view in views]), [_Classes(view.label, view.labels) for view in views], ""
    )


def _to_input(pixels: np.ndarray, record: Preprocess) -> Tensor:
    """`to_tensor` of `normalise`; where each channel has but 256 values, by looking them up."""
    if pixels.dtype != np.uint8:
        return to_tensor(normalise(pixels, record))
    table = normalise(np.repeat(np.arange(256, dtype=np.uint8)[:, None], record.channels, axis=1), record)  # (256, C)
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))  # (B, C, H, W)
    values = np.empty(planes.shape, np.float32)
    for channel in range(record.channels):
        values[:, channel] = table[:, channel][planes[:, channel]]
    return torch.from_numpy(values)


def training_batches(
    samples: Sequence[Sample],
    record: Preprocess,
    augment: Augmentation,
    *,
    batch_size: int,
    steps: range,
    seed: int,
    workers: int,
    max_pixels: int = MAX_PIXELS,
    outputs: int | None = None,
    positions: Sequence[int] | None = None,
    repeats: int = 1,
    resized: Resized | None = None,
) -> Iterator[Batch]:
    """Batches of augmented views for ``steps`` (a range, so that a resumed run goes on where it stopped).

    Args:
        outputs: the number of classes of multi-label data; None where each image has one class.
        positions: in the global batch of ``batch_size``, which of its examples are wanted; None: all.
        repeats: how often an image is in a batch, see `repeats`.
        resized: where decoded images are kept between runs; changes no view.

    Raises:
        UserError: a file that cannot be decoded any more.
    """
    wanted = range(batch_size) if positions is None else positions
    within = torch.tensor(wanted)
    with warnings.catch_warnings():  # torch advises on the number of workers, which the user chose
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[_Stacked] = DataLoader(
            _Views(samples, record, augment, seed, CACHE_BYTES // max(1, workers), max_pixels, resized),  # type: ignore[arg-type]
            batch_sampler=_Stream(len(samples), batch_size, steps, seed, wanted, repeats),
            num_workers=workers,
            collate_fn=_collate,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_end_with_parent,
        )
    for step, views in zip(steps, loader, strict=True):
        if views.error:
            raise UserError(f"an image that could be read before training cannot be read now: {views.error}")
        labels = torch.from_numpy(targets(views.classes, outputs))
        yield Batch(_to_input(views.pixels, record), labels, within + step * batch_size)
