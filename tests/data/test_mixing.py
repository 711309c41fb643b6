"""Mixup and cutmix: values by hand, timm's boxes, and the same results however the batch is cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from peers import peer
from vitkit.config import UserError
from vitkit.data.mixing import Mix, Mixing, cut_box, draw_mix, mix_batch, mix_part, one_hot, part_with_neighbour

SIZE = (12, 20)


def batch(count: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, *SIZE, generator=generator)
    return images, one_hot(torch.randint(0, classes, (count,), generator=generator), classes)


def test_mixup_by_hand_rolls_by_one() -> None:
    images = torch.tensor([0.0, 10.0, 30.0]).reshape(3, 1, 1, 1)
    mixed, targets = mix_batch(images, torch.eye(3), Mix(0.75))
    assert mixed.flatten().tolist() == [7.5, 7.5, 25.0]  # the first with the last
    assert targets.tolist() == [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]


def test_cutmix_by_hand_shows_the_one_before_in_the_box() -> None:
    images = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 4, 5).clone()
    mixed, targets = mix_batch(images, torch.eye(3), Mix(1 - 6 / 20, (1, 2, 3, 5)))
    box = torch.zeros(4, 5, dtype=torch.bool)
    box[1:3, 2:5] = True
    for i in range(3):
        assert (mixed[i][:, box] == (i - 1) % 3).all()
        assert (mixed[i][:, ~box] == i).all()
    assert torch.allclose(targets[0], torch.tensor([0.7, 0, 0.3]))
    assert (images[0] == 0).all()  # the images given stay as they are


@pytest.mark.parametrize("mix", [Mix(0.8), Mix(0.9, (2, 3, 5, 11)), None])
@pytest.mark.parametrize("cuts", [(0, 12), (0, 6, 12), (0, 3, 6, 9, 12), (0, 5, 6, 12), tuple(range(13))])
def test_results_do_not_depend_on_how_the_batch_is_cut(mix: Mix | None, cuts: tuple[int, ...]) -> None:
    images, targets = batch()
    whole, labels = mix_batch(images, targets, mix)
    parts = []
    for start, stop in itertools.pairwise(cuts):
        places = part_with_neighbour(12, start, stop)
        assert len(places) == stop - start + 1
        parts.append(mix_part(images[places], targets[places], mix))
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)  # every bit
    assert torch.equal(torch.cat([part for _, part in parts]), labels)
    assert torch.allclose(labels.sum(1), torch.ones(12))


def test_the_neighbour_of_the_first_is_the_last() -> None:
    assert part_with_neighbour(8, 0, 4) == [7, 0, 1, 2, 3]
    assert part_with_neighbour(8, 4, 8) == [3, 4, 5, 6, 7]
    for start, stop in ((0, 9), (3, 3), (-1, 2)):
        with pytest.raises(UserError, match=f"places {start} to {stop} are no part of a batch of 8"):
            part_with_neighbour(8, start, stop)


def draws(mixing: Mixing, size: tuple[int, int] = SIZE) -> list[Mix]:
    found = [draw_mix(mixing, size, 3, step) for step in range(4000)]
    return [mix for mix in found if mix]


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_mixup_draws_the_larger_of_a_and_1_minus_a_from_beta(p: float) -> None:
    weights = np.array([mix.weight for mix in draws(Mixing(mixup=p))])
    a = np.random.default_rng(0).beta(p, p, 200_000)
    wanted = np.maximum(a, 1 - a)
    assert weights.min() >= 0.5
    for level in (0.1, 0.5, 0.9):
        assert abs(np.quantile(weights, level) - np.quantile(wanted, level)) < 0.03
    assert abs(weights.mean() - wanted.mean()) < 0.01


def test_cutmix_weighs_labels_by_the_exact_area() -> None:
    found = draws(Mixing(cutmix=1.0), (120, 200))
    for mix in found:
        assert mix.box is not None
        top, left, bottom, right = mix.box
        assert 0 <= top <= bottom <= 120
        assert 0 <= left <= right <= 200
        assert mix.weight == 1 - (bottom - top) * (right - left) / 24_000
    shares = np.array([1 - mix.weight for mix in found])
    rng = np.random.default_rng(0)
    side = np.sqrt(rng.beta(1, 1, 200_000))  # of the box: mean part of an axis that remains after cutting at its ends
    wanted = np.mean((side - side**2 / 4) ** 2)
    assert abs(shares.mean() - wanted) < 0.02


def test_boxes_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    timm_mixup = peer("timm.data.mixup")
    rng = np.random.default_rng(0)
    for _ in range(300):
        share = rng.beta(1, 1)
        centers = [int(rng.integers(12)), int(rng.integers(20))]
        given = list(centers)
        monkeypatch.setattr(timm_mixup.np.random, "randint", lambda low, high, size=None: given.pop(0))  # noqa: B023
        (top, bottom, left, right), weight = timm_mixup.cutmix_bbox_and_lam((1, 3, *SIZE), share)
        side = np.sqrt(1 - share)
        box = cut_box(SIZE, (int(12 * side), int(20 * side)), (centers[0], centers[1]))
        assert box == (top, left, bottom, right)
        assert 1 - (box[2] - box[0]) * (box[3] - box[1]) / 240 == pytest.approx(weight)


def test_draws_are_a_function_of_seed_and_step() -> None:
    both = Mixing(mixup=0.8, cutmix=1.0, switch=0.25, probability=0.6)
    first, again = ([draw_mix(both, SIZE, 7, step) for step in range(3000)] for _ in range(2))
    assert first == again
    assert first != [draw_mix(both, SIZE, 8, step) for step in range(3000)]
    mixed = [mix for mix in first if mix]
    assert abs(len(mixed) / 3000 - 0.6) < 0.03
    assert abs(sum(mix.box is not None for mix in mixed) / len(mixed) - 0.25) < 0.04
    assert len({mix.weight for mix in mixed if mix.box is None}) > 1000


def test_nothing_is_mixed_unless_asked() -> None:
    images, targets = batch()
    for off in (Mixing(), Mixing(mixup=0.2, probability=0)):
        assert not off.on
        assert draw_mix(off, SIZE, 0, 0) is None
    assert Mixing(mixup=0.2).on
    assert mix_batch(images, targets, None) == (images, targets)


def test_targets_must_be_soft() -> None:
    images, _ = batch(3)
    assert one_hot(torch.tensor([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
    several = torch.tensor([[1.0, 1.0, 0.0]])
    assert torch.equal(one_hot(several, 3), several)
    with pytest.raises(UserError, match=r"soft targets of shape \(images, classes\), got torch.int64 of \(3,\)"):
        mix_batch(images, torch.tensor([0, 1, 2]), Mix(0.7))


@pytest.mark.parametrize("values", [{"mixup": -0.1}, {"cutmix": float("nan")}, {"switch": 1.5}, {"probability": -1.0}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        Mixing(**values)
