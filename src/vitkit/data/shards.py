"""Data in many numbered files: brace notation, splits by name, and files that are missing in the numbering."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitkit.config import UserError, did_you_mean
from vitkit.data.samples import SPLIT_NAMES

__all__ = ["check_numbering", "common_folder", "expand_braces", "find_shards", "has_braces", "is_series", "split_of"]

MOST_SHARDS = 100_000
_ROLES = "|".join(sorted(SPLIT_NAMES, key=len, reverse=True))
_FIRST = re.compile(rf"({_ROLES})(?![a-z])(?!_\D)", re.IGNORECASE)
_LATER = re.compile(rf".+[-_.]({_ROLES})([-_.]?\d+(-of-\d+)?)?(\.[a-z]+)+", re.IGNORECASE)
_OF = re.compile(r"(.*?)(\d+)-of-(\d+)(\D*)")
_NUMBERED = re.compile(r"(.*?)(\d+)((\.[a-z]\w*)+)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def has_braces(name: str) -> bool:
    """Is it several names in brace notation?"""
    return _BRACES.search(name) is not None


def expand_braces(name: str) -> list[str]:
    """``train-{000..003}.tar`` to its names, the last braces running fastest; also ``{a,b}``.

    Raises:
        UserError: braces that are neither a rising range of numbers nor a list, or too many names.
    """
    pieces: list[Sequence[str]] = []
    place, count = 0, 1
    for match in _BRACES.finditer(name):
        inside = match[1]
        if ends := _RANGE.fullmatch(inside):
            first, last = int(ends[1]), int(ends[2])
            if last < first or last - first >= MOST_SHARDS:
                raise UserError(f"{name}: {{{inside}}} must rise, and name at most {MOST_SHARDS:,} files.")
            width = max(len(end) if end.startswith("0") else 0 for end in ends.groups())
            found: Sequence[str] = [f"{number:0{width}d}" for number in range(first, last + 1)]
        elif "," in inside:
            found = inside.split(",")
        else:
            raise UserError(f"{name}: {{{inside}}} is not understood; expected {{000000..000003}} or {{a,b}}.")
        pieces += [[name[place : match.start()]], found]
        place, count = match.end(), count * len(found)
        if count > MOST_SHARDS:
            raise UserError(f"{name} names more than {MOST_SHARDS:,} files.")
    return ["".join(parts) for parts in itertools.product(*pieces, [name[place:]])]


def find_shards(name: str) -> list[Path]:
    """The files that a name with braces stands for.

    Raises:
        UserError: a file is not there, or named twice.
    """
    paths = [Path(one) for one in expand_braces(name)]
    if len(set(paths)) < len(paths):
        raise UserError(f"{name} names a file twice: {next(p for p in paths if paths.count(p) > 1)}.")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        folder = missing[0].parent
        near = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        hint = did_you_mean(missing[0].name, near) if len(missing) == len(paths) else ""
        raise UserError(
            f"{name} names {len(paths)} files, and {len(missing)} of them {_are(missing)} missing, the first: {missing[0]}."
            f"{hint or ' Copy or download what is missing, or name what is there.'}"
        )
    return paths


def split_of(path: Path, *, anywhere: bool) -> tuple[str, str] | None:
    """(role, the rest of the name) of ``train-00000-of-00002.parquet`` or ``val_01.tar``; None where no split is named.

    ``anywhere``: also of ``imagenet-train-0001.tar``, where it stands before the number.
    """
    if match := _FIRST.match(path.name):
        return SPLIT_NAMES[match[1].lower()], path.name[match.end() :]
    if anywhere and (match := _LATER.fullmatch(path.name)):
        return SPLIT_NAMES[match[1].lower()], path.name[match.end(1) :]
    return None


def is_series(paths: Sequence[Path]) -> bool:
    """Are these files told apart by one number alone, as ``00000.tar``, ``00001.tar``?"""
    found = [_OF.fullmatch(path.name) or _NUMBERED.fullmatch(path.name) for path in paths]
    alike = {
        (path.parent, match and (match.re, match[1], match.groups()[2]))
        for path, match in zip(paths, found, strict=True)
    }
    return len(alike) == 1 and None not in found


def check_numbering(paths: Iterable[Path]) -> None:
    """Raises UserError where the numbers of files in one folder say that some of them are not there."""
    totals: dict[tuple[Path, str, int, str, int], set[int]] = {}
    series: dict[tuple[Path, str, str], dict[int, str]] = {}
    for path in paths:
        if of := _OF.fullmatch(path.name):
            totals.setdefault((path.parent, of[1], int(of[3]), of[4], len(of[2])), set()).add(int(of[2]))
        elif match := _NUMBERED.fullmatch(path.name):
            series.setdefault((path.parent, match[1], match[3]), {})[int(match[2])] = match[2]
    for (folder, before, total, after, width), numbers in totals.items():
        start = 1 if total in numbers else 0
        missing = [n for n in range(start, start + min(total, MOST_SHARDS)) if n not in numbers]
        if missing:
            name = f"{before}{missing[0]:0{width}d}-of-{total:0{width}d}{after}"
            raise _gap(folder / name, len(missing), f"{len(numbers)} of {total} files are there")
    for (folder, before, after), written in series.items():
        low, high = min(written), max(written)
        # Years and the like are no numbering: those begin at 0 or 1, or are written with zeros before them.
        if low > 1 and not any(text.startswith("0") for text in written.values()):
            continue
        gaps = high - low + 1 - len(written)
        if gaps:
            first = next(number for number in range(low, high) if number not in written)
            width = len(written[high]) if len({len(text) for text in written.values()}) == 1 else 0
            shown = f"{before}{written[low]}{after} to {before}{written[high]}{after}"
            raise _gap(folder / f"{before}{first:0{width}d}{after}", gaps, f"the others are numbered {shown}")


def _gap(path: Path, count: int, why: str) -> UserError:
    more = f" and {count - 1} more" if count > 1 else ""
    return UserError(
        f"{path}{more} {'are' if more else 'is'} missing: {why}. Copy or download it again, or name the files to read, with "
        "braces: part-{0..3}.tar."
    )


def _are(things: Sequence[object]) -> str:
    return "are" if len(things) > 1 else "is"


def common_folder(paths: Sequence[Path]) -> Path:
    """The innermost folder that holds all of the files."""
    return Path(os.path.commonpath([path.parent for path in paths]))
