"""Back to the original: the box that the model sees, found again by marking pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from vitkit.data.pixels import FITS, ImageError, Preprocess, fit_image, place, prepare
from vitkit.data.seen import Box, input_box, seen_box, seen_share

SIZES = [(40, 40), (60, 90), (90, 61), (33, 100), (7, 5), (1, 40), (300, 3), (64, 64)]
RECORDS = [
    *(Preprocess((32, 32), fit=fit) for fit in FITS),
    *(Preprocess((24, 40), fit=fit) for fit in FITS),
    Preprocess((32, 32), crop_fraction=0.875),
    Preprocess((24, 40), crop_fraction=0.8),
    Preprocess((32, 32), fit="squash_crop", crop_fraction=0.875),
]


def changed(record: Preprocess, size: tuple[int, int], x: int, y: int) -> bool:
    """Does the model's image change with this pixel?"""
    pixels = np.full((*size, 3), 90, np.uint8)
    before = fit_image(Image.fromarray(pixels), record).astype(int)
    pixels[y, x] = 255
    return bool(np.abs(fit_image(Image.fromarray(pixels), record) - before).max() > 0)


@pytest.mark.parametrize(
    "record", RECORDS, ids=lambda r: f"{r.fit}-{r.image_size[0]}x{r.image_size[1]}-{r.crop_fraction}"
)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_pixels_inside_change_what_the_model_sees_and_pixels_outside_do_not(
    record: Preprocess, size: tuple[int, int]
) -> None:
    height, width = size
    box = seen_box(record, size)
    new_h, new_w, _, _ = place(record, size)
    # A bicubic filter reaches two pixels of the smaller of the two images, and as much as one is scaled more.
    reach_x, reach_y = (2 * max(1, n / new) + 1 for n, new in ((width, new_w), (height, new_h)))
    outside = []
    for x, y in ((box.left - reach_x, 0), (box.right + reach_x, 0), (0, box.top - reach_y), (0, box.bottom + reach_y)):
        if 0 <= x < width and 0 <= y < height:
            outside.append((int(x), int(y)))
    for x, y in outside:
        assert not changed(record, size, x, y), (x, y, box)
    middle = min(width - 1, int((box.left + box.right) / 2)), min(height - 1, int((box.top + box.bottom) / 2))
    if height * width <= 400 or (new_h >= height / 4 and new_w >= width / 4):  # else one pixel may round away
        assert changed(record, size, *middle), (middle, box)


@pytest.mark.parametrize(
    "record", RECORDS, ids=lambda r: f"{r.fit}-{r.image_size[0]}x{r.image_size[1]}-{r.crop_fraction}"
)
@pytest.mark.parametrize("size", [(40, 40), (60, 90), (90, 61), (33, 100), (64, 64)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_mark_comes_back_to_where_it_was(record: Preprocess, size: tuple[int, int]) -> None:
    """A ramp over the original, seen through the model's pixels, tells which place each of them shows."""
    height, width = size
    box = input_box(record, size)
    H, W = record.image_size
    for axis, (n, N) in enumerate(((height, H), (width, W))):
        ramp = np.linspace(40, 200, n)
        pixels = np.repeat(ramp[:, None], width, 1) if axis == 0 else np.repeat(ramp[None], height, 0)
        fitted = fit_image(Image.fromarray(pixels.astype(np.uint8)).convert("RGB"), record)[..., 0].astype(float)
        low, high = (box.top, box.bottom) if axis == 0 else (box.left, box.right)
        for share in (0.3, 0.5, 0.7):
            at = int(share * N)
            place_in_original = low + (at + 0.5) / N * (high - low) - 0.5
            if not 3 <= place_in_original <= n - 4:
                continue
            middle = (W // 2) if axis == 0 else (H // 2)
            value = fitted[at, middle] if axis == 0 else fitted[middle, at]
            assert value == pytest.approx(np.interp(place_in_original, range(n), ramp), abs=160 / n + 1.5)


def test_boxes_of_known_cases() -> None:
    crop = Preprocess((224, 224), crop_fraction=0.875)
    assert seen_box(crop, (256, 256)) == (16, 16, 240, 240)
    assert seen_box(crop, (512, 1024)) == (288, 32, 736, 480)
    assert seen_box(dataclasses.replace(crop, fit="squash"), (300, 200)) == (0, 0, 200, 300)
    pad = dataclasses.replace(crop, fit="pad")
    assert seen_box(pad, (100, 200)) == (0, 0, 200, 100)
    assert input_box(pad, (100, 200)) == (0, -50, 200, 150)
    assert seen_share(pad, (100, 200)) == 1
    assert seen_share(crop, (512, 1024)) == pytest.approx(448 * 448 / (512 * 1024))
    assert seen_box(dataclasses.replace(crop, fit="squash_crop"), (512, 256)) == (16, 32, 240, 480)
    assert seen_box(dataclasses.replace(crop, fit="squash"), (224, 224), (208, 192)) == (
        0,
        0,
        192,
        208,
    )  # dropped edges


def test_boxes_are_scaled_and_cut() -> None:
    assert Box(1, 2, 3, 4).scaled(2, 10) == (2, 20, 6, 40)
    assert Box(-5, 1, 30, 30).within((10, 20)) == (0, 1, 20, 10)
    assert Box(5, 0, 2, 9).area == 0


@pytest.mark.parametrize("fit", FITS)
def test_an_image_without_pixels_is_one_clear_message(fit: str) -> None:
    record = Preprocess((32, 32), fit=fit)
    with pytest.raises(ImageError, match=r"an image of 0x7 pixels; there is nothing to see"):
        prepare(Image.new("RGB", (0, 7)), record)
    with pytest.raises(ImageError, match="0x7"):
        seen_box(record, (7, 0))
