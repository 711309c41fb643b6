"""Arrays and multi-band files: channels, value ranges, orientation, lying headers; and the same geometry as RGB."""

from __future__ import annotations

import builtins
import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import PHOTO, STORED, encoded
from vitkit.config import UserError
from vitkit.data import bands, decode
from vitkit.data.augment import Augment, augment_image
from vitkit.data.bands import Bands, measure_channels, open_bands
from vitkit.data.loader import training_batches
from vitkit.data.pixels import ImageError, Preprocess, fit_image, open_image, open_picture, picture_size, prepare
from vitkit.data.sources import Sample

FIVE = np.random.default_rng(0).integers(0, 256, (6, 4, 5), dtype=np.uint8)


def npy(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def opened(source: bytes | Path, channels: int = 5, max_pixels: int = 10**8) -> np.ndarray:
    return open_bands(source, channels, max_pixels).array()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "<f4", ">f4"])
def test_values_are_scaled_by_their_type(kind: str, order: str, tmp_path: Path) -> None:
    values = np.asarray(FIVE.astype(kind), order=order)
    top = {"u1": 255, "u2": 65535, "f4": 1}[kind[-2:]]
    (tmp_path / "a.npy").write_bytes(npy(values))
    for source in (tmp_path / "a.npy", npy(values)):
        out = opened(source)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, FIVE.astype(np.float32) / np.float32(top))


def test_floats_keep_any_range_and_two_dimensions_are_one_channel() -> None:
    values = np.array([[-1000.0, 0.5], [3e7, 1e-9]], np.float32)
    np.testing.assert_array_equal(opened(npy(values), 1)[..., 0], values)
    np.testing.assert_array_equal(prepare(values, Preprocess((2, 2), mean=(0.0,), std=(1.0,)))[..., 0], values)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(FIVE[..., :4]), "found 4 channels, expected 5"),
        (npy(np.moveaxis(FIVE, -1, 0)), r"found 4 channels, expected 5; arrays are \(height, width, channels\)"),
        (npy(FIVE.astype(np.int64)), "array of int64; expected uint8, uint16 or float32"),
        (npy(np.array([[{}]], dtype=object), allow_pickle=True), "array of object"),
        (npy(FIVE[0, 0]), r"shape \(5,\)"),
        (npy(FIVE[:0]), r"shape \(0, 4, 5\)"),
        (npy(np.full((2, 2, 5), np.nan, np.float32)), "channel 0 holds values that are not finite"),
        (npy(FIVE)[:-1], "119 bytes of values; its header says"),
        (npy(FIVE) + b"x", "121 bytes of values; its header says"),
        (npy(FIVE).replace(b"(6, 4, 5)", b"(60000, 40000, 5)")[:150], "not a whole|bytes of values"),
        (npy(FIVE).replace(b"'shape'", b"'shame'"), "not a whole .npy"),
        (npy(FIVE)[:20], "not a whole .npy"),
        (b"\x93NUMPY\x09\x00", "version|not a whole"),
        (b"", "is empty"),
        (b"text", "is not an image"),
        (encoded(Image.fromarray(PHOTO)), "found 3 channels, expected 5"),
    ],
)
def test_what_has_no_rule_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    for source in (tmp_path / "a.npy", content):
        with pytest.raises(ImageError, match=reason):
            open_picture(source, 5)


def test_a_header_that_claims_terabytes_allocates_nothing(tmp_path: Path) -> None:
    header = (
        npy(FIVE)[:10] + b"{'descr': '|u1', 'fortran_order': False, 'shape': (999999, 999999, 5), }".ljust(117) + b"\n"
    )
    (tmp_path / "a.npy").write_bytes(header + bytes(100))
    for source in (tmp_path / "a.npy", header + bytes(100)):
        with pytest.raises(ImageError, match="its header says"):
            open_picture(source, 5)


