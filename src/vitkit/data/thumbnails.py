"""Small pictures of images, as data: addresses that a page can hold."""

from __future__ import annotations

import base64
import io

from PIL import Image

from vitkit.data.containers import ImageSource
from vitkit.data.pixels import ImageError, open_image

__all__ = ["thumbnail"]


def thumbnail(source: ImageSource, side: int = 120) -> str | None:
    """A JPEG of at most ``side`` x ``side`` pixels as a data: address; None where the file cannot be read.

    Tiny images are enlarged by whole factors, so that their pixels can be seen.
    """
    try:
        image = open_image(source)
    except (ImageError, OSError):
        return None
    factor = max(1, side // max(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
