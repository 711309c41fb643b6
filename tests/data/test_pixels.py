"""One path from a file to pixels: decoding, orientation, modes, fitting, normalising."""

from __future__ import annotations

import csv
import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import PHOTO, STORED, chunk, encoded
from shared import shared_data
from vitkit.config import UserError
from vitkit.data.pixels import (
    ImageError,
    Preprocess,
    choose_fit,
    fit_image,
    normalise,
    open_image,
    prepare,
    upright_rgb,
)

DEIT = Preprocess((224, 224), crop_fraction=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds no pixels: whoever decodes it finds it truncated."""

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_gives_the_same_upright_pixels(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation](PHOTO))), exif=exif)
    assert np.array_equal(np.asarray(open_image(data)), PHOTO)
    with Image.open(io.BytesIO(data)) as image:  # the image a Python user passes takes the same path
        assert np.array_equal(np.asarray(upright_rgb(image)), PHOTO)
    assert np.array_equal(np.asarray(upright_rgb(open_image(data))), PHOTO)  # and is not turned twice


def test_a_path_a_text_path_and_bytes_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PHOTO).save(path)
    for source in (path, str(path), path.read_bytes()):
        assert np.array_equal(np.asarray(open_image(source)), PHOTO)


def test_gray_is_repeated_and_transparency_lies_over_white() -> None:
    gray = Image.fromarray(PHOTO[..., 0])
    assert np.array_equal(np.asarray(open_image(encoded(gray))), np.repeat(PHOTO[..., :1], 3, axis=2))
    for mode, colour in (("RGBA", (200, 100, 0)), ("LA", (60,))):
        shown = []
        for alpha in (0, 128, 255):
            shown.append(open_image(encoded(Image.new(mode, (1, 1), (*colour, alpha)))).getpixel((0, 0)))
        solid = colour if mode == "RGBA" else colour * 3
        assert shown[0] == (255, 255, 255)
        assert shown[2] == solid
        assert shown[1] == pytest.approx([c * 128 / 255 + 127 for c in solid], abs=1)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_transparent_palette_entry_is_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encoded(image, transparency=transparency)
    assert np.asarray(open_image(data)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_is_converted() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF")
    assert open_image(data).getpixel((3, 3)) == (0, 255, 255)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 128, 255]
    for kind in ("PNG", "TIFF"):
        assert np.asarray(open_image(encoded(Image.fromarray(values), kind)))[0, :, 1].tolist() == expected
    assert np.asarray(upright_rgb(Image.fromarray(values.astype(np.int32))))[0, :, 1].tolist() == expected


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({} if kind != "WEBP" else {"lossless": True})
    )
    assert open_image(data).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"just some text", "is not an image"),
        (encoded(noise(64, 64), "JPEG")[:900], "truncated"),
        (encoded(noise(64, 64))[:2000], "[Tt]runcated"),
        (encoded(noise(64, 64))[:1000] + bytes(1000) + encoded(noise(64, 64))[2000:], "broken|data stream"),
    ],
)
def test_a_damaged_file_says_what_is_wrong_with_it(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    told = []
    for source in (path, content):
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(source)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert "0x" not in told[0]  # no memory addresses: equal runs tell equal reasons


def test_a_missing_file_and_a_folder_are_image_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        open_image(tmp_path / "nothing.jpg")
    with pytest.raises(ImageError, match="directory"):
        open_image(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(12_000, 10_000), (30_000, 30_000)])
def test_more_than_100_megapixels_are_refused_without_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="above 100 megapixels"):
        open_image(png_header(*size))
    with pytest.raises(ImageError, match="runcated"):  # of a fair size the same file fails in the decoder
        open_image(png_header(100, 100))


def test_the_cover_crop_keeps_the_middle_of_a_rectangular_target() -> None:
    image = noise(16, 16)
    assert np.array_equal(fit_image(image, Preprocess((8, 16))), np.asarray(image)[4:12])
    assert np.array_equal(fit_image(image, Preprocess((16, 8))), np.asarray(image)[:, 4:12])
    wide = noise(32, 16)
    assert np.array_equal(fit_image(wide, Preprocess((8, 16), crop_fraction=0.5)), np.asarray(wide)[4:12, 8:24])


def test_squash_keeps_the_whole_image_and_lets_the_aspect_go() -> None:
    image = noise(30, 10)
    record = Preprocess((20, 12), fit="squash", interpolation="bilinear")
    assert np.array_equal(fit_image(image, record), np.asarray(image.resize((12, 20), Image.Resampling.BILINEAR)))


def test_pad_keeps_aspect_and_whole_image_in_the_middle_of_the_mean_colour() -> None:
    image = noise(16, 8)
    record = Preprocess((16, 16), fit="pad", mean=(0.2, 0.4, 1.0))
    out = fit_image(image, record)
    assert np.array_equal(out[4:12], np.asarray(image))
    assert (np.concatenate([out[:4], out[12:]]) == [51, 102, 255]).all()
    out = fit_image(image, Preprocess((8, 32), fit="pad", mean=(0.2, 0.4, 1.0)))
    assert np.array_equal(out[:, 8:24], np.asarray(image))
    assert (np.concatenate([out[:, :8], out[:, 24:]], axis=1) == [51, 102, 255]).all()


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 400), (2000, 3), (1, 1), (7, 5)])
def test_every_size_fits(fit: str, size: tuple[int, int]) -> None:
    assert fit_image(noise(*size), Preprocess((24, 40), fit=fit, crop_fraction=0.9)).shape == (24, 40, 3)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (68, 121), (1023, 767), (256, 256), (300, 299)])
def test_the_deit_rule_is_short_side_256_bicubic_and_the_centre_224(size: tuple[int, int]) -> None:
    image = noise(*size)
    width, height = size
    short = min(size)
    new = (256 if width == short else int(256 * width / short), 256 if height == short else int(256 * height / short))
    resized = np.asarray(image.resize(new, Image.Resampling.BICUBIC))
    top, left = round((new[1] - 224) / 2), round((new[0] - 224) / 2)
    assert np.array_equal(fit_image(image, DEIT), resized[top : top + 224, left : left + 224])


def test_normalising_is_value_over_255_minus_mean_over_std() -> None:
    pixels = np.array([[[0, 51, 255]]], dtype=np.uint8)
    out = normalise(pixels, DEIT)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[0, 0], [-0.485 / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-6)


def test_prepare_is_the_three_steps_in_order() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(40, 30), exif=exif)
    record = Preprocess((16, 24), fit="squash")
    with Image.open(io.BytesIO(data)) as image:
        out = prepare(image, record)
    assert np.array_equal(out, normalise(fit_image(open_image(data), record), record))
    assert out.shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("sizes", "image_size", "fit"),
    [
        ([(28, 28)] * 20, (224, 224), "squash"),
        ([(28, 28), (8, 8), (100, 102)], (96, 96), "squash"),
        ([(480, 640)] * 9 + [(640, 480)] * 9, (224, 224), "crop"),
        ([(480, 640)] * 9, (96, 128), "squash"),
        ([(640, 120)] * 9, (224, 224), "pad"),
        ([(640, 120)] * 9, (640, 120), "squash"),
        ([(28, 28)] * 90 + [(480, 640)] * 10, (224, 224), "crop"),
    ],
)
def test_the_fit_is_chosen_from_the_aspect_ratios(
    sizes: list[tuple[int, int]], image_size: tuple[int, int], fit: str
) -> None:
    chosen, reason = choose_fit(sizes, image_size)
    assert chosen == fit
    assert reason


def test_the_reason_of_a_fit_states_what_is_lost() -> None:
    assert "81%" in choose_fit([(640, 120)], (224, 224))[1]
    assert "keeps 75%" in choose_fit([(480, 640)], (224, 224))[1]
    assert "keeps 57%" in choose_fit([(480, 640)], (224, 224), 0.875)[1]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"fit": "crob"}, "Did you mean 'crop'"),
        ({"interpolation": "nearest"}, "known: bicubic, bilinear"),
        ({"image_size": (0, 3)}, "positive integers"),
        ({"crop_fraction": 0.0}, r"in \(0, 1\]"),
        ({"std": (0.5, 0.5, 0.0)}, "std above 0"),
        ({"mean": (0.5,)}, "one value per channel"),
    ],
)
def test_a_wrong_record_says_what_is_wrong(changes: dict[str, object], found: str) -> None:
    with pytest.raises(UserError, match=found):
        Preprocess(**{"image_size": (8, 8), **changes})  # type: ignore[arg-type]


def test_one_number_is_a_square_size() -> None:
    assert Preprocess(96).image_size == (96, 96)  # type: ignore[arg-type]


def test_the_module_imports_no_torch() -> None:
    code = "import sys, vitkit.data.pixels, vitkit.data.augment, vitkit.data.sources; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_damaged_exif_block_warns_nobody_and_the_image_is_used(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    exif[0x010E] = "a description that is cut off"
    data = encoded(Image.fromarray(PHOTO), "JPEG", exif=exif.tobytes()[:-20])
    (tmp_path / "a.jpg").write_bytes(data)
    code = "import sys; from vitkit.data.pixels import open_image; print(open_image(sys.argv[1]).size)"
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path / "a.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(4, 6)", "")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
def test_real_odd_images_open_or_say_why_not() -> None:
    folder = shared_data("odd_images")
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    too_large = {"made_12000x12000_1bit.png"}  # Pillow would decode it
    cut = {"truncated_end_chunk.png", "broken_data_stream.png"}  # Pillow decodes them and stumbles behind the pixels
    for row in rows:
        path = folder / "files" / row["file"]
        if row["rgb"] != "ok" or row["file"] in too_large | cut:
            with pytest.raises(ImageError) as caught:
                open_image(path.read_bytes())
            assert "<_io" not in str(caught.value)
        else:
            image = open_image(path)
            size = reversed(image.size) if row["orientation"] in {"5", "6", "7", "8"} else image.size
            assert "x".join(map(str, size)) == row["size"], row["file"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
    ],
)
def test_deep_gray_keeps_its_range(values: np.ndarray, expected: list[int]) -> None:
    gray = np.asarray(upright_rgb(Image.fromarray(values)))[0, :, 0]
    assert gray.tolist() == expected


def test_values_outside_every_range_are_refused() -> None:
    for values in (np.array([[-1.0, 5.0]], np.float32), np.array([[0.0, 1e6]], np.float32)):
        with pytest.raises(ImageError, match="expected 0 to"):
            upright_rgb(Image.fromarray(values))
