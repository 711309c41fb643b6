"""A small multi-label set: each image holds any of three coloured shapes, possibly none."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vitkit.data.sources import Sample, Source

SHAPES = {"disc": (220, 60, 50), "square": (60, 180, 70), "stripe": (60, 80, 220)}


def draw(labels: Sequence[int], rng: np.random.Generator, size: int = 16) -> bytes:
    """A PNG of the shapes on grey noise, each in its colour at a place of its own."""
    noise = rng.normal(128, 20, (size, size, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    for label in labels:
        x, y = rng.integers(0, size - 7, 2).tolist()
        colour = list(SHAPES.values())[label]
        if label == 0:
            pen.ellipse((x, y, x + 6, y + 6), fill=colour)
        elif label == 1:
            pen.rectangle((x, y, x + 5, y + 5), fill=colour)
        else:
            pen.line((x, y + 6, x + 6, y), fill=colour, width=3)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def shape_samples(split: str, count: int, seed: int) -> list[Sample]:
    """Every combination of shapes about equally often."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        labels = tuple(label for label in range(3) if number >> label & 1)
        found.append(Sample(f"{split}/{number:03d}.png", draw(labels, rng), -1, labels))
    return found


def shapes(*, train: int = 64, test: int = 32, name: str = "shapes") -> Source:
    """The set, with a test split where ``test`` is not 0."""
    splits = {"train": shape_samples("train", train, 0)}
    if test:
        splits["test"] = shape_samples("test", test, 1)
    return Source(name, tuple(SHAPES), splits, multilabel=True)
