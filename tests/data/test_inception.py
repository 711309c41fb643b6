"""The inception crop: TensorFlow's geometry by hand and in numbers, not torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitkit.data.inception import inception_box, inception_crop
from vitkit.data.resizing import CropBox, resize, resize_bilinear

# (height, width) -> mean, median, 5 % and 95 % quantile of the crop's part of the image, from TensorFlow's own op: 20,000 draws
# with TensorFlow 2.21; another 6,000 of version 2.15 gave the same to 0.01.
AREAS = {
    (375, 500): (0.3447, 0.3021, 0.0657, 0.7626),
    (224, 224): (0.3778, 0.3340, 0.0670, 0.8127),
    (32, 32): (0.3786, 0.3320, 0.0615, 0.8438),
}


class Script:
    """A generator that gives what it was told, and checks the ranges it is asked for."""

    def __init__(self, aspect: float, *draws: tuple[int, int]) -> None:
        self.aspect, self.draws, self.uniforms = aspect, list(draws), 0

    def uniform(self, low: float, high: float) -> float:
        assert (low, high) == (0.75, 1.33)
        self.uniforms += 1
        return self.aspect

    def integers(self, count: int) -> int:
        wanted, value = self.draws.pop(0)
        assert count == wanted
        return value


@pytest.mark.parametrize(
    ("size", "aspect", "draws", "box"),
    [
        # heights round(sqrt(9375)) = 97 .. min(round(sqrt(187500)) = 433, 375): 279 of them; offsets without the last
        ((375, 500), 1.0, [(279, 0), (278, 5), (403, 402)], (5, 402, 97, 97)),
        ((375, 500), 1.0, [(279, 278), (125, 124)], (0, 124, 375, 375)),  # full height: nothing to draw
        # 375 * 1.33 is too wide for 375, so int(375.4999999 / 1.33) = 282; round(84 * 1.33) = 112
        ((500, 375), 1.33, [(199, 0), (416, 1), (263, 2)], (1, 2, 84, 112)),
        ((500, 375), 1.33, [(199, 198), (218, 217)], (217, 0, 282, 375)),
        # sqrt(0.05 * 32 * 32 / 0.75) = 8.26 -> 8 high, 6 wide: 48 < 51.2, so 9 high and round(6.75) = 7 wide
        ((32, 32), 0.75, [(25, 0), (23, 0), (25, 24)], (0, 24, 9, 7)),
        # 18 * 0.75 = 13.5 and 22 * 0.75 = 16.5: halves go to the even 14 and 16
        ((32, 32), 0.75, [(25, 10), (14, 0), (18, 0)], (0, 0, 18, 14)),
        ((32, 32), 0.75, [(25, 14), (10, 0), (16, 0)], (0, 0, 22, 16)),
    ],
)
def test_boxes_by_hand(
    size: tuple[int, int], aspect: float, draws: list[tuple[int, int]], box: tuple[int, ...]
) -> None:
    script = Script(aspect, *draws)
    assert inception_box(script, size) == CropBox(*box)  # type: ignore[arg-type]
    assert script.draws == []


def test_after_a_hundred_attempts_the_whole_image_is_taken() -> None:
    script = Script(1.0)  # sqrt(50) is higher than 1, and a square of 1 too small
    assert inception_box(script, (1, 1000)) == (0, 0, 1, 1000)  # type: ignore[arg-type]
    assert script.uniforms == 100


def boxes(size: tuple[int, int], count: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.array([inception_box(rng, size) for _ in range(count)])


@pytest.mark.parametrize("size", AREAS)
def test_areas_and_aspects_are_distributed_as_tensorflows(size: tuple[int, int]) -> None:
    found = boxes(size)
    area = found[:, 2] * found[:, 3] / (size[0] * size[1])
    mean, median, low, high = AREAS[size]
    assert abs(area.mean() - mean) < 0.01
    assert abs(np.median(area) - median) < 0.015
    assert abs(np.quantile(area, 0.05) - low) < 0.01
    assert abs(np.quantile(area, 0.95) - high) < 0.03
    assert abs((found[:, 3] / found[:, 2]).mean() - 1.04) < 0.01
    assert area.min() >= 0.05
    assert area.max() <= 1


def test_a_smaller_crop_never_reaches_the_last_row_or_column() -> None:
    found = boxes((32, 32))
    bottom, right = found[:, 0] + found[:, 2], found[:, 1] + found[:, 3]
    assert bottom[found[:, 2] < 32].max() == 31
    assert right[found[:, 3] < 32].max() == 31
    assert found[:, :2].min() == 0
    assert (found[:, 2] == 32).any()


@pytest.mark.parametrize("cast", [True, False])
def test_the_piece_is_resized_bilinearly_and_truncated_where_asked(cast: bool) -> None:
    image = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for seed in range(5):
        top, left, height, width = inception_box(np.random.default_rng(seed), (40, 50))
        piece = image[top : top + height, left : left + width]
        wanted = resize(piece, (16, 12)) if cast else resize_bilinear(piece, (16, 12))
        for source in (image, Image.fromarray(image)):
            view = inception_crop(source, (16, 12), np.random.default_rng(seed), cast=cast)
            assert np.array_equal(view, wanted)
            assert view.dtype == (np.uint8 if cast else np.float32)
            assert view.shape == (16, 12, 3)
