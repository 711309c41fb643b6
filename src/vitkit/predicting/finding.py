"""Finds the images that a user names, one after the other and in an order that is always the same. Opens none of them.

Files, folders to the bottom, globs, names in braces, CSV and Parquet tables, tar and zip files, lists in a text file, and
remote ones of these by their address. Few names are in memory at once.
"""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from vitkit.config import UserError, did_you_mean
from vitkit.data.archives import read_tar_images
from vitkit.data.containers import ImageSource
from vitkit.data.delimited import CSV_SUFFIXES, iterate_csv_paths
from vitkit.data.download import shown_url
from vitkit.data.hub_data import hub_data, is_hub
from vitkit.data.parquet import iterate_parquet_images
from vitkit.data.pixels import IMAGE_SUFFIXES
from vitkit.data.remote import Editions, fetched, is_remote
from vitkit.data.shards import check_numbering, find_shards, has_braces
from vitkit.data.sources import TABLE_SUFFIXES
from vitkit.data.stores import store_of
from vitkit.data.zips import list_zip
from vitkit.predicting.sorting import sort_names

__all__ = ["Container", "Found", "expand_paths", "find"]

LIST_SUFFIXES = (".txt",)  # a path in each line
CONTAINER_SUFFIXES = (*TABLE_SUFFIXES, ".zip")
Told = Callable[[str], object]


class Container(NamedTuple):
    """A file that holds images, before those in it."""

    name: str  # as it is shown
    path: str
    size: int  # bytes
    stamp: int | str  # when it was changed, ns; of a remote file what its store calls this edition of it


class Found(NamedTuple):
    """An image."""

    name: str  # as it is shown
    source: ImageSource
    size: int = -1  # bytes of a file; -1: it was not there, or is in a container
    stamp: int | str = -1  # see `Container`


class _Shown(NamedTuple):
    """How files below a place are called, and what tells that one was changed."""

    place: str = ""
    name: str = ""
    stamp: Callable[[str], str] | None = None  # of a file by the name shown; None: the time of its last change

    def of(self, path: str) -> str:
        return self.name + path.removeprefix(self.place) if self.place else path


_LOCAL = _Shown()


def expand_paths(given: Sequence[str | Path], ignored: Counter[str]) -> list[tuple[str, ImageSource]]:
    """Name and place of each image: files as given, folders and globs as the images in them, in sorted order.

    A CSV, Parquet, tar or zip file stands for its images, in its order. Duplicates stay. What folders hold beside images is
    counted in ``ignored``.

    Raises:
        UserError: as `find`.
    """
    return [(found.name, found.source) for found in find(given, ignored) if isinstance(found, Found)]


def find(
    given: Sequence[str | Path], ignored: Counter[str], told: Told = str, apart: Iterable[Path] = ()
) -> Iterator[Found | Container]:
    """Each image in the order of what was given, inside of folders and globs sorted; a container before its images.

    Args:
        given: what the user names.
        ignored: counts what folders hold beside images.
        told: is told what is remarkable, such as shards that are missing in their numbering.
        apart: files and folders that are no images though they lie in a folder: what is being written.

    Raises:
        UserError: a path that does not exist, a pattern or folder without images, a table or archive that cannot be understood.
    """
    away = frozenset(os.path.realpath(path) for path in apart)
    count = 0
    for item in given:
        for found in _find(item, ignored, told, away):
            count += isinstance(found, Found)
            yield found
    if not count:
        raise UserError("no images named; give files, folders or globs.")


def _find(item: str | Path, ignored: Counter[str], told: Told, away: frozenset[str]) -> Iterator[Found | Container]:
    text, path = str(item), Path(item)
    if is_hub(text):
        return _find_hub(text, ignored, told, away)
    if is_remote(text):
        return _find_remote(text, ignored, told, away)
    if path.is_dir():
        return _find_folder(path, _LOCAL, ignored, told, away)
    if path.exists():
        return _find_file(path, _LOCAL)
    if has_braces(text):
        return (found for one in find_shards(text) for found in _find_file(one, _LOCAL))
    if glob.has_magic(text):
        return _find_glob(text)
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"no such file: {item}.{did_you_mean(path.name, near)}")


