"""Files to upright RGB: modes, orientation, limits, damage; with bounded memory and without a word on stderr."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from pictures import PHOTO, STORED, chunk, deep, encoded, png
from vitkit.config import UserError
from vitkit.data import decode
from vitkit.data.decode import ImageError, full_size, open_rgb, reduction, upright_rgb


def pixels(data: bytes) -> list[list[list[int]]]:
    return np.asarray(open_rgb(data)).tolist()


# --- orientation


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}), ("MPO", {})],
)
def test_every_container_with_exif_is_turned_upright(kind: str, options: dict[str, object]) -> None:
    for orientation, store in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(store(np.kron(PHOTO, np.ones((16, 16, 1), np.uint8)))))
        out = np.asarray(open_rgb(encoded(stored, kind, exif=exif, **options))).astype(int)
        far = np.abs(out - np.kron(PHOTO, np.ones((16, 16, 1), int)))
        assert far.mean() < (8 if kind == "MPO" else 1e-9), orientation  # JPEG is lossy; another orientation is 85 away


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as the package sets it itself; pytest sets its own
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_broken_exif_block_does_not_lose_the_image(exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        assert open_rgb(encoded(Image.fromarray(PHOTO), kind, exif=exif)).size == (4, 6)


@pytest.mark.parametrize("value", [0, 9, 255, 6000])
def test_an_orientation_that_does_not_exist_means_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(np.asarray(open_rgb(encoded(Image.fromarray(PHOTO), exif=exif))), PHOTO)


# --- modes


def test_sixteen_bit_channels_keep_their_upper_eight() -> None:
    row = b"\0" + deep(65535, 0, 255) + deep(0x1234, 0x5678, 0x9ABC)
    assert pixels(png(2, 1, 16, 2, row)) == [[[255, 0, 0], [0x12, 0x56, 0x9A]]]
    clear = chunk(b"tRNS", deep(65535, 0, 255))
    assert pixels(png(2, 1, 16, 2, row, clear)) == [[[255, 255, 255], [0x12, 0x56, 0x9A]]]
    row = b"\0" + deep(65535, 0, 255, 65535) + deep(1, 2, 3, 0)
    assert pixels(png(2, 1, 16, 6, row)) == [[[255, 0, 0], [255, 255, 255]]]
    assert pixels(png(2, 1, 16, 4, b"\0" + deep(0x1234, 65535) + deep(0x1234, 0))) == [[[0x12] * 3, [255] * 3]]


def test_the_clear_value_of_a_sixteen_bit_gray_png_is_exact() -> None:
    row = b"\0" + deep(0x1234) + deep(0x1235)
    assert pixels(png(2, 1, 16, 0, row, chunk(b"tRNS", deep(0x1234)))) == [[[255] * 3, [0x12] * 3]]


def test_one_two_and_four_bits_are_spread_over_the_range() -> None:
    assert pixels(png(2, 1, 1, 0, b"\0\x40")) == [[[0] * 3, [255] * 3]]
    assert pixels(png(4, 1, 2, 0, b"\0\x1b")) == [[[0] * 3, [85] * 3, [170] * 3, [255] * 3]]
    assert pixels(png(4, 1, 2, 0, b"\0\x1b", chunk(b"tRNS", deep(1)))) == [[[0] * 3, [255] * 3, [170] * 3, [255] * 3]]
    assert pixels(png(2, 1, 4, 0, b"\0\x0f")) == [[[0] * 3, [255] * 3]]


def test_cmyk_of_a_jpeg_is_inverted_as_adobe_writes_it() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.abs(np.asarray(open_rgb(encoded(cyan, "JPEG"))).astype(int) - [0, 255, 255]).max() <= 2
    assert pixels(encoded(cyan, "TIFF"))[0][0] == [0, 255, 255]


def test_ycbcr_and_lab_are_converted() -> None:
    assert pixels(encoded(Image.new("YCbCr", (1, 1), (128, 128, 128)), "TIFF")) == [[[128, 128, 128]]]
    red = pixels(encoded(Image.new("LAB", (1, 1), (136, 208, 195)), "TIFF"))[0][0]
    assert red[0] > 200
    assert max(red[1:]) < 60


def test_palette_with_alpha_and_premultiplied_modes_lie_over_white() -> None:
    for mode in ("PA", "RGBa", "La"):
        clear = Image.new("LA" if mode == "La" else "RGBA", (2, 2)).convert(mode)
        assert np.asarray(upright_rgb(clear)).tolist() == [[[255] * 3] * 2] * 2, mode


def test_the_first_page_and_the_largest_icon_count(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (4, 4), colour) for colour in ((9, 8, 7), (0, 0, 255))]
    assert pixels(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))[0][0] == [9, 8, 7]
    icon = encoded(Image.new("RGB", (48, 48), (1, 2, 3)), "ICO", sizes=[(16, 16), (48, 48), (32, 32)])
    assert open_rgb(icon).size == (48, 48)


def test_a_colour_profile_is_not_applied() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert pixels(encoded(Image.fromarray(PHOTO), icc_profile=profile)) == PHOTO.tolist()


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ImageError, match="expected 0 to"):
        open_rgb(encoded(Image.fromarray(np.array([[0.5, np.nan]], np.float32)), "TIFF"))


def test_only_formats_of_images_are_read() -> None:
    with pytest.raises(ImageError, match="EPS file"):  # would start another program
        open_rgb(encoded(Image.fromarray(PHOTO), "EPS"))


# --- limits


def test_the_limit_is_an_argument_and_leaves_nothing_behind() -> None:
    data = encoded(Image.fromarray(PHOTO))
    guard = Image.MAX_IMAGE_PIXELS
    assert open_rgb(data, max_pixels=24).size == (4, 6)
    with pytest.raises(ImageError, match=r"4x6 is above 2\.3e-05 megapixels; --max-pixels N allows more"):
        open_rgb(data, max_pixels=23)
    assert open_rgb(data).size == (4, 6)
    assert guard == Image.MAX_IMAGE_PIXELS


def test_more_than_pillow_allows_can_be_allowed() -> None:
    black = png(20_000, 10_000, 1, 0, bytes(2501) * 10_000)
    with pytest.raises(ImageError, match="200 megapixels are above 100 megapixels"):
        open_rgb(black)
    guard = Image.MAX_IMAGE_PIXELS
    image = open_rgb(black, max_pixels=200_000_000)
    assert guard == Image.MAX_IMAGE_PIXELS
    assert full_size(image) == (20_000, 10_000)
    assert image.width * image.height <= decode.REDUCED_ABOVE
    assert image.getextrema() == ((0, 0),) * 3


def test_large_images_are_means_of_squares_whatever_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "REDUCED_ABOVE", 1000)
    monkeypatch.setattr(decode, "TILE", 300)
    values = np.random.default_rng(0).integers(0, 256, (95, 61, 4), dtype=np.uint8)
    whole = Image.fromarray(values)
    over_white = Image.alpha_composite(Image.new("RGBA", whole.size, (255,) * 4), whole).convert("RGB")
    factor = reduction(whole.size)
    assert factor == 3
    image = open_rgb(encoded(whole))
    assert np.array_equal(np.asarray(image), np.asarray(over_white.reduce(factor)))
    assert full_size(image) == (61, 95)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert full_size(open_rgb(encoded(whole, exif=exif))) == (95, 61)
    assert full_size(upright_rgb(image)) == (61, 95)  # of an image that was opened before


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 4001)])
def test_thin_images_are_reduced_too(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "REDUCED_ABOVE", 1000)
    monkeypatch.setattr(decode, "TILE", 64)
    assert set(np.asarray(open_rgb(encoded(Image.new("L", size, 77)))).ravel().tolist()) == {77}


def test_a_very_large_jpeg_shrinks_in_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "REDUCED_ABOVE", 20_000)
    monkeypatch.setattr(decode, "DRAFT_ABOVE", 100_000)
    data = encoded(Image.new("RGB", (640, 480), (200, 100, 50)), "JPEG")
    image = open_rgb(data)
    assert image.width * image.height <= 20_000
    assert full_size(image) == (640, 480)
    assert image.getpixel((10, 10)) == pytest.approx((200, 100, 50), abs=3)


def child(code: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program with every warning shown; a minute is a hang."""
    command = [sys.executable, "-W", "always", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, input=stdin, timeout=60, check=False)


