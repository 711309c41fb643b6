"""Image files to upright RGB images, every kind by one stated rule: docs/reference/images.md. Pillow and numpy only."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from vitkit.config import UserError
from vitkit.data.containers import ImageSource, read_bytes

__all__ = [
    "MAX_PIXELS",
    "ImageError",
    "above_limit",
    "full_size",
    "open_rgb",
    "opened",
    "orientation_of",
    "reduction",
    "turn",
    "upright_rgb",
]

MAX_PIXELS = 100_000_000  # larger images are refused before they are decoded, unless the user allows more
REDUCED_ABOVE = 32_000_000  # pixels; larger images are shrunk to at most this many while they are converted
DRAFT_ABOVE = 100_000_000  # pixels; larger JPEG files are shrunk in the decoder already
TILE = 2**22  # pixels that are converted at a time: what conversion needs beside the decoded image stays small
MAX_SCAN_PIXELS = 3_000_000_000  # scans x pixels of a progressive JPEG; ten scans of 100 megapixels are 1e9

FORMATS = frozenset(
    ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
)
ALPHA = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))
TURNS = {  # EXIF orientation (TIFF 6.0, tag 274) -> what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_ORIENTATION = 0x0112
MORE = "; --max-pixels N allows more"
FULL_SIZE = "vitkit_full_size"  # key of `Image.info`

# A file's oddities are judged here, by size and by whether it decodes; Pillow's advice to developers is not for users.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors go to stderr where nobody set up logging


class ImageError(UserError):
    """One image that cannot be used, with the reason."""


class _LargeImage:
    """Lets one large image at a time be decoded in a process, so that threads do not add up their memory."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)  # a lock that another thread held would stay held in the child

    def renew(self) -> None:
        self.lock = threading.Lock()

    @contextmanager
    def turn(self, pillow_limit: int | None) -> Iterator[None]:
        """Wait for the turn; meanwhile Pillow's own guard, a global, stands at ``pillow_limit`` pixels."""
        with self.lock:
            before = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = pillow_limit
            try:
                yield
            finally:
                Image.MAX_IMAGE_PIXELS = before
                _give_back()


def _give_back() -> None:
    """Return freed memory to the system: glibc would keep a large image's for each thread that decoded one."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


_LARGE = _LargeImage()


def open_rgb(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file, bytes, or an image inside a larger file to an upright RGB image; see `upright_rgb`.

    Raises:
        ImageError: missing, not an image, truncated, or of more than ``max_pixels``.
    """
    with opened(source, max_pixels) as image:
        upright = upright_rgb(image)
        if upright is not image:
            image.close()  # gives its memory back before the next large image gets its turn
        return upright


