"""Images of any number of channels: `.npy` arrays, multi-band TIFF, and the bands of ordinary images. No torch.

An image of C != 3 channels is `Bands`, one float32 plane per channel, with the few methods of a Pillow image that fitting
and augmenting use, so that both kinds go through one geometry.

Value range: 8-bit integers / 255, 16-bit integers / 65535, float32 as it is.
"""

from __future__ import annotations

import io
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from vitkit.config import UserError
from vitkit.data.containers import ImageSource, read_bytes
from vitkit.data.decode import (
    EXIF_ORIENTATION,
    TURNS,
    ImageError,
    above_limit,
    opened,
    orientation_of,
    reduction,
    turn,
    upright_rgb,
)

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = [
    "MAX_CHANNELS",
    "Bands",
    "array_start",
    "bands_of",
    "image_bands",
    "measure_channels",
    "open_array",
    "open_bands",
    "rgb_of",
]

Array = np.ndarray
Box = tuple[float, float, float, float]
MAX_CHANNELS = 64
SCALES = {"u1": 255.0, "u2": 65535.0, "f4": 1.0}  # kind and bytes of a value -> what 1.0 is in the file
NPY_MAGIC = b"\x93NUMPY"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
COLOURS = {"P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}  # modes that mean another one
KEPT = ("1", "L", "LA", "F", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its warnings go to stderr


@dataclass(frozen=True)
class Bands:
    """An upright image of C channels: planes of Pillow's mode F, all of one size."""

    planes: tuple[Image.Image, ...]
    full: tuple[int, int]  # (width, height) of the image in its file

    @classmethod
    def of(cls, values: Array, full: tuple[int, int] | None = None) -> Bands:
        """Values (H, W, C), float32."""
        planes = tuple(Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(values.shape[2]))
        return cls(planes, full or planes[0].size)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as Pillow has it."""
        return self.planes[0].size

    @property
    def width(self) -> int:
        return self.planes[0].width

    @property
    def height(self) -> int:
        return self.planes[0].height

    def array(self) -> Array:
        """float32 (H, W, C)."""
        return np.stack([np.asarray(plane) for plane in self.planes], axis=-1)

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling,
        box: Box | None = None,
        reducing_gap: float | None = None,
    ) -> Bands:
        """Antialiased, plane by plane; nothing is rounded or clipped."""
        return self._each(lambda plane: plane.resize(size, resample, box, reducing_gap))

    def crop(self, box: tuple[int, int, int, int]) -> Bands:
        return self._each(lambda plane: plane.crop(box))

    def transpose(self, method: Image.Transpose) -> Bands:
        return self._each(lambda plane: plane.transpose(method))

    def padded(self, size: tuple[int, int], at: tuple[int, int], fill: Sequence[float]) -> Bands:
        """This image at the place ``at`` of a canvas of one value per channel."""
        planes = []
        for plane, value in zip(self.planes, fill, strict=True):
            canvas = Image.new("F", size, value)
            canvas.paste(plane, at)
            planes.append(canvas)
        return Bands(tuple(planes), self.full)

    def _each(self, change: Callable[[Image.Image], Image.Image]) -> Bands:
        return Bands(tuple(change(plane) for plane in self.planes), self.full)


def array_start(source: ImageSource) -> bool:
    """Is it a `.npy` file, by its first bytes?"""
    return _start(source).startswith(NPY_MAGIC)


def open_bands(source: ImageSource, channels: int, max_pixels: int) -> Bands:
    """Decode a `.npy` array, a TIFF or an ordinary image to its ``channels`` channels, upright.

    Raises:
        ImageError: missing, damaged, of another number of channels, or of more than ``max_pixels`` (of three channels:
            what counts is height x width x channels / 3).
        UserError: a TIFF with more bands than Pillow reads, where tifffile is not installed.
    """
    start = _start(source)
    if start.startswith(NPY_MAGIC):
        return bands_of(open_array(source), channels, max_pixels)
    if start.startswith(TIFF_MAGIC):
        return _open_tiff(source, channels, max_pixels)
    with opened(source, max_pixels) as image:
        return image_bands(image, channels, max_pixels)


def image_bands(image: Image.Image, channels: int, max_pixels: int | None = None) -> Bands:
    """The channels of a Pillow image, upright; a palette means RGB, and a transparent colour is none.

    Raises:
        ImageError: as `open_bands`.
    """
    mode = COLOURS.get(image.mode, image.mode)
    limit = image.width * image.height * MAX_CHANNELS if max_pixels is None else max_pixels
    _check(image.size, channels, len(Image.new(mode, (1, 1)).getbands()), limit)
    image.load()
    upright = turn(image, orientation_of(image))
    if mode not in KEPT and not mode.startswith("I;16"):
        raise ImageError(f"mode {mode} has no rule for other than 3 channels; expected 8 or 16 bits or float32")
    values = np.asarray(upright if upright.mode == mode else upright.convert(mode))
    return bands_of(values.astype(np.uint8) * 255 if mode == "1" else values, channels, limit)


def bands_of(values: Array, channels: int, max_pixels: int) -> Bands:
    """An array (H, W) or (H, W, C) of a known type of value to `Bands`; large ones are shrunk as RGB images are.

    Raises:
        ImageError: another shape or type, or values that are not finite.
    """
    kind = f"{values.dtype.kind}{values.dtype.itemsize}"
    if kind not in SCALES:
        raise ImageError(f"an array of {values.dtype}; expected uint8, uint16 or float32")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ImageError(f"an array of shape {values.shape}; expected (height, width) or (height, width, channels)")
    cube = values[..., None] if values.ndim == 2 else values
    size = cube.shape[1], cube.shape[0]
    _check(size, channels, cube.shape[2], max_pixels, cube.shape[0])
    factor = reduction(size)
    planes = []
    for c in range(channels):  # one at a time: a mapped file is never in memory as a whole
        plane = np.asarray(cube[..., c], np.float32, order="C")
        if not math.isfinite(float(plane.sum(dtype=np.float64))):
            raise ImageError(f"channel {c} holds values that are not finite")
        image = Image.fromarray(plane / np.float32(SCALES[kind]) if SCALES[kind] != 1 else plane)
        planes.append(image if factor == 1 else image.reduce(factor))
    return Bands(tuple(planes), size)


def measure_channels(
    sources: Sequence[ImageSource], channels: int, max_pixels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over images, every image counting alike; 1 for a constant channel's.

    Raises:
        ImageError: an image that cannot be used.
    """
    sums, squares = np.zeros(channels), np.zeros(channels)
    for source in sources:
        for c, plane in enumerate(open_bands(source, channels, max_pixels).planes):
            values = np.asarray(plane, np.float64)
            sums[c] += values.mean()
            squares[c] += np.square(values).mean()
    mean = sums / len(sources)
    variance = squares / len(sources) - mean**2
    varied = variance > 1e-12 * np.maximum(mean**2, 1e-12)  # what is below is rounding
    std = np.sqrt(np.where(varied, variance, 1.0))
    return tuple(mean.tolist()), tuple(std.tolist())


def rgb_of(values: Array, max_pixels: int) -> Image.Image:
    """An array (H, W) or (H, W, 3) to an RGB image, by the rules of deeper gray: 16 bits by their upper 8, floats of [0, 1]
    or [0, 255].

    Raises:
        ImageError: another shape or type, or values outside their range.
    """
    kind = f"{values.dtype.kind}{values.dtype.itemsize}"
    if kind not in SCALES:
        raise ImageError(f"an array of {values.dtype}; expected uint8, uint16 or float32")
    if values.ndim not in (2, 3) or 0 in values.shape or (values.ndim == 3 and values.shape[2] != 3):
        raise ImageError(
            f"an array of shape {values.shape}; expected (height, width) or (height, width, 3), "
            "or training with --channels of other than 3"
        )
    if values.shape[0] * values.shape[1] > max_pixels:
        raise above_limit(values.shape[1], values.shape[0], max_pixels)
    values = np.asarray(values, values.dtype.newbyteorder("="))
    if kind == "u2":
        values = values >> 8
    elif kind == "f4":
        low, high = float(values.min()), float(values.max())
        top = 1.0 if high <= 1 else 255.0
        if not (low >= 0 and high <= top):  # also refuses nan
            raise ImageError(f"float values from {low:g} to {high:g}; expected 0 to {top:g}")
        values = np.round(values * np.float32(255 / top))
    return upright_rgb(Image.fromarray(np.ascontiguousarray(values, np.uint8)))


def _check(size: tuple[int, int], channels: int, found: int, max_pixels: int, first: int = 0) -> None:
    """Raises: ImageError: another number of channels, or too large."""
    if found != channels:
        hint = "; arrays are (height, width, channels)" if first == channels else ""
        raise ImageError(f"found {found} channels, expected {channels}{hint}")
    if size[0] * size[1] * max(channels, 3) > 3 * max_pixels:
        raise above_limit(*size, max_pixels)


def _start(source: ImageSource) -> bytes:
    """The first bytes; empty where `opened` has something to say about the source."""
    if not isinstance(source, str | Path):
        return read_bytes(source)[:8]
    path = Path(source)
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(8)


def open_array(source: ImageSource) -> Array:
    """The array of a `.npy` file, mapped where it is a file of its own. Nothing in it is executed.

    Raises:
        ImageError: damaged, of Python objects, or of another length than its header says.
    """
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                shape, fortran, dtype = _npy_header(file)
                place, length = file.tell(), file.seek(0, io.SEEK_END)
            _check_length(shape, dtype, length - place)
            order: Any = "F" if fortran else "C"
            return np.memmap(source, dtype, "r", place, shape, order)
        stored = io.BytesIO(read_bytes(source))
        shape, fortran, dtype = _npy_header(stored)
        view = stored.getbuffer()
        _check_length(shape, dtype, len(view) - stored.tell())
        flat = np.frombuffer(view, dtype, math.prod(shape), stored.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # numpy's header parser raises many types
        raise ImageError(f"is not a whole .npy file: {error}") from None


def _npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, column-major order and type of value; the file then stands at the first value."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ImageError(f"a .npy file of version {version}; expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](file)
    if f"{dtype.kind}{dtype.itemsize}" not in SCALES:
        raise ImageError(f"an array of {dtype}; expected uint8, uint16 or float32")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ImageError(f"an array of shape {shape}; expected (height, width) or (height, width, channels)")
    return shape, fortran, dtype


def _check_length(shape: tuple[int, ...], dtype: np.dtype[Any], found: int) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ImageError(f"a .npy file with {found} bytes of values; its header says {shape} {dtype}, {expected} bytes")


def _check_segments(page: TiffPage) -> None:
    """Refuse strips and tiles that lie: beyond the file's end, or unpacking to more than their pixels.

    Raises:
        ImageError: such a one.
    """
    file = page.parent.filehandle
    if sum(page.databytecounts) > file.size:
        raise ImageError(f"a TIFF of {file.size} bytes that claims {sum(page.databytecounts)} bytes of pixels")
    if page.compression not in (8, 32946):  # deflate alone is unpacked whole, up to a thousand times its size
        return
    most = math.prod(page.chunks) * (page.dtype.itemsize if page.dtype else 1)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        if len(zlib.decompressobj().decompress(file.read(count), most + 1)) > most:
            raise ImageError(f"a strip or tile of the TIFF unpacks to more than its {most} bytes")


def _open_tiff(source: ImageSource, channels: int, max_pixels: int) -> Bands:
    """The first page of a TIFF, its bands last."""
    try:
        import tifffile
    except ImportError:
        raise UserError("TIFF files with --channels need tifffile: pip install 'vitkit[multichannel]'.") from None
    try:
        with tifffile.TiffFile(source if isinstance(source, str | Path) else io.BytesIO(read_bytes(source))) as tiff:
            page = tiff.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            height, width, found = page.imagelength, page.imagewidth, page.samplesperpixel
            _check((width, height), channels, found, max_pixels)
            if page.imagedepth != 1 or f"{page.dtype.kind}{page.dtype.itemsize}" not in SCALES:  # type: ignore[union-attr]
                raise ImageError(f"a TIFF of {page.dtype}; expected one plane of uint8, uint16 or float32")
            if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
                raise ImageError("a TIFF with a palette; expected channels")
            _check_segments(page)
            values = page.asarray().reshape(
                (found, height, width) if page.planarconfig == 2 and found > 1 else (height, width, found)
            )
            if page.planarconfig == 2 and found > 1:
                values = np.moveaxis(values, 0, -1)
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                values = np.iinfo(values.dtype).max - values if values.dtype.kind == "u" else -values
            tag = page.tags.get(EXIF_ORIENTATION)
    except ImageError:
        raise
    except Exception as error:  # tifffile and its decoders raise many types on broken files
        more = ": pip install imagecodecs" if "imagecodecs" in str(error) else ""
        raise ImageError(f"{type(error).__name__}: {str(error) or 'cannot be decoded'}{more}") from None
    bands = bands_of(values, channels, max_pixels)
    orientation = int(tag.value) if tag is not None and tag.value in TURNS else 1
    if orientation == 1:
        return bands
    turned = bands.transpose(TURNS[orientation])
    return Bands(turned.planes, bands.full[::-1] if orientation >= 5 else bands.full)
