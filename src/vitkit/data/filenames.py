"""Names of the files that are made from images: safe on every file system, each once, the same at every run."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

__all__ = ["file_stems", "safe_stem"]

LONGEST = 180  # bytes; file systems take 255, and suffixes come behind
PART = re.compile(r"(\.(layer\d+|pool|head\d+|class\d+))+$", re.IGNORECASE)  # what tells an image's files apart


def safe_stem(name: str) -> str:
    """The last part of an image's name without its suffix, as a file can be called; `train/a.jpg` becomes `a`."""
    last = PurePosixPath(name).name
    stem = last if ":" in PurePosixPath(last).suffix else PurePosixPath(last).stem  # `train.parquet:17` is row 17
    stem = "".join("_" if c in '\\:*?"<>|' or unicodedata.category(c) == "Cc" else c for c in stem)
    encoded = stem.encode("utf-8", "surrogateescape")
    if len(encoded) > LONGEST:
        stem = encoded[:LONGEST].decode("utf-8", "ignore")
    return "image" if stem.strip(". ") == "" else stem


def file_stems(names: Sequence[str]) -> list[str]:
    """A stem of its own for each image: the first of a name has it, the others get a number that no other has.

    Letters that differ in case alone are one name to some file systems, and so to this. A name that ends like a part of another
    image's files gets a number too.
    """
    wanted = [safe_stem(name) for name in names]
    natural = {_key(stem) for stem in wanted}
    wholes = {
        _key(PART.sub("", stem)) for stem in wanted if PART.search(stem)
    }  # a number must not make one of these a name
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    stems = []
    for stem in wanted:
        key, whole = _key(stem), _key(PART.sub("", stem))
        if key in taken or (whole != key and whole in natural):
            number = numbers.get(key, 2)
            while (numbered := _key(f"{stem}-{number}")) in natural or numbered in taken or numbered in wholes:
                number += 1
            numbers[key] = number + 1
            stem = f"{stem}-{number}"
        taken.add(_key(stem))
        stems.append(stem)
    return stems


def _key(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()