@contextmanager
def opened(source: ImageSource, max_pixels: int) -> Iterator[Image.Image]:
    """An image whose header was read and whose size is within the limit; what goes wrong inside is that file's fault.

    Raises:
        ImageError: as `open_rgb`.
        UserError: this process lets Pillow take truncated files for whole ones.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UserError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process, so that the missing part of a truncated file would "
            "count as gray pixels. Set it to False; truncated files are then listed."
        )
    file: BinaryIO | None = None
    try:
        file = _file(source)
        image = _header(file, max_pixels)
        pixels = image.width * image.height
        if image.format not in FORMATS:
            raise ImageError(f"is a {image.format} file; known: {', '.join(sorted(FORMATS))}")
        if pixels > max_pixels:
            raise above_limit(image.width, image.height, max_pixels)
        _check_scans(image, file)
        if image.format == "TIFF":
            _quiet_libtiff()
        if image.format == "ICO":  # the picture inside has a header of its own; Pillow refuses twice its guard
            with _LARGE.turn(max_pixels // 2):
                yield image
        elif pixels > REDUCED_ABOVE:
            with _LARGE.turn(max(pixels, Image.MAX_IMAGE_PIXELS or 0)):
                yield image
        else:
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("does not exist") from None
    except UnidentifiedImageError:  # its text holds the path, or the address of the bytes in memory
        raise ImageError("is not an image that can be read") from None
    except Image.DecompressionBombError:  # a part of the file claims more than the whole
        raise ImageError("holds parts that are larger than the image says") from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if error.strerror else f"OSError: {error}"
        raise ImageError(reason) from None
    except Exception as error:  # Pillow's decoders raise many types on broken files; each is this file's fault
        raise ImageError(f"{type(error).__name__}: {str(error) or 'cannot be decoded'}") from None
    finally:
        if file is not None:
            file.close()


@functools.cache
def _quiet_libtiff() -> None:
    """Stop libtiff from writing to stderr what Pillow raises as well; where its library is not found, it goes on."""
    package = Path(Image.__file__).parent
    for path in (*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")):  # of Pillow's wheels
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(path)).TIFFSetErrorHandler(None)


def _file(source: ImageSource) -> BinaryIO:
    """The encoded image, open for reading; what is no regular file could wait or go on forever."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.exists() and not path.is_file():
            raise ImageError("is a directory" if path.is_dir() else "is not a regular file")
        if path.exists() and not path.stat().st_size:
            raise ImageError("is empty")
        return path.open("rb")
    content = read_bytes(source)
    if not content:
        raise ImageError("is empty")
    return io.BytesIO(content)


