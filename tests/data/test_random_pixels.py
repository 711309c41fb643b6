"""Random images are whole pixels, each another, and the same every time."""

from __future__ import annotations

import numpy as np

from vitkit.data.pixels import Preprocess
from vitkit.data.random_pixels import random_images
from vitkit.engines.exported import pixels_of


def test_random_pixels_differ_and_are_whole() -> None:
    record = Preprocess((24, 40))
    images = random_images(record, 5)
    assert images.shape == (5, 3, 24, 40)
    crops = pixels_of(images, record)
    assert crops.dtype == np.uint8
    assert len({crop.tobytes() for crop in crops}) == 5
    assert (random_images(record, 5) == images).all()
    two = random_images(Preprocess((24, 40), mean=(0.5, 0.2), std=(1.0, 1.0)), 2)
    assert two.shape == (2, 2, 24, 40)
