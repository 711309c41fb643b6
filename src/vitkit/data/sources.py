"""Finds images, classes and splits in what the user names. Opens no image.

Understands class folders, `train/` with `val|valid|validation/` and `test/`, CSV and Parquet tables, tar files, folders of
these with one or several for each split, remote ones by their address, data sets of the Hugging Face hub by name, and the word
``digits``.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vitkit.config import UserError, did_you_mean
from vitkit.data.archives import read_tar, read_tar_images
from vitkit.data.containers import ImageSource
from vitkit.data.delimited import CSV_SUFFIXES, read_csv, read_csv_paths
from vitkit.data.download import shown_url
from vitkit.data.folders import find_images, has_class_folders, read_folders
from vitkit.data.hub_data import hub_data, is_hub, parse_hub_name
from vitkit.data.parquet import has_hidden_labels, read_parquet, read_parquet_images
from vitkit.data.pixels import IMAGE_SUFFIXES
from vitkit.data.remote import fetched, is_remote
from vitkit.data.samples import SPLIT_NAMES, Sample, Source, match_classes
from vitkit.data.shards import check_numbering, common_folder, find_shards, has_braces, is_series, split_of
from vitkit.data.tables import Table, assemble

__all__ = [
    "TABLE_SUFFIXES",
    "Sample",
    "Source",
    "data_name",
    "find_images",
    "match_classes",
    "pinned",
    "read_images",
    "read_source",
]

DIGITS_TEST_EVERY = 5  # the fixed test part of `digits` is 20 % of each class
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # but for gzip read to be refused with a reason
TABLE_SUFFIXES = (*CSV_SUFFIXES, ".parquet", ".tar", *COMPRESSED_TAR)


def read_source(data: str | os.PathLike[str]) -> Source:
    """Find the images, classes and splits of ``data``.

    It is a folder, a table, a tar file, several shards in brace notation, the address of one of these, a data set of the Hugging
    Face hub (``hf:OWNER/NAME``), or the word ``digits``.

    Raises:
        UserError: no such path, no images, a table that cannot be understood, or a split with a class that training
            does not have.
    """
    if is_hub(str(data)):
        return _read_hub(str(data))
    if is_remote(str(data)):
        return _read_remote(str(data))
    return _read_local(data)


def pinned(data: str | os.PathLike[str]) -> str:
    """The data's name as a run stores it, to be resumed from any folder and to read the same again.

    An existing path is made absolute; a data set of the Hugging Face hub gets its commit.

    Raises:
        UserError: the hub has no such data set, or cannot be asked.
    """
    if is_hub(str(data)):
        return hub_data(str(data), _is_data_name).origin
    path = Path(data)
    if path.exists() or (has_braces(str(data)) and not is_remote(str(data))):
        return str(path.resolve())
    return str(data)


def data_name(data: str | os.PathLike[str]) -> str:
    """What to call data before it is read: the last part of its name, without what may be secret in an address."""
    if is_hub(str(data)):
        asked = parse_hub_name(str(data))
        return _stem(PurePosixPath(asked.path or asked.repo).name)
    if is_remote(str(data)):
        return _stem(PurePosixPath(unquote(urlsplit(str(data)).path)).name or str(urlsplit(str(data)).hostname))
    path = Path(data).resolve()
    if has_braces(str(data)) and not path.exists():
        return path.parent.name
    return path.stem if path.is_file() else path.name


def _read_remote(data: str) -> Source:
    """What an address names, from its copy on this machine."""
    source = _read_local(fetched(data, _is_data_name, _is_table_name))
    return dataclasses.replace(source, origin=shown_url(data))


def _read_hub(data: str) -> Source:
    """A data set of the Hugging Face hub, from the hub's cache."""
    found = hub_data(data, _is_data_name)
    notes = list(found.notes)
    try:
        kept = []
        for role, path in found.splits:
            if role in ("val", "test") and path.suffix == ".parquet" and has_hidden_labels(path):
                notes.append(f"{role} left out: its labels are hidden (-1)")
            else:
                kept.append((role, path))
        source = _read_tables(found.name, found.root, kept, ()) if kept else _read_local(found.path)
    except UserError as error:
        raise UserError(f"{data}: {error}") from None
    notes = list(dict.fromkeys((*source.notes, *notes)))
    return dataclasses.replace(source, name=_stem(found.name), notes=tuple(notes), origin=found.origin)