def test_the_limit_counts_values() -> None:
    assert open_picture(npy(FIVE), 5, 40).size == (4, 6)
    with pytest.raises(ImageError, match="--max-pixels N allows more"):
        open_picture(npy(FIVE), 5, 39)


def test_large_arrays_are_means_of_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "REDUCED_ABOVE", 6)
    picture = open_picture(npy(FIVE), 5)
    expected = FIVE.reshape(3, 2, 2, 2, 5).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(picture.array(), expected, atol=1e-6)
    assert picture_size(picture) == (6, 4)


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("LA", 2), ("RGBA", 4), ("CMYK", 4), ("I;16", 1)]
)
def test_ordinary_images_have_their_own_channels(mode: str, channels: int) -> None:
    image = Image.fromarray(np.array([[0, 65535]], np.uint16)) if mode == "I;16" else Image.new(mode, (2, 1), 0)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    with Image.open(io.BytesIO(data)) as lazy:
        found = len(lazy.convert("RGB" if mode == "P" else lazy.mode).getbands())
    assert found == channels
    if channels != 3:
        pytest.importorskip("tifffile") if mode == "CMYK" else None
        assert opened(data, channels).shape == (1, 2, channels)
        if mode == "I;16":
            assert opened(data, 1).ravel().tolist() == [0, 1]
    with pytest.raises(ImageError, match=f"found {channels} channels, expected 7"):
        opened(data, 7)


