"""What one client, and all of them together, may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass

from vitkit.config import UserError
from vitkit.data.pixels import MAX_PIXELS

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Every bound of a server. Beyond each a request is refused with a status that says so."""

    body_bytes: int = 32 * 2**20  # of one request
    pixels: int = MAX_PIXELS  # of one image, before it is decoded
    images: int = 64  # of one request
    seconds: float = 30.0  # to receive a body, and again to answer it
    queue: int = 128  # images that wait for a model
    wait_ms: float = 5.0  # that a part of a group waits for images which are being decoded
    connections: int = 512  # open at a time
    held_bytes: int = 512 * 2**20  # of all bodies that are being received or wait

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--body-limit", self.body_bytes, 1),
            ("--pixel-limit", self.pixels, 1),
            ("--image-limit", self.images, 1),
            ("--timeout", self.seconds, 0.001),
            ("--queue", self.queue, 1),
            ("--max-wait-ms", self.wait_ms, 0),
            ("--connections", self.connections, 1),
        ):
            if not value >= least:
                raise UserError(f"{option} must be at least {least:g}, got {value:g}.")