def _find_glob(pattern: str) -> Iterator[Found | Container]:
    empty = True
    for name in sort_names(name for name in glob.iglob(pattern, recursive=True) if os.path.isfile(name)):
        empty = False
        yield from _find_file(Path(name), _LOCAL)
    if empty:
        raise UserError(f"no file matches {pattern!r}.")


def _find_hub(name: str, ignored: Counter[str], told: Told, away: frozenset[str]) -> Iterator[Found | Container]:
    """A data set of the Hugging Face hub: the images of all its files."""
    data = hub_data(name, _is_data_name)
    for note in data.notes:
        told(note)
    shown = _Shown(str(data.root), data.origin, lambda _: "")  # the name holds the commit
    if not data.splits:
        yield from _find_any(data.path, shown, ignored, told, away)
    for _, path in data.splits:
        yield from _find_file(path, shown)


def _find_remote(url: str, ignored: Counter[str], told: Told, away: frozenset[str]) -> Iterator[Found | Container]:
    """What an address names, from its copy on this machine."""
    several = _matching(url) if glob.has_magic(urlsplit(url).path) and not has_braces(url) else [url]
    editions = Editions()
    try:
        for one in several:
            place = fetched(one, _is_data_name, _is_data_name)
            if has_braces(one) and not place.exists():
                begin, address = str(place).partition("{")[0], shown_url(one).partition("{")[0]
                for path in find_shards(str(place)):
                    yield from _find_file(path, _Shown(begin, address, editions.of))
            else:
                shown = _Shown(str(place), shown_url(one).rstrip("/"), editions.of)
                yield from _find_any(place, shown, ignored, told, away)
    finally:
        editions.close()


def _matching(url: str) -> list[str]:
    """The addresses of the files in a remote folder whose names match the pattern that ``url`` ends with."""
    folder, _, pattern = url.rpartition("/")
    if glob.has_magic(urlsplit(folder).path):
        raise UserError(
            f"{shown_url(url)}: of an address the last part alone can be a pattern. Name the folder, or files in braces: "
            "train-{000..003}.tar."
        )
    names = sorted(name for name in store_of(folder).names(folder) if fnmatch(name, unquote(pattern)))
    if not names:
        raise UserError(f"no file matches {shown_url(url)!r}.")
    return [f"{folder}/{name}" for name in names]


def _find_any(
    path: Path, shown: _Shown, ignored: Counter[str], told: Told, away: frozenset[str]
) -> Iterator[Found | Container]:
    return _find_folder(path, shown, ignored, told, away) if path.is_dir() else _find_file(path, shown)


def _find_file(path: Path, shown: _Shown) -> Iterator[Found | Container]:
    """A file that was named: an image, or what holds images."""
    name = path.name.lower()
    if name.endswith(CSV_SUFFIXES):
        return (_image(str(image), shown) for image in iterate_csv_paths(path))
    if name.endswith(LIST_SUFFIXES):
        return (_image(image, shown) for image in _listed(path))
    if name.endswith(CONTAINER_SUFFIXES):
        return _find_inside(path, shown)
    return iter([_image(str(path), shown)])


def _image(path: str, shown: _Shown) -> Found:
    name = shown.of(path)
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return Found(name, Path(path))  # whoever opens it says why
    return Found(name, Path(path), about.st_size, _stamp(name, about, shown))


def _stamp(name: str, about: os.stat_result, shown: _Shown) -> int | str:
    return about.st_mtime_ns if shown.stamp is None else shown.stamp(name)


def _listed(path: Path) -> Iterator[str]:
    """The paths in a text file, one in each line, relative to its folder."""
    count = 0
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if not (name := line.rstrip("\r\n")).strip():
                    continue
                if "\0" in name:
                    raise UserError(
                        f"{path}, line {number} holds a zero byte: this is no list of paths, one in each line."
                    )
                if is_remote(name):
                    raise UserError(
                        f"{path}, line {number} is an address ({shown_url(name):.80}); a list holds paths. Name the remote folder."
                    )
                count += 1
                yield os.path.join(path.parent, name)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if not count:
        raise UserError(f"{path} names no images; expected a path in each line.")


