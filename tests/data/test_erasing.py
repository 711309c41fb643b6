"""Random erasing: what, where and how often, beside timm's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from peers import peer
from vitkit.config import UserError
from vitkit.data.erasing import Erase, erase

MEAN, STD = np.array([0.5, 0.4, 0.3]), np.array([0.25, 0.2, 0.1])


def views(how: Erase, count: int, size: tuple[int, int] = (32, 40)) -> list[np.ndarray]:
    """Erased views of an image of fives, as the model sees them."""
    found = []
    for seed in range(count):
        image = np.full((*size, 3), 5, np.float32)
        out = erase(image, how, MEAN, STD, np.random.default_rng(seed))
        assert out.dtype == np.float32
        found.append(np.where(out == 5, 99, (out - MEAN) / STD))
    return found


def test_it_happens_as_often_as_asked() -> None:
    erased = [(view != 99).any() for view in views(Erase(0.25), 1000)]
    assert abs(np.mean(erased) - 0.25) < 0.05
    assert not any((view != 99).any() for view in views(Erase(), 20))


def test_one_rectangle_of_mean_colour_is_zero_to_the_model() -> None:
    for view in views(Erase(1.0), 100):
        hole = (view != 99).any(-1)
        rows, columns = hole.any(1).nonzero()[0], hole.any(0).nonzero()[0]
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert np.abs(view[hole]).max() < 1e-6


def test_noise_is_standard_normal_to_the_model() -> None:
    pixels = np.concatenate([view[view != 99] for view in views(Erase(1.0, mode="pixel"), 200)])
    assert abs(pixels.mean()) < 0.02
    assert abs(pixels.std() - 1) < 0.02
    assert len(np.unique(pixels.round(4))) > 20_000
    for view in views(Erase(1.0, mode="rand"), 20):
        assert len(np.unique(view[view != 99].reshape(-1, 3).round(4), axis=0)) == 1


def test_areas_and_shapes_are_distributed_as_timms() -> None:
    module = peer("timm.data.random_erasing")
    timms = module.RandomErasing(probability=1.0, device="cpu")
    random.seed(0)
    theirs = []
    for _ in range(1500):
        hole = (timms(torch.full((3, 32, 40), 5.0)) != 5)[0].numpy()
        theirs.append((hole.sum() / 1280, hole.any(1).sum() / hole.any(0).sum()))
    ours = []
    for view in views(Erase(1.0), 1500):
        hole = (view != 99).any(-1)
        ours.append((hole.sum() / 1280, hole.any(1).sum() / hole.any(0).sum()))
    for column in range(2):
        for level in (0.1, 0.5, 0.9):
            a, b = (np.quantile(np.array(found)[:, column], level) for found in (theirs, ours))
            assert abs(a - b) < 0.1 * max(a, b) + 0.01


def test_several_rectangles_share_the_area_and_reach_the_borders() -> None:
    holes = [(view != 99).any(-1) for view in views(Erase(1.0, count=(3, 3)), 300)]
    assert max(hole.mean() for hole in holes) < 1 / 3 + 0.03
    everywhere = np.any(holes, axis=0)
    assert everywhere.all()


def test_what_does_not_fit_is_left_out() -> None:
    assert (views(Erase(1.0, area=(0.9, 1.0), aspect=(0.3, 0.3)), 5)[0] == 99).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"probability": 1.5}, r"probability to erase must be in \[0, 1\]"),
        ({"mode": "pixels"}, "known: const, rand, pixel. Did you mean 'pixel'"),
        ({"area": (0.5, 0.1)}, "erase_area must be two positive numbers, the smaller first"),
        ({"area": (0.5, 1.1)}, "erase_area is of parts of the image, at most 1"),
        ({"aspect": (0.0, 1.0)}, "erase_aspect"),
        ({"count": (0, 1)}, "erase_count"),
        ({"count": (1, 1.5)}, "erase_count must be two whole numbers"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Erase(**values)  # type: ignore[arg-type]