PEAK = """
import resource, sys
from vitkit.data.decode import ImageError, open_rgb
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_rgb(data)
except ImageError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_transparency_of_a_large_image_takes_little_more_than_the_image() -> None:
    width, height = 4000, 9000  # 36 megapixels, 144 MB decoded; as a whole it would take four times that
    packer = zlib.compressobj(1)
    row = b"\0" + b"\xc8\x64\x00\x80" * width
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    done = child(PEAK, stdin=b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    assert int(done.stdout) < 320


@functools.cache
def bombs() -> dict[str, bytes]:
    """Small files that claim or unpack to much."""
    zeros = zlib.compress(bytes(2**26), 9)
    plain = png(8, 8, 8, 2, (b"\0" + bytes(24)) * 8)
    strip = struct.pack("<HHI", 0, 0, 0)
    tags = [
        (256, 4, 1, 60_000), (257, 4, 1, 1_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
        (277, 3, 1, 1), (278, 4, 1, 1_000), (279, 4, 1, 4_000_000_000), (50_000, 2, 4_000_000_000, 8),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    tiff = b"II*\0" + struct.pack("<I", 16) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 9999, 10000, 1, 32, 0, 0, 0, 0, 0, 0)
    )
    texts = b"".join(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 1), 9)) for _ in range(200))
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x01\x44\0;"
    return {
        "text": plain[:33] + chunk(b"zTXt", b"a\0\0" + zeros) + plain[33:],
        "texts": plain[:33] + texts + plain[33:],
        "profile": plain[:33] + chunk(b"iCCP", b"a\0\0" + zeros) + plain[33:],
        "pixels": png(8, 8, 8, 2, bytes(2**26)),
        "tiff": tiff,
        "bmp": bmp,
        "gif": b"GIF89a" + struct.pack("<HHBBB", 9000, 9000, 0x80, 0, 0) + bytes(6) + frame,
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_takes_no_memory_and_says_nothing(name: str) -> None:
    done = child(PEAK, stdin=bombs()[name])
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    *_, peak = done.stdout.split()
    assert int(peak) < (450 if name == "bmp" else 120)  # 100 megapixels of 4 bytes are within the limit


@pytest.mark.parametrize("name", ["tiff", "bmp"])
def test_where_memory_ends_the_file_is_listed(name: str) -> None:
    code = (
        "import resource; import vitkit.data.decode, numpy; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        + PEAK
    )
    done = child(code, stdin=bombs()[name])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_progressive_jpeg_of_very_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)
    assert open_rgb(data).size == (64, 64)
    start = data.index(b"\xff\xda")
    many = data[:start] + data[start:-2] * 30 + data[-2:]
    monkeypatch.setattr(decode, "MAX_SCAN_PIXELS", 64 * 64 * 40)
    assert open_rgb(data).size == (64, 64)
    with pytest.raises(ImageError, match=r"in \d+ scans"):
        open_rgb(many)


# --- damage and hazards

KINDS = {
    "BMP": {}, "GIF": {}, "ICO": {}, "JPEG": {}, "JPEG progressive": {"progressive": True}, "JPEG2000": {}, "PNG": {}, "PPM": {},
    "TGA": {}, "TGA rle": {"compression": "tga_rle"}, "TIFF": {}, "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF deflate": {"compression": "tiff_adobe_deflate"}, "TIFF jpeg": {"compression": "jpeg"}, "WEBP": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_refused_and_never_half_an_image(kind: str) -> None:
    photo = np.kron(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    whole = encoded(Image.fromarray(photo), kind.split()[0], **KINDS[kind])
    assert open_rgb(whole).size == (64, 64)
    for part in (0.1, 0.5, 0.7, 0.9):
        with pytest.raises(ImageError):
            open_rgb(whole[: int(part * len(whole))])


def test_damaged_bytes_of_every_kind_raise_nothing_else_and_print_nothing(tmp_path: Path) -> None:
    photo = Image.fromarray(np.kron(PHOTO, np.ones((4, 4, 1), np.uint8)))
    for kind, options in KINDS.items():
        (tmp_path / f"{kind}.img").write_bytes(encoded(photo, kind.split()[0], **options))
    code = """