def _stem(name: str) -> str:
    """A file's name without the ending that says what is inside."""
    endings = [end for end in TABLE_SUFFIXES if name.lower().endswith(end)]
    return name[: -len(max(endings, key=len))] if endings else name


def _read_local(data: str | os.PathLike[str]) -> Source:
    root = Path(data)
    if not root.exists():
        if str(data) == "digits":
            return _digits()
        if has_braces(str(data)):
            return _read_shards(str(data))
        near = root.parent.iterdir() if root.parent.is_dir() else ()
        raise UserError(f"no such data: {data}.{did_you_mean(root.name, [p.name for p in near])}")
    if not root.is_dir():
        if not _is_table(root):
            raise UserError(
                f"{data} is a file; expected a folder of class folders, or train/ with val/ and test/ inside, or a file "
                "that ends in .csv, .tsv, .parquet or .tar."
            )
        return _read_tables(_stem(root.resolve().name), root.parent, [("all", root)], ())
    tables = [path for path in _entries(root) if _is_table(path)]
    found = _split_tables(root, tables)
    if not found and len(tables) > 1 and _suffix(tables[0]) not in CSV_SUFFIXES and is_series(tables):
        found = [("all", path) for path in tables]
    if not found and len(tables) != 1:
        if len(tables) > 1 and not has_class_folders(root):
            raise UserError(
                f"{root} holds several tables: {_names(tables)}. Name the one to read, or name them train, val and test."
            )
        return read_folders(root, _unread(tables, "class folders were taken"))
    chosen = found or [("all", tables[0])]
    if has_class_folders(root):
        return read_folders(root, _unread([path for _, path in chosen], "class folders were taken"))
    rest = [path for path in tables if path not in [taken for _, taken in chosen]]
    return _read_tables(
        root.resolve().name, root, chosen, _unread(rest, f"{_names([p for _, p in chosen])} were taken")
    )


def read_images(path: Path) -> list[tuple[str, ImageSource]]:
    """Name and place of each image of a table or tar file, in its order; labels are not needed.

    Raises:
        UserError: a file that cannot be understood.
    """
    suffix = _suffix(path)
    if suffix in CSV_SUFFIXES:
        return [(str(image), image) for image in read_csv_paths(path)]
    return read_parquet_images(path) if suffix == ".parquet" else read_tar_images(path)


def _read_shards(data: str) -> Source:
    """The files that a name with braces stands for: each of the split that its name says, or all of none."""
    paths = find_shards(data)
    kinds = {_suffix(path) for path in paths}
    if len(kinds) > 1 or not kinds <= {".parquet", ".tar"}:
        raise UserError(f"{data} names {_names(paths)}; expected files that all end in .parquet, or all in .tar.")
    named = _by_name(paths)
    if named and len(named) < len(paths):
        taken = [path for _, path in named]
        rest = [path for path in paths if path not in taken]
        raise UserError(f"{data}: {_names(taken)} name a split and {_names(rest)} none. Name them alike.")
    root = common_folder(paths)
    return _read_tables(root.resolve().name, root, named or [("all", path) for path in paths], ())


def _split_tables(root: Path, tables: Sequence[Path]) -> list[tuple[str, Path]]:
    """Tables that are a split each: by their names, in `data/`, or alone in a folder train/, val/ or test/."""
    named = _by_name(tables)
    if not named and (root / "data").is_dir():
        named = _by_name(
            [path for path in _entries(root / "data") if _is_table(path) and _suffix(path) not in CSV_SUFFIXES]
        )
    if not named and not tables:
        for folder in _entries(root):
            role = SPLIT_NAMES.get(folder.name.lower())
            inside = [path for path in _entries(folder) if _is_table(path)] if folder.is_dir() and role else []
            if inside and len({path.suffix.lower() for path in inside}) == 1:
                if len(inside) > 1 and _suffix(inside[0]) in CSV_SUFFIXES:
                    raise UserError(f"{folder} holds several tables: {_names(inside)}. Keep one.")
                named += [(role or "", path) for path in inside]
    kinds = {_suffix(path) for _, path in named}
    if len(kinds) > 1:
        raise UserError(f"{root} holds splits of several kinds: {_names([path for _, path in named])}. Keep one kind.")
    csvs = Counter(role for role, path in named if _suffix(path) in CSV_SUFFIXES)
    for role, count in csvs.items():
        if count > 1:
            several = [path for other, path in named if other == role]
            raise UserError(f"{root} has several tables for the {role} split: {_names(several)}. Keep one.")
    return named