def test_exif_turns_bands_too() -> None:
    values = np.concatenate([PHOTO, PHOTO[..., :1]], axis=-1)
    for orientation, store in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(np.ascontiguousarray(store(values))), exif=exif)
        np.testing.assert_array_equal(opened(data, 4), values.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_multi_band_tiff(planar: str, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for orientation in (1, 6):
        stored = np.ascontiguousarray(STORED[orientation](FIVE))
        values = np.moveaxis(stored, -1, 0) if planar == "separate" else stored
        path = tmp_path / f"{orientation}.tif"
        tifffile.imwrite(
            path, values, photometric="minisblack", planarconfig=planar, extratags=[(274, "H", 1, orientation, True)]
        )
        for source in (path, path.read_bytes()):
            np.testing.assert_array_equal(opened(source), FIVE.astype(np.float32) / np.float32(255))
        with pytest.raises(ImageError, match="found 5 channels, expected 4"):
            opened(path, 4)
        with pytest.raises(ImageError):
            opened(path.read_bytes()[: len(path.read_bytes()) // 2])


def test_a_tiff_that_lies_about_its_strips_is_refused_before_they_are_unpacked() -> None:
    tifffile = pytest.importorskip("tifffile")
    flat = np.zeros((64, 64, 5), np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib", "rowsperstrip": 64}
    plain, packed = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(plain, flat, **options)
    assert opened(plain.getvalue()).shape == (64, 64, 5)
    tifffile.imwrite(packed, np.zeros((64, 640, 5), np.uint8), **options)
    narrow = packed.getvalue().replace(struct.pack("<HHII", 256, 4, 1, 640), struct.pack("<HHII", 256, 4, 1, 64))
    narrow = narrow.replace(struct.pack("<HHIHH", 256, 3, 1, 640, 0), struct.pack("<HHIHH", 256, 3, 1, 64, 0))
    assert narrow != packed.getvalue()
    with pytest.raises(ImageError, match="unpacks to more than its 20480 bytes"):
        opened(narrow)


def test_without_tifffile_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "tifffile":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "tifffile", raising=False)
    with pytest.raises(UserError, match=r"pip install 'vitkit\[multichannel\]'"):
        opened(encoded(Image.new("CMYK", (2, 2)), "TIFF"), 4)


def test_an_array_file_of_an_rgb_model_follows_the_rules_of_deeper_gray() -> None:
    assert np.array_equal(np.asarray(open_image(npy(PHOTO))), PHOTO)
    assert np.array_equal(np.asarray(open_image(npy(PHOTO.astype(np.uint16) << 8))), PHOTO)
    assert np.array_equal(np.asarray(open_image(npy((PHOTO / 255).astype(np.float32)))), PHOTO)
    assert np.array_equal(np.asarray(open_image(npy(PHOTO[..., 0])))[..., 2], PHOTO[..., 0])
    for bad in (FIVE, FIVE.astype(np.float64), PHOTO.astype(np.float32) * 2):
        with pytest.raises(ImageError):
            open_image(npy(bad))
    with pytest.raises(ImageError, match="above"):
        open_image(npy(PHOTO), max_pixels=23)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(30, 20), (20, 31), (1, 400), (2000, 3)])
def test_the_geometry_is_that_of_rgb(fit: str, size: tuple[int, int]) -> None:
    smooth = Image.effect_noise((7, 7), 40).resize(size, Image.Resampling.BILINEAR)
    rgb = Image.merge("RGB", [smooth] * 3)
    record = Preprocess((24, 16), fit=fit, crop_fraction=0.9, mean=(0.2,) * 3)
    two = Preprocess((24, 16), fit=fit, crop_fraction=0.9, mean=(0.2,) * 2, std=(0.5,) * 2)
    planes = np.repeat(np.asarray(smooth)[..., None], 2, axis=-1)
    values = fit_image(bands.bands_of(planes, 2, 10**6), two)
    assert values.shape == (24, 16, 2)
    # The second pass rounds by 0.5, and weighs what the first one rounded by bicubic's weights, up to 1.25 in size together.
    assert np.abs(values[..., 1] * 255 - fit_image(rgb, record)[..., 1]).max() <= 0.5 + 1.25 * 0.5 + 1e-3


def test_augmenting_bands_draws_the_same_views_as_rgb() -> None:
    smooth = Image.effect_noise((5, 5), 40).resize((40, 30), Image.Resampling.BICUBIC)
    augment = Augment(crop_area=0.4, flip=True, shift=0.1)
    for seed in range(6):
        rgb = augment_image(
            Image.merge("RGB", [smooth] * 3), Preprocess((16, 16)), augment, np.random.default_rng(seed)
        )
        two = Preprocess((16, 16), mean=(0.5,) * 2, std=(0.5,) * 2)
        picture = bands.bands_of(np.repeat(np.asarray(smooth)[..., None], 2, axis=-1), 2, 10**6)
        values = augment_image(picture, two, augment, np.random.default_rng(seed))
        assert np.abs(values[..., 0] * 255 - rgb[..., 0]).max() <= 2.5
    with pytest.raises(UserError, match="jitter"):
        augment_image(picture, two, Augment(jitter=0.1), np.random.default_rng(0))


def test_training_batches_of_bands_are_normalised_by_the_record() -> None:
    record = Preprocess((6, 4), fit="squash", mean=(0.1, 0.2, 0.3, 0.4, 0.5), std=(1.0, 2.0, 3.0, 4.0, 5.0))
    samples = [Sample("a", npy(FIVE), 0)]
    batch = next(iter(training_batches(samples, record, Augment(), batch_size=1, steps=range(1), seed=0, workers=0)))
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), prepare(FIVE, record))
    np.testing.assert_allclose(prepare(FIVE, record)[..., 4], (FIVE[..., 4] / 255 - 0.5) / 5, atol=1e-6)


def test_channel_statistics_count_every_image_alike() -> None:
    small, large = np.full((1, 1, 2), 0.0, np.float32), np.full((9, 9, 2), 4.0, np.float32)
    small[..., 1] = large[..., 1] = 7
    mean, std = measure_channels([npy(small), npy(large)], 2, 10**6)
    assert mean == (2.0, 7.0)
    assert std == (2.0, 1.0)  # a constant channel is only shifted


def test_bands_keep_their_size_in_the_file() -> None:
    assert picture_size(Bands.of(np.zeros((3, 5, 2), np.float32))) == (3, 5)
