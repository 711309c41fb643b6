"""CRC-32C (Castagnoli), the checksum of TFRecord files, at the speed of numpy.

A checksum without its initial value is linear, and zeros in front do not change it. So the bytes are cut into lanes of equal
length, all lanes are computed side by side, and neighbours are joined pair by pair: the left one is moved on by the length of the
right one, which is a fixed linear map of its 32 bits.

Source: polynomial 0x1EDC6F41, reflected, RFC 3720 appendix B.4.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

__all__ = ["crc32c", "masked_crc32c"]

Array = np.ndarray[Any, Any]
REFLECTED = 0x82F63B78
LANE = 128  # bytes of a lane; even
SHORT = 64  # bytes up to which a plain loop is quicker
MASK = 0xA282EAD8  # Source: TFRecord, "masked_crc32_of_..."; the stored value is rotated by 15 bits and moved by this


@cache
def _table() -> list[int]:
    found = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (REFLECTED if value & 1 else 0)
        found.append(value)
    return found


@cache
def _pairs() -> Array:
    """What two bytes at once do to a value without its lowest 16 bits."""
    one = np.array(_table(), np.uint32)
    first = np.arange(1 << 16, dtype=np.uint32)
    after = one[first & 0xFF] ^ (first >> 8)
    return one[after & 0xFF] ^ (after >> 8)


@cache
def _shift(level: int) -> Array:
    """(4, 256) tables: what LANE * 2^level zero bytes do to each byte of a value."""
    if level:
        half = _shift(level - 1)
        return _moved(half, _moved(half, _bytes_of_values()))
    values = _bytes_of_values()
    pairs = _pairs()
    for _ in range(LANE // 2):
        values = pairs[values & 0xFFFF] ^ (values >> 16)
    return values


def _bytes_of_values() -> Array:
    """(4, 256): each byte alone at its place in a value."""
    return np.arange(256, dtype=np.uint32)[None] << (8 * np.arange(4, dtype=np.uint32))[:, None]


def _moved(tables: Array, values: Array) -> Array:
    return (
        tables[0][values & 0xFF]
        ^ tables[1][values >> 8 & 0xFF]
        ^ tables[2][values >> 16 & 0xFF]
        ^ tables[3][values >> 24]
    )


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of ``data``."""
    if len(data) <= SHORT:
        value, table = 0xFFFFFFFF, _table()
        for byte in bytes(data):
            value = table[(value ^ byte) & 0xFF] ^ value >> 8
        return value ^ 0xFFFFFFFF
    lanes = -(-len(data) // LANE)
    padded = np.zeros(lanes * LANE, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data) :][:4] ^= 0xFF  # the initial value, as a change of the first four bytes
    words = padded.reshape(lanes, LANE).view("<u2")
    values, pairs = np.zeros(lanes, np.uint32), _pairs()
    for column in np.ascontiguousarray(words.T):
        values = pairs[(values ^ column) & 0xFFFF] ^ (values >> 16)
    level = 0
    while len(values) > 1:
        if len(values) % 2:
            values = np.concatenate([np.zeros(1, np.uint32), values])
        values = _moved(_shift(level), values[::2]) ^ values[1::2]
        level += 1
    return int(values[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as TFRecord files store it."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + MASK) & 0xFFFFFFFF