def _header(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read the header alone. Pillow's guard stands while it does: formats allocate what a header claims."""
    try:
        return Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        if found and int(found[1]) > max_pixels:
            raise ImageError(
                f"{int(found[1]) / 10**6:,.0f} megapixels are above {max_pixels / 10**6:g} megapixels{MORE}"
            ) from None
    with _LARGE.turn(max_pixels):
        return Image.open(file)


def above_limit(width: int, height: int, max_pixels: int) -> ImageError:
    """What is said of an image that is too large to be decoded."""
    return ImageError(f"{width}x{height} is above {max_pixels / 10**6:g} megapixels{MORE}")


def _check_scans(image: Image.Image, file: BinaryIO) -> None:
    """Refuse a progressive JPEG whose many scans would take minutes; each goes over the whole image.

    Raises:
        ImageError: scans times pixels above `MAX_SCAN_PIXELS`.
    """
    if image.format not in ("JPEG", "MPO") or not image.info.get("progressive"):
        return
    if image.width * image.height * 1000 <= MAX_SCAN_PIXELS:  # small: no number of scans takes long
        return
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")  # start-of-scan markers; entropy-coded data never holds one
    file.seek(place)
    if scans > 20 and scans * image.width * image.height > MAX_SCAN_PIXELS:
        raise ImageError(f"a progressive JPEG of {image.width}x{image.height} in {scans} scans; expected at most 20")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode, convert to RGB and apply the EXIF orientation.

    Rules: first frame of an animation, first page, largest icon; transparency over white; deeper gray scaled to 8 bits by
    its declared depth; palette, gray, CMYK, YCbCr and LAB converted by Pillow; colour profiles not applied. More than
    `REDUCED_ABOVE` pixels are shrunk by a whole factor, each new pixel the mean of a square; `full_size` remembers.

    Raises:
        ImageError: a mode that has no conversion, or values outside its range.
    """
    size = image.size
    _spread_clear(image)
    if size[0] * size[1] > DRAFT_ABOVE and image.format in ("JPEG", "MPO"):
        factor = reduction(size)
        image.draft(None, (-(-size[0] // factor), -(-size[1] // factor)))
        image.load()
    else:
        image.load()
        size = image.size  # Pillow turns TIFF files upright as it loads them
    orientation = orientation_of(image)
    top = _top(image)
    factor = reduction(image.size)
    plain = image.mode == "RGB" and "transparency" not in image.info
    if factor == 1 and (plain or size[0] * size[1] <= TILE):
        rgb = _flat(image, top)
    else:
        rgb = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
        for box in _tiles(image.size, factor):
            part = _flat(image.crop(box), top)
            rgb.paste(part if factor == 1 else part.reduce(factor), (box[0] // factor, box[1] // factor))
    upright = turn(rgb, orientation)
    if upright is not image:
        upright.info = {}  # among it the orientation, which must not be applied again
    if upright.width * upright.height < size[0] * size[1]:
        upright.info[FULL_SIZE] = size[::-1] if orientation >= 5 else size
    elif FULL_SIZE in image.info:
        upright.info[FULL_SIZE] = image.info[FULL_SIZE]
    return upright


def _spread_clear(image: Image.Image) -> None:
    """Pillow spreads gray of 2 and 4 bits over 0 to 255 as it loads them, but not the transparent value beside it."""
    tiles, clear = getattr(image, "tile", ()), image.info.get("transparency")
    if image.mode == "L" and image.format == "PNG" and tiles and isinstance(clear, int):  # no tiles: loaded before
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}.get(str(tiles[0][3]), 1)


def full_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the image in its file, upright, also where `upright_rgb` shrank it."""
    width, height = image.info.get(FULL_SIZE, image.size)
    return width, height


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 to 8; 1 where nothing readable says it."""
    try:
        found = image.getexif().get(EXIF_ORIENTATION, 1)
        return int(found) if found in TURNS else 1
    except Exception:  # a broken EXIF block of any kind; the pixels are whole
        return 1


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Make an image of this EXIF orientation upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def reduction(size: tuple[int, int]) -> int:
    """The smallest whole factor that shrinks ``size`` to at most `REDUCED_ABOVE` pixels."""
    factor = 1
    while -(-size[0] // factor) * -(-size[1] // factor) > REDUCED_ABOVE:
        factor += 1
    return factor


def _tiles(size: tuple[int, int], factor: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of about `TILE` pixels that cover an image, at multiples of ``factor``."""
    width, height = size
    across = max(1, min(width, TILE // factor) // factor) * factor
    down = max(1, TILE // across // factor) * factor
    for y in range(0, height, down):
        for x in range(0, width, across):
            yield x, y, min(x + across, width), min(y + down, height)


def _top(image: Image.Image) -> float | None:
    """The value that means white in an image of deeper gray; None for other modes.

    Raises:
        ImageError: values outside the declared range.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    low, high = float("inf"), float("-inf")
    for box in _tiles(image.size, 1):
        values = np.asarray(image.crop(box))
        low, high = float(np.minimum(low, values.min())), float(np.maximum(high, values.max()))  # nan stays nan
    if image.mode == "F":
        top = 1.0 if high <= 1 else 255.0
    else:
        declared = getattr(image, "tag_v2", {}).get(258, 8 if image.mode == "I" and high <= 255 else 16)  # TIFF's bits
        top = float(2 ** min(declared[0] if isinstance(declared, tuple) else declared, 16) - 1)
    if not (low >= 0 and high <= top):  # also refuses nan
        raise ImageError(f"mode {image.mode} with values from {low:g} to {high:g}; expected 0 to {top:g}")
    return top


def _flat(image: Image.Image, top: float | None) -> Image.Image:
    """An image or a part of one to RGB, transparency over white."""
    clear = image.info.get("transparency")
    if top is not None:
        values = np.asarray(image)
        eight = np.round(values * (255 / top)) if image.mode == "F" else values.astype(np.int64) >> _shift(top)
        if isinstance(clear, int):
            eight = np.where(values == clear, 255, eight)
        image = Image.fromarray(eight.astype(np.uint8))
    elif isinstance(clear, tuple) and max(clear) > 255:  # of a file with 16 bits a channel, whose upper 8 Pillow keeps
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"mode {image.mode} cannot be converted to RGB: {error}") from None


def _shift(top: float) -> int:
    """Bits to drop so that ``top`` becomes 255."""
    return max(0, int(top).bit_length() - 8)