import sys
import numpy as np
from pathlib import Path
from vitkit.data.decode import ImageError, open_rgb
rng = np.random.default_rng(0)
used = refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    whole = path.read_bytes()
    for trial in range(40):
        data = bytearray(whole)
        for _ in range(4):
            data[rng.integers(min(len(data), 80 if trial % 2 else 10**9))] = rng.integers(256)
        try:
            open_rgb(bytes(data))
            used += 1
        except ImageError:
            refused += 1
print(used > 20, refused > 20)
"""
    done = child(code, str(tmp_path))
    assert (done.stdout, done.stderr) == (b"True True\n", b"")


def test_truncated_files_are_not_whole_even_where_a_program_told_pillow_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UserError, match="LOAD_TRUNCATED_IMAGES") as caught:
        open_rgb(encoded(Image.fromarray(PHOTO)))
    assert not isinstance(caught.value, ImageError)  # it is not one file's fault


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", Path("/dev/zero")):
        with pytest.raises(ImageError, match="not a regular file"):
            open_rgb(path)


def test_threads_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "REDUCED_ABOVE", 100)  # so that some take turns
    guard = Image.MAX_IMAGE_PIXELS
    files = [encoded(Image.new("RGB", (8 + i % 5, 8 + i % 7), (i, 0, 0))) for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        reds = [image.getpixel((0, 0))[0] for image in pool.map(open_rgb, files)]
    assert reds == list(range(100))
    assert guard == Image.MAX_IMAGE_PIXELS


def test_a_forked_child_does_not_wait_for_a_thread_it_has_not() -> None:
    with decode._LARGE.turn(None):
        pid = os.fork()
        if not pid:
            os._exit(0 if decode._LARGE.lock.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_bytes_of_a_tall_stored_file_are_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(PHOTO).save(path)
    for _ in range(3):
        open_rgb(path)
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    ]
    assert str(path) not in held