def _find_inside(path: Path, shown: _Shown) -> Iterator[Found | Container]:
    """The images inside a Parquet, tar or zip file."""
    try:
        about = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    name = shown.of(str(path))
    inside: Iterable[tuple[str, ImageSource]]
    if path.suffix.lower() == ".parquet":
        inside = iterate_parquet_images(path)
    elif path.suffix.lower() == ".zip":
        inside = [
            (f"{path}/{inner}", member)
            for inner, member in list_zip(path).items()
            if PurePosixPath(inner).suffix.lower() in IMAGE_SUFFIXES
        ]
        if not inside:
            raise UserError(f"{path} holds no images.")
    else:
        inside = read_tar_images(path)
    yield Container(name, str(path), about.st_size, _stamp(name, about, shown))
    for image, source in inside:
        yield _image(str(source), shown) if isinstance(source, Path) else Found(shown.of(image), source)


def _find_folder(
    root: Path, shown: _Shown, ignored: Counter[str], told: Told, away: frozenset[str]
) -> Iterator[Found | Container]:
    """The images of a folder; of one without any the images of the Parquet, tar and zip files in it, else of its CSV files."""
    containers: list[str] = []
    empty = True
    for path in _walk(root, ignored, away):
        if path.lower().endswith(CONTAINER_SUFFIXES):
            containers.append(path)
            continue
        try:
            about = os.stat(path)
            regular = stat.S_ISREG(about.st_mode)
        except OSError:
            regular = False
        if not regular:
            ignored["files that are not images"] += 1
            continue
        empty = False
        name = shown.of(path)
        yield Found(name, Path(path), about.st_size, _stamp(name, about, shown))
    if not empty:
        if containers:
            ignored["tables and archives (name them to have their images too)"] += len(containers)
        return
    packed = [path for path in containers if not path.lower().endswith(CSV_SUFFIXES)]
    if not containers:
        raise UserError(
            f"{shown.of(str(root))} holds no images ({', '.join(sorted(IMAGE_SUFFIXES)[:6])}, ...) and no tables or archives."
        )
    if packed and len(packed) < len(containers):
        ignored["CSV files (name them to have their images too)"] += len(containers) - len(packed)
    try:
        check_numbering(map(Path, packed))
    except UserError as error:
        told(str(error))
    for path in packed or containers:
        yield from _find_file(Path(path), shown)


def _walk(root: Path, ignored: Counter[str], away: frozenset[str]) -> Iterator[str]:
    """The paths of what may be images or hold some, in the order of their parts, a folder's names in memory at once."""
    seen = {os.path.realpath(root)}
    above = os.path.realpath(root) + os.sep
    names_away = {os.path.basename(path) for path in away}
    begin = "" if str(root) == "." else str(root)
    stack = [(begin, _entries(begin or "."))]
    while stack:
        folder, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        name, _, kind = entry.partition("\0")
        path = os.path.join(folder, name)
        if kind:
            real = os.path.realpath(path)
            if name.startswith("."):
                ignored["hidden folders"] += 1
            elif real in seen or above.startswith(real + os.sep):
                ignored["links to folders that are read already"] += 1
            elif real not in away:
                seen.add(real)
                stack.append((path, _entries(path)))
        elif name.startswith("."):
            ignored["hidden files"] += 1
        elif _is_data_name(name):
            if name not in names_away or os.path.realpath(path) not in away:
                yield path
        else:
            ignored["files that are not images"] += 1


def _entries(folder: str) -> Iterator[str]:
    """Names in a folder, sorted, each with a zero byte, and a ``d`` behind that where it is a folder."""
    try:
        with os.scandir(folder) as entries:
            yield from sort_names(f"{entry.name}\0{'d' * entry.is_dir()}" for entry in entries)
    except OSError as error:
        raise UserError(f"cannot read the folder {error.filename or folder}: {error.strerror}.") from None


def _is_data_name(name: str) -> bool:
    """Does a file's name say that it is an image, or holds some?"""
    lower = name.lower()
    return os.path.splitext(lower)[1] in IMAGE_SUFFIXES or lower.endswith(CONTAINER_SUFFIXES)