def _by_name(tables: Sequence[Path]) -> list[tuple[str, Path]]:
    """Role and path of `train.csv`, `train-00000-of-00002.parquet`, `val_01.tar` and the like."""
    for anywhere in (False, True):
        found = []
        for path in tables:
            split = split_of(path, anywhere=anywhere and _suffix(path) not in CSV_SUFFIXES)
            # Of CSV files only `train.csv` itself: train_notes.csv is something else.
            if split and (_suffix(path) not in CSV_SUFFIXES or split[1].lower() == path.suffix.lower()):
                found.append((split[0], path))
        if found:
            break
    return found


def _read_tables(name: str, root: Path, chosen: Sequence[tuple[str, Path]], notes: Sequence[str]) -> Source:
    several = len(chosen) > 1
    check_numbering(path for _, path in chosen)

    def shown(path: Path) -> str:
        return path.relative_to(root).as_posix()

    def read(path: Path) -> Table:
        if _suffix(path) in CSV_SUFFIXES:
            return read_csv(path, root)
        if _suffix(path) == ".parquet":
            return read_parquet(path, root)
        return read_tar(path, root, prefix=f"{shown(path)}/" if several else "")

    tables = [(role, read(path)) for role, path in chosen]
    if _suffix(chosen[0][1]) == ".parquet":
        tables = _unique_names(tables, shown)
    return assemble(name, tables, notes)


def _unique_names(tables: Sequence[tuple[str, Table]], shown: Callable[[Path], str]) -> list[tuple[str, Table]]:
    """Where paths inside of Parquet files are not unique over all of them, rows are called by file and number."""
    count = len({name for _, table in tables for name in table.names})
    if count == sum(len(table.names) for _, table in tables):
        return list(tables)
    return [
        (role, dataclasses.replace(table, names=[f"{shown(table.file)}:{row}" for row in table.places]))
        for role, table in tables
    ]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}.") from None


def _is_table(path: Path) -> bool:
    return _is_table_name(path.name) and path.is_file()


def _is_table_name(name: str) -> bool:
    return name.lower().endswith(TABLE_SUFFIXES)


def _is_data_name(name: str) -> bool:
    """Of a remote file: is it an image, a table, or a list of classes?"""
    path = PurePosixPath(name)
    return _is_table_name(name) or path.suffix.lower() in IMAGE_SUFFIXES or path.name == "classes.txt"


def _suffix(path: Path) -> str:
    """Which reader a file is for."""
    return ".tar" if path.name.lower().endswith(COMPRESSED_TAR) else path.suffix.lower()


def _names(paths: Sequence[Path], most: int = 4) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(path.name for path in paths[:most]) + more


def _unread(tables: Sequence[Path], why: str) -> list[str]:
    if not tables:
        return []
    return [f"{_names(tables)} was not read: {why}; name the file itself to read it"]


def _digits() -> Source:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, as PNG; a fixed fifth of each class is the test part."""
    import numpy as np
    from PIL import Image

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("`digits` needs scikit-learn: pip install 'vitkit[digits]'.") from None
    digits = load_digits()
    seen: Counter[int] = Counter()
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(np.round(pixels * 255 / 16).astype(np.uint8)).save(buffer, "PNG")
        split = "test" if seen[label] % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1 else "train"
        seen[label] += 1
        splits[split].append(Sample(f"{split}/{label}/{number:04d}.png", buffer.getvalue(), label))
    for samples in splits.values():
        samples.sort(key=lambda sample: sample.name)
    return Source("digits", tuple(str(name) for name in digits.target_names), splits)
