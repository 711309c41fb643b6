"""RandAugment: every operation against a loop over pixels, Pillow where they agree, and what TensorFlow 2.21 printed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vitkit.config import UserError
from vitkit.data import randaugment as ops
from vitkit.data.randaugment import OPERATIONS, apply_operation, randaugment

NAMES = [
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness",
    "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd",
]  # fmt: skip
UNMOVED = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"}  # by magnitude 0
Ints = list[list[list[int]]]


def photo(height: int, width: int) -> np.ndarray:
    """Ramps and waves with some noise: not every value occurs."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([20 + 180 * x / width, 40 + 200 * y / height, 128 + 80 * np.sin((x + y) / 5)], -1)
    noise = np.random.default_rng(height).normal(0, 6, planes.shape)
    return np.clip(planes + noise, 0, 255).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGES = {
    "photo": photo(20, 27),
    "noise": noise(23, 18),
    "narrow": noise(12, 13) // 8 + 90,
    "grey": np.full((9, 8, 3), 77, np.uint8),
}
MAGNITUDES = [0, 3, 5, 10, 15, 20, 30]


def truncated(value: float) -> int:
    return int(min(255.0, max(0.0, value)))


def blended(start: int, end: int, factor: float) -> int:
    return truncated(float(np.float32(start) + np.float32(factor) * np.float32(end - start)))


def by_pixel(image: np.ndarray, rule: Callable[[int, int, int], int]) -> np.ndarray:
    """rule(y, x, c) for every value."""
    H, W, C = image.shape
    return np.array([[[rule(y, x, c) for c in range(C)] for x in range(W)] for y in range(H)], np.uint8)


def grey_of(r: int, g: int, b: int) -> int:
    return int((2989 * r + 5870 * g + 1140 * b) / 10000 / 255 * 255.5)


def smoothed(image: np.ndarray, y: int, x: int, c: int) -> int:
    H, W, _ = image.shape
    if not (0 < y < H - 1 and 0 < x < W - 1):
        return int(image[y, x, c])
    return int((image[y - 1 : y + 2, x - 1 : x + 2, c].astype(int).sum() + 4 * int(image[y, x, c])) / 13)


def stretch_of(channel: np.ndarray, value: int) -> int:
    low, high = int(channel.min()), int(channel.max())
    if low == high:
        return value
    scale = np.float32(255) / np.float32(high - low)
    return truncated(float(np.float32(value) * scale + np.float32(-low) * scale))


