"""TensorFlow's resizing: against loops in fractions, torch, and values that TensorFlow 2.21 printed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from vitkit.config import UserError
from vitkit.data.resizing import (
    CropBox,
    as_picture,
    as_pixels,
    central_crop,
    central_window,
    random_crop,
    resize,
    resize_area,
    resize_bilinear,
    resize_small,
    small_size,
    to_uint8,
    value_range,
)

STRIPE = (np.arange(11) * 53 % 256).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def row(values: np.ndarray) -> np.ndarray:
    """One row of pixels whose channels are the values, their inverse and their halves."""
    return np.stack([values, 255 - values, values // 2], -1)[None]


@pytest.mark.parametrize("old", [(37, 53), (53, 37), (8, 8), (1, 1), (1, 9), (90, 7)])
@pytest.mark.parametrize("new", [(16, 16), (64, 40), (1, 1), (7, 91)])
def test_bilinear_is_torch_without_aligned_corners(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = noise(*old)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(tensor, new, mode="bilinear", align_corners=False, antialias=False)[0].permute(1, 2, 0)
    found = resize_bilinear(image, new)
    assert found.dtype == np.float32
    assert np.abs(found - wanted.numpy()).max() < 1e-3


def test_bilinear_by_hand_and_as_tensorflow_prints_it() -> None:
    two = row(np.array([0, 100], np.uint8))
    assert resize_bilinear(two, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]  # centres at -0.25, 0.25, 0.75, 1.25
    printed = [15.14285659790039, 98.42857360839844, 181.7142791748047, 9.0, 92.28569793701172, 175.57139587402344]
    assert resize_bilinear(row(STRIPE), (1, 7))[0, :6, 0].tolist() == printed  # every bit
    assert resize(row(STRIPE), (1, 7))[0, :6, 0].tolist() == [15, 98, 181, 9, 92, 175]  # truncated


def area_by_fractions(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean over each new pixel's area, overlap by overlap."""

    def weights(old: int, new: int) -> list[list[Fraction]]:
        scale = Fraction(old, new)
        overlaps = [
            [min((i + 1) * scale, Fraction(j + 1)) - max(i * scale, Fraction(j)) for j in range(old)]
            for i in range(new)
        ]
        return [[max(overlap, Fraction(0)) / scale for overlap in line] for line in overlaps]

    out = np.empty((*size, 3))
    down, across = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    for y in range(size[0]):
        for x in range(size[1]):
            for c in range(3):
                total = Fraction(0)
                for i, v in enumerate(down[y]):
                    if v:
                        total += v * sum(w * int(image[i, j, c]) for j, w in enumerate(across[x]) if w)
                out[y, x, c] = float(total)
    return out


@pytest.mark.parametrize("old", [(9, 13), (12, 5)])
@pytest.mark.parametrize("new", [(4, 5), (5, 12), (13, 17), (1, 1), (6, 3)])
def test_area_is_the_mean_with_parts_of_pixels(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = noise(*old)
    assert np.abs(resize_area(image, new) - area_by_fractions(image, new)).max() < 1e-3  # float32 weights


def test_area_is_not_torchs() -> None:
    image = noise(12, 12)
    torchs = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), (5, 5), mode="area")[0]
    assert np.abs(resize_area(image, (5, 5)) - torchs.permute(1, 2, 0).numpy()).max() > 10


def test_area_has_tensorflows_bits_so_that_truncation_agrees() -> None:
    printed = [19.27272605895996, 96.36363983154297, 183.09092712402344, 55.54542922973633, 90.90906524658203]
    assert resize_area(row(STRIPE), (1, 7))[0, :5, 0].tolist() == printed
    grey = np.full((1, 47, 3), 200, np.uint8)
    small = to_uint8(resize_area(grey, (1, 33)))[0, :, 0]
    assert small[:12].tolist() == [200, 200, 199, 200, 200, 199, 200, 199, 199, 200, 199, 199]  # so does TensorFlow
    assert (small == 199).sum() == 18


def test_short_sides_and_roundings_of_resize_small() -> None:
    assert small_size((375, 500), 256) == (256, 341)  # 341.33
    assert small_size((500, 375), 448) == (597, 448)  # 597.33
    assert small_size((2, 5), 1) == (1, 2)  # 2.5 to even
    assert small_size((2, 7), 1) == (1, 4)  # 3.5 to even
    assert small_size((32, 32), 448) == (448, 448)
    image = noise(30, 47)
    assert resize_small(image, 12).shape == (12, 19, 3)
    assert np.array_equal(resize_small(image, 12), to_uint8(resize_area(image, (12, 19))))
    with pytest.raises(UserError, match="positive number of pixels, got 0"):
        small_size((3, 3), 0)


def test_a_window_is_the_same_piece_of_the_whole_also_of_thread_like_images() -> None:
    image = noise(30, 47)
    for window in (CropBox(0, 0, 12, 19), CropBox(3, 5, 4, 7), CropBox(11, 18, 1, 1)):
        assert np.array_equal(resize_small(image, 12, window), window.cut(resize_small(image, 12)))
    thread = np.repeat(noise(2, 30_000), 2, 0)[:2]
    middle = central_window(small_size((2, 30_000), 448), (384, 384))  # of 448 x 6,720,000, which is never made
    assert middle == (32, 3_359_808, 384, 384)
    assert resize_small(thread, 448, middle).shape == (384, 384, 3)


def test_pillow_images_and_arrays_are_alike_and_nothing_else_is_taken() -> None:
    image = noise(9, 7)
    picture = Image.fromarray(image)
    assert np.array_equal(resize(image, (5, 6)), resize(picture, (5, 6)))
    assert np.array_equal(as_pixels(picture), image)
    assert as_pixels(image) is image
    assert as_picture(picture) is picture
    with pytest.raises(UserError, match="RGB image is needed, got one of mode L"):
        resize(picture.convert("L"), (5, 6))
    with pytest.raises(UserError, match=r"uint8 of shape \(H, W, 3\), got float32 \(9, 7, 3\)"):
        resize_area(image.astype(np.float32), (5, 6))
    for size in ((0, 4), (4,), (4.0, 4)):
        with pytest.raises(UserError, match="two positive integers"):
            resize(image, size)  # type: ignore[arg-type]


def test_crops_are_cut_where_stated() -> None:
    image = noise(10, 13)
    assert np.array_equal(central_crop(image, (5, 6)), image[2:7, 3:9])  # 5 // 2, 7 // 2
    assert np.array_equal(central_crop(image, (10, 13)), image)
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        piece = random_crop(image, (8, 12), rng)
        places = [(y, x) for y in range(3) for x in range(2) if np.array_equal(piece, image[y : y + 8, x : x + 12])]
        corners.update(places)
    assert corners == {(y, x) for y in range(3) for x in range(2)}  # the last row and column too
    with pytest.raises(UserError, match=r"cut 11 x 6 pixels .* out of an image of 10 x 13"):
        central_crop(image, (11, 6))


def test_value_range_and_casting() -> None:
    assert value_range(np.array([0, 255], np.uint8)).tolist() == [-1, 1]
    assert abs(value_range(np.array([100], np.uint8))[0] - (100 / 127.5 - 1)) < 1e-6
    assert value_range(np.array([0, 255], np.uint8), 0, 1).tolist() == [0, 1]
    assert to_uint8(np.array([-3.0, 0.99, 1.0, 254.99, 300.0], np.float32)).tolist() == [0, 0, 1, 254, 255]
