"""Telling images unlike the training images: the promise about false alarms, and that strange features are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.unknown import fit_unknown, read_unknown, write_unknown


def draw(n: int, seed: int, D: int = 16) -> np.ndarray:
    """Features on a slanted 4-dimensional sheet of a D-dimensional space, with a little noise."""
    sheet = np.random.default_rng(0).normal(size=(4, D))
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 4)) @ sheet + 0.05 * rng.normal(size=(n, D)) + 3).astype(np.float32)


def test_false_alarms_keep_to_the_stated_rate_and_strange_features_are_told() -> None:
    rates = []
    for seed in range(20):
        detector = fit_unknown(draw(200, 3 * seed), draw(60, 3 * seed + 1))
        assert detector is not None
        rates.append(np.mean([detector.is_unknown(row) for row in draw(200, 3 * seed + 2)]))
        strange = (
            np.random.default_rng(1000 + seed).normal(3, 2, (50, 16)).astype(np.float32)
        )  # as large, off the sheet
        assert all(detector.is_unknown(row) for row in strange)
    assert np.mean(rates) <= 0.05


def test_the_threshold_is_the_promised_rank_of_the_held_out_distances() -> None:
    held = draw(39, 1)
    detector = fit_unknown(draw(100, 0), held)
    assert detector is not None
    distances = sorted(detector.distance(row) for row in held)
    assert detector.threshold == distances[37]  # ceil(40 * 0.95) = 38th of 39
    assert detector.held_out == 39


def test_too_few_held_out_images_make_no_promise() -> None:
    assert fit_unknown(draw(50, 0), draw(18, 1)) is None
    assert fit_unknown(draw(50, 0), draw(19, 1)) is not None


def test_fewer_images_than_features_and_constant_features_still_give_distances() -> None:
    few = draw(8, 0)
    few[:, 3] = 1.0
    detector = fit_unknown(few, draw(30, 1))
    assert detector is not None
    assert np.isfinite(detector.threshold)
    same = fit_unknown(np.ones((30, 4), np.float32), np.ones((30, 4), np.float32))
    assert same is not None
    assert not same.is_unknown(np.ones(4, np.float32))
    assert same.is_unknown(np.full(4, 2, np.float32))


def test_features_that_are_no_numbers_are_refused() -> None:
    broken = draw(30, 0)
    broken[0, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        fit_unknown(broken, draw(30, 1))


def test_what_was_written_tells_the_same_distances(tmp_path: Path) -> None:
    detector = fit_unknown(draw(100, 0), draw(39, 1))
    assert detector is not None
    write_unknown(tmp_path, detector)
    read = read_unknown(tmp_path, detector.to_dict(), 16)
    assert read is not None
    assert read.threshold == detector.threshold
    for row in draw(20, 2):
        assert read.distance(row) == detector.distance(row)


@pytest.mark.parametrize(
    ("facts", "width", "message"),
    [
        ({"held_out": 39}, 16, "unknown lacks a threshold"),
        ({"threshold": 1.0, "held_out": 39}, 8, "does not fit features of width 8"),
    ],
)
def test_a_detector_that_does_not_fit_is_one_clear_message(
    tmp_path: Path, facts: dict[str, float], width: int, message: str
) -> None:
    detector = fit_unknown(draw(100, 0), draw(39, 1))
    assert detector is not None
    write_unknown(tmp_path, detector)
    with pytest.raises(UserError, match=message):
        read_unknown(tmp_path, facts, width)
    (tmp_path / "unknown.safetensors").unlink()
    with pytest.raises(UserError, match="cannot read"):
        read_unknown(tmp_path, {"threshold": 1.0, "held_out": 39}, 16)