COLOURS: dict[str, Callable[[np.ndarray, float], Callable[[int, int, int], int]]] = {
    "Invert": lambda a, v: lambda y, x, c: 255 - int(a[y, x, c]),
    "AutoContrast": lambda a, v: lambda y, x, c: stretch_of(a[..., c], int(a[y, x, c])),
    "Posterize": lambda a, v: lambda y, x, c: int(a[y, x, c]) & ~(2 ** min(7, max(0, 8 - int(4 * v))) - 1),
    "Solarize": lambda a, v: (
        lambda y, x, c: int(a[y, x, c]) if a[y, x, c] < int(256 * v) % 256 else 255 - int(a[y, x, c])
    ),
    "SolarizeAdd": lambda a, v: (
        lambda y, x, c: min(255, int(a[y, x, c]) + int(110 * v)) if a[y, x, c] < 128 else int(a[y, x, c])
    ),
    "Color": lambda a, v: lambda y, x, c: blended(grey_of(*map(int, a[y, x])), int(a[y, x, c]), 1.8 * v + 0.1),
    "Contrast": lambda a, v: (
        lambda y, x, c: blended(min(255, a.shape[0] * a.shape[1] // 256), int(a[y, x, c]), 1.8 * v + 0.1)
    ),
    "Brightness": lambda a, v: lambda y, x, c: blended(0, int(a[y, x, c]), 1.8 * v + 0.1),
    "Sharpness": lambda a, v: lambda y, x, c: blended(smoothed(a, y, x, c), int(a[y, x, c]), 1.8 * v + 0.1),
}


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_those_of_a_loop_over_pixels(name: str, magnitude: float) -> None:
    for kind, image in IMAGES.items():
        wanted = by_pixel(image, COLOURS[name](image, magnitude / 10))
        found = apply_operation(name, image, magnitude, np.random.default_rng(0))
        assert found.dtype == np.uint8
        assert np.array_equal(found, wanted), kind


def away_from_zero(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def is_tie(value: float) -> bool:
    return abs(abs(value) % 1 - 0.5) < 1e-4


MOVES: dict[str, Callable[[float, int, int, int, int], tuple[float, float]]] = {
    "shear_x": lambda s, x, y, W, H: (x + s * y, y),
    "shear_y": lambda s, x, y, W, H: (x, y + s * x),
    "translate_x": lambda s, x, y, W, H: (x + s, y),
    "translate_y": lambda s, x, y, W, H: (x, y + s),
    "rotate": lambda s, x, y, W, H: (
        (W - 1) / 2 + math.cos(math.radians(s)) * (x - (W - 1) / 2) - math.sin(math.radians(s)) * (y - (H - 1) / 2),
        (H - 1) / 2 + math.sin(math.radians(s)) * (x - (W - 1) / 2) + math.cos(math.radians(s)) * (y - (H - 1) / 2),
    ),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0, 3, 7, 10, 15, 20])
@pytest.mark.parametrize(
    ("name", "reach"), [("shear_x", 0.3), ("shear_y", 0.3), ("translate_x", 10), ("translate_y", 10), ("rotate", 30)]
)
def test_moves_are_those_of_a_loop_over_pixels(name: str, reach: float, magnitude: float, sign: int) -> None:
    amount = sign * magnitude / 10 * reach
    for image in (IMAGES["photo"], IMAGES["noise"]):
        H, W, _ = image.shape
        moved = getattr(ops, name)(image, amount)
        compared = 0
        for y in range(H):
            for x in range(W):
                at_x, at_y = MOVES[name](amount, x, y, W, H)
                if is_tie(at_x) or is_tie(at_y):
                    continue  # float32 decides
                column, row = away_from_zero(at_x), away_from_zero(at_y)
                inside = 0 <= column < W and 0 <= row < H
                assert moved[y, x].tolist() == (image[row, column].tolist() if inside else [128] * 3)
                compared += 1
        assert compared > 0.7 * H * W


def test_ties_and_edges_of_moves_are_as_tensorflow_prints_them() -> None:
    image = np.repeat(np.arange(0, 200, 10, dtype=np.uint8).reshape(4, 5, 1), 3, 2)
    even = np.repeat(np.arange(0, 252, 7, dtype=np.uint8).reshape(6, 6, 1), 3, 2)
    assert ops.rotate(image, 45)[..., 0].tolist() == [
        [128, 20, 30, 90, 140], [10, 20, 70, 130, 190], [0, 60, 120, 170, 180], [50, 100, 160, 170, 128],
    ]  # fmt: skip
    assert ops.rotate(image, -45)[..., 0].tolist() == [
        [100, 50, 10, 20, 128], [150, 110, 70, 20, 30], [160, 170, 120, 80, 40], [128, 170, 180, 140, 90],
    ]  # fmt: skip
    assert ops.rotate(image, 30)[..., 0].tolist() == [
        [128, 20, 30, 90, 90], [10, 60, 70, 130, 140], [50, 60, 120, 130, 180], [100, 100, 160, 170, 128],
    ]  # fmt: skip
    assert ops.rotate(even, 45)[..., 0].tolist() == [
        [128, 21, 28, 77, 119, 128], [14, 21, 63, 112, 161, 161], [7, 56, 105, 147, 154, 203], [42, 91, 140, 147, 189, 238],
        [84, 126, 133, 182, 231, 231], [128, 126, 168, 217, 224, 128],
    ]  # fmt: skip
    assert ops.shear_x(image, 0.3)[..., 0].tolist() == [
        [0, 10, 20, 30, 40], [50, 60, 70, 80, 90], [110, 120, 130, 140, 128], [160, 170, 180, 190, 128],
    ]  # fmt: skip
    assert ops.shear_y(image, -0.45)[..., 0].tolist() == [
        [0, 10, 128, 128, 128], [50, 60, 20, 30, 128], [100, 110, 70, 80, 40], [150, 160, 120, 130, 90],
    ]  # fmt: skip


def test_a_quarter_turn_is_counter_clockwise() -> None:
    image = noise(9, 9)
    assert np.array_equal(ops.rotate(image, 90), np.rot90(image))
    assert np.array_equal(ops.rotate(image, 90), np.asarray(Image.fromarray(image).rotate(90)))


@pytest.mark.parametrize("kind", IMAGES)
def test_what_pillow_does_alike(kind: str) -> None:
    image = IMAGES[kind]
    picture = Image.fromarray(image)
    assert np.array_equal(ops.equalize(image), np.asarray(ImageOps.equalize(picture)))
    assert np.array_equal(ops.invert(image), np.asarray(ImageOps.invert(picture)))
    for bits in range(1, 9):
        assert np.array_equal(ops.posterize(image, bits), np.asarray(ImageOps.posterize(picture, bits)))
    for threshold in range(0, 256, 17):
        assert np.array_equal(ops.solarize(image, threshold), np.asarray(ImageOps.solarize(picture, threshold)))
    for factor in (0.1, 0.64, 1.9, 3.7):  # Pillow rounds, here values are truncated
        bright = np.asarray(ImageEnhance.Brightness(picture).enhance(factor)).astype(int)
        assert np.abs(ops.adjust_brightness(image, factor) - bright).max() <= 1


def test_autocontrast_is_pillows_but_for_the_last_digit_of_float32() -> None:
    for image in (*IMAGES.values(), photo(64, 64)):
        pillow = np.asarray(ImageOps.autocontrast(Image.fromarray(image))).astype(int)
        assert np.abs(ops.auto_contrast(image) - pillow).max() <= 1


def test_equalize_is_pillows_on_large_and_odd_images() -> None:
    for image in (photo(224, 224), noise(224, 224), noise(1, 1), noise(1, 400), np.zeros((300, 5, 3), np.uint8)):
        assert np.array_equal(ops.equalize(image), np.asarray(ImageOps.equalize(Image.fromarray(image))))


def test_equalize_by_hand() -> None:
    """510 pixels, 255 of 10 and 255 of 200: step (510 - 255) // 255 = 1; 10 -> (0 + 0) // 1 = 0, 200 -> 255."""
    values = np.repeat(np.array([10, 200], np.uint8), 255).reshape(2, 255, 1).repeat(3, 2)
    assert sorted(set(ops.equalize(values).ravel().tolist())) == [0, 255]
    assert ops.equalize(values)[0, 0, 0] == 0


def test_quirk_solarize_wraps_at_256() -> None:
    image = noise(8, 8)
    for magnitude in (0, 10, 20, 30):
        assert np.array_equal(apply_operation("Solarize", image, magnitude, np.random.default_rng(0)), 255 - image)
    half = apply_operation("Solarize", image, 15, np.random.default_rng(0))  # 384 mod 256 = 128
    assert np.array_equal(half, np.where(image < 128, image, 255 - image))


@pytest.mark.parametrize(("size", "constant"), [((224, 224), 196), ((32, 32), 4), ((16, 15), 0), ((300, 300), 255)])
def test_quirk_contrast_pulls_to_the_number_of_pixels(size: tuple[int, int], constant: int) -> None:
    flat = np.full((*size, 3), constant, np.uint8)
    for factor in (0.1, 1.9, 3.7):
        assert np.array_equal(ops.adjust_contrast(flat, factor), flat)
    image = noise(*size)
    assert ops.adjust_contrast(image, 0.1)[0, 0, 0] == int(
        constant + np.float32(0.1) * (int(image[0, 0, 0]) - constant)
    )


def test_quirk_posterize_keeps_a_bit_and_nothing_is_left_to_do_at_20() -> None:
    image = noise(8, 8)
    rng = np.random.default_rng(0)
    assert set(apply_operation("Posterize", image, 0, rng).ravel().tolist()) == {0, 128}
    assert np.array_equal(apply_operation("Posterize", image, 2, rng), image & 128)  # int(0.8) = 0 bits
    for magnitude in (20, 25, 30):
        assert np.array_equal(apply_operation("Posterize", image, magnitude, rng), image)
    assert np.array_equal(apply_operation("Posterize", image, 10, rng), image & 0xF0)
    assert np.array_equal(apply_operation("Posterize", image, 15, rng), image & 0xFC)


def test_quirk_magnitude_0_is_no_identity() -> None:
    image = noise(64, 64)
    for name in set(NAMES) - {"AutoContrast", "Equalize"}:  # which do not depend on it
        changed = not np.array_equal(apply_operation(name, image, 0, np.random.default_rng(0)), image)
        assert changed == (name not in UNMOVED), name
    assert apply_operation("Brightness", image, 0, np.random.default_rng(0)).max() == 25


def test_quirk_sharpness_keeps_the_border() -> None:
    image = noise(10, 11)
    for factor in (0.1, 1.9):
        found = ops.adjust_sharpness(image, factor)
        inner = np.zeros((10, 11), bool)
        inner[1:-1, 1:-1] = True
        assert np.array_equal(found[~inner], image[~inner])
        assert not np.array_equal(found[inner], image[inner])
    for thin in (noise(2, 9), noise(9, 1), noise(1, 1)):
        assert np.array_equal(ops.adjust_sharpness(thin, 0.1), thin)


@pytest.mark.parametrize(("magnitude", "half"), [(0, 0), (3, 12), (10, 40), (15, 60), (20, 80)])
def test_cutout_is_a_square_cut_at_the_borders(magnitude: float, half: int) -> None:
    image = np.zeros((200, 220, 3), np.uint8)
    seen = set()
    for seed in range(40):
        cut = apply_operation("Cutout", image, magnitude, np.random.default_rng(seed))[..., 0] == 128
        rows, columns = cut.any(1).nonzero()[0], cut.any(0).nonzero()[0]
        if not half:
            assert not cut.any()
            continue
        assert cut[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(rows) <= 2 * half
        assert len(columns) <= 2 * half
        assert len(rows) == 2 * half or rows[0] == 0 or rows[-1] == 199
        assert len(rows) >= half
        seen.add((rows[0], columns[0]))
    assert len(seen) > 20 or not half
    assert ops.cut_out(image, (0, 219), 2)[..., 0].sum() == 128 * 2 * 3  # rows 0 and 1, columns 217 to 219


def test_operations_are_the_sixteen_in_order_and_drawn_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(OPERATIONS) == NAMES
    drawn: list[str] = []
    for name in NAMES:
        monkeypatch.setitem(OPERATIONS, name, lambda image, v, rng, name=name: drawn.append(f"{name} {v}") or image)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        randaugment(IMAGES["grey"], 2, 15, rng)
    counts = Counter(drawn)
    assert set(counts) == {f"{name} 1.5" for name in NAMES}  # always the same magnitude, each always applied
    assert max(counts.values()) < 500 + 4 * 22
    assert min(counts.values()) > 500 - 4 * 22
    pairs = Counter(zip(drawn[::2], drawn[1::2], strict=True))
    assert len(pairs) == 256  # the same one twice, too


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_signs_are_drawn_evenly(name: str) -> None:
    image = noise(24, 24)
    counts = Counter(apply_operation(name, image, 2, np.random.default_rng(seed)).tobytes() for seed in range(300))
    assert len(counts) == 2
    assert min(counts.values()) > 110


def test_the_result_is_a_function_of_the_generator_and_leaves_the_image_alone() -> None:
    image = photo(40, 33)
    kept = image.copy()
    for magnitude in (0, 10, 20):
        first, again = (
            [randaugment(image, 2, magnitude, np.random.default_rng(seed)) for seed in range(60)] for _ in range(2)
        )
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert all(view.shape == image.shape and view.dtype == np.uint8 for view in first)
    assert np.array_equal(image, kept)
    assert randaugment(image, 0, 0, np.random.default_rng(0)) is image


def test_numbers_out_of_range_are_refused() -> None:
    rng = np.random.default_rng(0)
    for layers in (-1, 1.5, True, 17):
        with pytest.raises(UserError, match="layers must be an integer from 0 to 16"):
            randaugment(IMAGES["grey"], layers, 10, rng)  # type: ignore[arg-type]
    for magnitude in (-1, float("nan"), float("inf"), "10", True):
        with pytest.raises(UserError, match="magnitude must be from 0 to 100, got"):
            randaugment(IMAGES["grey"], 2, magnitude, rng)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="RGB image is needed"):
        randaugment(np.zeros((4, 4), np.uint8), 2, 10, rng)
