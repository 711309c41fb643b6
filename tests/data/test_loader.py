"""Training batches: a function of seed and step, whatever the number of workers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit.config import UserError
from vitkit.data.augment import Augment
from vitkit.data.loader import Batch, _to_input, to_tensor, training_batches
from vitkit.data.pixels import Preprocess, normalise, open_image, prepare
from vitkit.data.sources import Sample, read_source

RECORD = Preprocess((12, 16))
AUGMENT = Augment(crop_area=0.3, flip=True, jitter=0.2, shift=0.1)


def batches(
    samples: list[Sample], steps: range, *, workers: int = 0, seed: int = 0, augment: Augment = AUGMENT
) -> list[Batch]:
    return list(training_batches(samples, RECORD, augment, batch_size=5, steps=steps, seed=seed, workers=workers))


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.labels, y.labels)


@pytest.fixture
def numbered(flat: Path) -> list[Sample]:
    """24 images; each label is the image's index, so that a batch tells which images it holds."""
    return [sample._replace(label=i) for i, sample in enumerate(read_source(flat).splits["all"])]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(numbered: list[Sample], workers: int) -> None:
    assert_equal(batches(numbered, range(7), workers=workers), batches(numbered, range(7)))


def test_a_resumed_range_is_the_tail_of_the_full_one(numbered: list[Sample]) -> None:
    full = batches(numbered, range(12))
    for start in (3, 5, 11):
        assert_equal(batches(numbered, range(start, 12)), full[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_positions_are_that_part_of_the_global_batch(numbered: list[Sample], workers: int) -> None:
    given = {"batch_size": 6, "steps": range(2, 5), "seed": 3, "workers": workers, "repeats": 2}
    whole = list(training_batches(numbered, RECORD, AUGMENT, **given))
    part = list(training_batches(numbered, RECORD, AUGMENT, positions=[1, 4, 5], **given))
    for x, y in zip(whole, part, strict=True):
        for all_, some in zip(x, y, strict=True):
            assert torch.equal(all_[[1, 4, 5]], some)
    first = whole[0]
    assert first.places.tolist() == list(range(12, 18))
    assert first.labels[:3].tolist() == first.labels[3:].tolist()  # the same images again, in other views
    assert not torch.equal(first.images[:3], first.images[3:])


def test_every_epoch_sees_each_image_once_in_another_order(numbered: list[Sample]) -> None:
    labels = torch.cat([batch.labels for batch in batches(numbered, range(15))]).tolist()  # 75 places, 3 epochs of 24
    epochs = [labels[start : start + 24] for start in (0, 24, 48)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(24))
    assert epochs[0] != epochs[1] != epochs[2]


def test_views_change_with_the_epoch_and_the_seed(numbered: list[Sample]) -> None:
    def views(seed: int) -> list[dict[int, torch.Tensor]]:
        seen: list[dict[int, torch.Tensor]] = [{}, {}]
        for step, batch in enumerate(batches(numbered[:5], range(2), seed=seed)):
            seen[step] = dict(zip(batch.labels.tolist(), batch.images, strict=True))
        return seen

    first, second = views(0)
    other = views(1)[0]
    for label in range(5):
        assert not torch.equal(first[label], second[label])
        assert not torch.equal(first[label], other[label])


def test_without_augmentation_a_batch_holds_what_evaluation_sees(numbered: list[Sample]) -> None:
    (batch,) = batches(numbered, range(1), augment=Augment())
    assert batch.images.shape == (5, 3, 12, 16)
    assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
    for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
        assert torch.equal(image, to_tensor(prepare(open_image(numbered[label].source), RECORD)))


def test_a_set_smaller_than_a_batch_goes_round(numbered: list[Sample]) -> None:
    (batch,) = batches(numbered[:2], range(1))
    assert Counter(batch.labels.tolist()).most_common() in ([(0, 3), (1, 2)], [(1, 3), (0, 2)])


def test_a_file_that_became_unreadable_stops_with_its_reason(numbered: list[Sample]) -> None:
    Path(numbered[3].source).unlink()
    with pytest.raises(
        UserError, match=r"could be read before training cannot be read now: blue/003\.png: does not exist"
    ):
        batches(numbered, range(5))


def test_pixels_become_channels_first() -> None:
    pixels = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 2, 4)
    assert tensor.is_contiguous()
    assert tensor[2, 1, 3] == pixels[1, 3, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_of_multi_label_data_are_rows_of_zeros_and_ones(numbered: list[Sample], workers: int) -> None:
    several = [sample._replace(label=-1, labels=(i % 3, 3) if i % 2 else ()) for i, sample in enumerate(numbered)]
    given = {"batch_size": 24, "steps": range(1), "seed": 0}
    (batch,) = training_batches(several, RECORD, AUGMENT, workers=workers, outputs=4, **given)
    (order,) = training_batches(numbered, RECORD, AUGMENT, workers=workers, **given)
    assert (batch.labels.shape, batch.labels.dtype) == ((24, 4), torch.float32)
    for row, index in zip(batch.labels.tolist(), order.labels.tolist(), strict=True):
        assert tuple(k for k, on in enumerate(row) if on) == several[index].labels
    assert torch.equal(batch.images, order.images)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_looking_values_up_changes_no_bit_of_them(channels: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 7, 6, channels), np.uint8)
    record = Preprocess((7, 6), mean=tuple(rng.uniform(0, 1, channels)), std=tuple(rng.uniform(0.1, 1, channels)))
    assert torch.equal(_to_input(pixels, record), to_tensor(normalise(pixels, record)))
    values = rng.uniform(0, 1, (2, 7, 6, channels)).astype(np.float32)
    assert torch.equal(_to_input(values, record), to_tensor(normalise(values, record)))
