"""From the model's image back to the original: which of its pixels the model sees, and where. Numpy only.

What `pixels.fit_image` does is undone by the same numbers, `pixels.place`.
"""

from __future__ import annotations

from typing import NamedTuple

from vitkit.data.pixels import Preprocess, place

__all__ = ["Box", "input_box", "seen_box", "seen_share"]


class Box(NamedTuple):
    """A rectangle in pixels of an upright image; x to the right, y down, fractions of pixels count."""

    left: float
    top: float
    right: float
    bottom: float

    def scaled(self, x: float, y: float) -> Box:
        """The same rectangle where the image is ``x`` times as wide and ``y`` times as high."""
        return Box(self.left * x, self.top * y, self.right * x, self.bottom * y)

    def within(self, size: tuple[int, int]) -> Box:
        """The part of it that lies inside an image of ``size`` (height, width)."""
        height, width = size
        return Box(
            max(0.0, self.left), max(0.0, self.top), min(float(width), self.right), min(float(height), self.bottom)
        )

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


def input_box(record: Preprocess, size: tuple[int, int], covered: tuple[int, int] | None = None) -> Box:
    """Where the model's image lies over an upright original of ``size`` (height, width), in the original's pixels.

    It reaches beyond the original where that is padded.

    Args:
        covered: (height, width) of the model's pixels, from the upper left, that its patches cover; None: all of them.

    Raises:
        ImageError: an original without pixels.
    """
    height, width = size
    new_h, new_w, top, left = place(record, size)
    H, W = covered or record.image_size
    return Box(left, top, left + W, top + H).scaled(width / new_w, height / new_h)


def seen_box(record: Preprocess, size: tuple[int, int], covered: tuple[int, int] | None = None) -> Box:
    """The part of an upright original of ``size`` (height, width) that the model sees, in its pixels; see `input_box`.

    Antialiasing mixes in a little of the pixels just outside.
    """
    return input_box(record, size, covered).within(size)


def seen_share(record: Preprocess, size: tuple[int, int], covered: tuple[int, int] | None = None) -> float:
    """The part of an original's area that the model sees, in (0, 1]."""
    return seen_box(record, size, covered).area / (size[0] * size[1])
