"""Mirrored images: what tiny pictures say of digits and of things that may stand either way round."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Sample
from vitkit.data.sources import read_source
from vitkit.finetuning.mirror import mirror_pixels

RECORD = Preprocess((32, 32), fit="squash")


def bar(side: str, seed: int) -> bytes:
    """A noisy picture with a bright bar at its left or right."""
    pixels = np.random.default_rng(seed).integers(0, 90, (16, 16, 3), dtype=np.uint8)
    pixels[:, :4] = 220
    image = Image.fromarray(pixels if side == "left" else pixels[:, ::-1])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def samples(count: int, label: object, seed: int) -> list[Sample]:
    made = []
    for number in range(count):
        side = "left" if (seed + number) % 2 else "right"
        made.append(Sample(f"{number}.png", bar(side, seed + number), label(side, number)))  # type: ignore[operator]
    return made


def test_the_side_that_tells_the_class_forbids_mirroring() -> None:
    found = mirror_pixels(*(samples(40, lambda side, n: int(side == "left"), s) for s in (0, 1000)), 2, RECORD, 10**6)
    assert found is not None
    assert found.right > 0.9
    assert found.mirrored < 0.1
    assert found.matters


def test_things_that_stand_either_way_may_be_mirrored() -> None:
    """Every side in every class: the label has nothing to do with it."""
    found = mirror_pixels(*(samples(40, lambda side, n: n // 2 % 2, s) for s in (0, 1000)), 2, RECORD, 10**6)
    assert found is not None
    assert not found.matters


def test_digits_are_not_mirrored() -> None:
    pytest.importorskip("sklearn")
    train = read_source("digits").splits["train"]
    found = mirror_pixels(train[::2], train[1::2], 10, RECORD, 10**6)
    assert found is not None
    assert found.matters


def test_a_few_lost_answers_are_chance() -> None:
    found = mirror_pixels(*(samples(6, lambda side, n: int(side == "left"), s) for s in (0, 1000)), 2, RECORD, 10**6)
    assert found is not None
    assert not found.matters


def test_a_file_that_is_gone_says_nothing(tmp_path: Path) -> None:
    gone = [Sample("gone.png", tmp_path / "gone.png", 0)]
    assert mirror_pixels(gone, gone, 2, RECORD, 10**6) is None
