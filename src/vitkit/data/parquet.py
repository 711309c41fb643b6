"""Reads Parquet tables of images: labels and paths at once, no image; see `rowgroups` for those."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.rowgroups import CACHE_BYTES, LARGE, ParquetCell, open_parquet, take_leaf
from vitkit.data.samples import listed
from vitkit.data.tables import (
    LABEL_COLUMNS,
    MULTI_COLUMN,
    PATH_COLUMNS,
    SPLIT_COLUMN,
    ClassList,
    Table,
    check_class_list,
    find_column,
    first_twice,
    name_labels,
    read_class_list,
    to_role,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["has_hidden_labels", "iterate_parquet_images", "read_parquet", "read_parquet_images"]

MAGIC = b"PAR1"  # first and last bytes of a Parquet file
IMAGE_COLUMNS = tuple(dict.fromkeys(("image", "img", *PATH_COLUMNS)))


def read_parquet(path: Path, root: Path, *, labelled: bool = True) -> Table:
    """Read the labels, paths and row numbers of a Parquet file, and no image.

    Args:
        path: the file.
        root: the folder of the data. An image without a path of its own is called ``file:17``, for row 17 counted from 0
            of the file as seen from there; ``classes.txt`` may be beside the file or there.
        labelled: whether it must have labels.

    Raises:
        UserError: not a Parquet file, or columns or values that cannot be understood, with the row.
    """
    file, shown = _open(path), path.relative_to(root).as_posix()
    schema = file.schema_arrow
    columns = list(schema.names)
    if twice := first_twice(columns):
        raise UserError(f"{path} has the column {columns[twice[0]]!r} twice. Rename or remove one.")
    if not file.metadata.num_rows:
        raise UserError(f"{path} has no rows; expected one per image.")
    image, kind, others = _image_column(path, schema)
    notes = [f"{shown}: images are read from the column {image!r}, not {listed(others)}"] if others else []
    label, more = find_column(columns, (*LABEL_COLUMNS, MULTI_COLUMN)) if labelled else (None, [])
    if labelled and label is None:
        raise UserError(
            f"{path} has no column of labels: found {listed(columns)}, expected one of {', '.join(LABEL_COLUMNS)}, or "
            f"{MULTI_COLUMN!r}. Rename a column."
        )
    if more:
        notes.append(f"{shown}: labels are read from the column {label!r}, not {listed(more)}")

    def at(row: int) -> str:
        return f"{path}, row {row}"

    multilabel, classes = False, None
    labels: list[tuple[str, ...]] = [()] * file.metadata.num_rows
    if label is not None:
        classes = _class_list(schema, label, read_class_list(path.parent, root))
        values, multilabel = _label_values(path, _column(path, file, label), label)
        labels = name_labels(values, classes, at)
    roles = None
    if split := find_column(columns, (SPLIT_COLUMN,))[0]:
        roles = [to_role(str(word), at(row)) for row, word in enumerate(_values(path, file, split))]
    names, sources = _images(path, shown, file, image, kind)
    if _largest_row_group(file, image) > LARGE and (size := _image_bytes(file, image)) > CACHE_BYTES:
        notes.append(
            f"{shown}: {size / 2**30:.1f} GiB of images in large row groups, from which no single one can be read: they are copied "
            "to the cache as they are first needed"
        )
    places = range(file.metadata.num_rows)
    return Table(path, "row", places, names, sources, labels, multilabel, classes, roles, tuple(notes))


def has_hidden_labels(path: Path) -> bool:
    """Are all labels -1, as published test splits have them?"""
    import pyarrow.types as types

    file = _open(path)
    label, _ = find_column(list(file.schema_arrow.names), LABEL_COLUMNS)
    if label is None or not types.is_integer(file.schema_arrow.field(label).type):
        return False
    values = set(_values(path, file, label))
    return values == {-1}


def read_parquet_images(path: Path) -> list[tuple[str, ImageSource]]:
    """Name and place of each image of a file that needs no labels."""
    return list(iterate_parquet_images(path))


def iterate_parquet_images(path: Path) -> Iterator[tuple[str, ImageSource]]:
    """As `read_parquet_images`, some rows at a time: of a file with more of them than memory holds.

    Raises:
        UserError: as `read_parquet`.
    """
    file = _open(path)
    schema, columns = file.schema_arrow, list(file.schema_arrow.names)
    if twice := first_twice(columns):
        raise UserError(f"{path} has the column {columns[twice[0]]!r} twice. Rename or remove one.")
    if not file.metadata.num_rows:
        raise UserError(f"{path} has no rows; expected one per image.")
    image, kind, _ = _image_column(path, schema)
    if kind == "path":
        names, sources = _files(path, _values(path, file, image))
        yield from ((str(path.parent / name), source) for name, source in zip(names, sources, strict=True))
        return
    leaf, beside = (f"{image}.bytes", f"{image}.path") if kind == "struct" else (image, "")
    has_path = kind == "struct" and "path" in [field.name for field in schema.field(image).type]
    # A path that several rows share (a bare file name, say) names none of them.
    named = has_path and _all_different(_texts(path, file, beside, range(file.num_row_groups)))
    number = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        inside = _texts(path, file, beside, [group]) if named else iter([None] * rows)
        for row, name in enumerate(inside):
            yield (f"{path}/{name}" if name else f"{path}:{number}"), ParquetCell(str(path), group, row, leaf)
            number += 1


def _texts(path: Path, file: pq.ParquetFile, column: str, groups: Sequence[int]) -> Iterator[str | None]:
    """The values of a column of strings, some at a time."""
    import pyarrow as pa

    try:
        for batch in file.iter_batches(4096, row_groups=list(groups), columns=[column], use_threads=False):
            yield from _to_list(path, take_leaf(batch, column), column)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged in the column {column!r}: {reason} Write or download it again.") from None


def _all_different(values: Iterator[str | None]) -> bool:
    """By 64 bits of a hash: names that are wrongly taken for equal cost a name, and no image."""
    hashes = array("Q")
    for value in values:
        text = b"" if value is None else b"=" + value.encode("utf-8", "surrogatepass")
        hashes.frombytes(hashlib.blake2b(text, digest_size=8).digest())
    return len(np.unique(np.frombuffer(hashes, np.uint64))) == len(hashes)


def _open(path: Path) -> pq.ParquetFile:
    try:
        import pyarrow as pa
    except ImportError:
        raise UserError(f"{path} needs pyarrow: pip install 'vitkit[parquet]'.") from None
    try:
        return open_parquet(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a whole Parquet file: {reason} {_cut(path)}Write or download it again."
        ) from None


def _cut(path: Path) -> str:
    """What to say of a file that begins as Parquet and does not end so."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        begin = file.read(4)
        file.seek(max(0, file.seek(0, 2) - 4))
        if begin == MAGIC != file.read(4):
            return "It is cut off: the list of its rows stands at its end, so that none of its samples can be read. "
    return ""


def _column(path: Path, file: pq.ParquetFile, column: str) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        table = file.read(columns=[column], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged in the column {column!r}: {reason} Write or download it again.") from None
    name, _, field = column.partition(".")
    values = table.column(name)
    if not field:
        return values
    return pa.chunked_array([take_leaf(batch, column) for batch in table.to_batches()], values.type.field(field).type)


def _values(path: Path, file: pq.ParquetFile, column: str) -> list[Any]:
    return _to_list(path, _column(path, file, column), column)


def _to_list(path: Path, values: pa.ChunkedArray, column: str) -> list[Any]:
    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged in the column {column!r}: its text is not UTF-8. Write it again.") from None


def _image_column(path: Path, schema: pa.Schema) -> tuple[str, str, list[str]]:
    """The column, what it holds (struct, bytes or path), and other columns that could be meant.

    Raises:
        UserError: no such column, or one of another type.
    """
    import pyarrow.types as types

    column, others = find_column(schema.names, IMAGE_COLUMNS)
    expected = "`image` or `img` of bytes or struct{bytes, path}, or paths in one of " + ", ".join(PATH_COLUMNS)
    if column is None:
        raise UserError(
            f"{path} has no column of images: found {listed(schema.names)}, expected {expected}. Rename a column."
        )
    type_ = schema.field(column).type
    if types.is_struct(type_) and "bytes" in [field.name for field in type_]:
        return column, "struct", others
    if types.is_binary(type_) or types.is_large_binary(type_):
        return column, "bytes", others
    if types.is_string(type_) or types.is_large_string(type_):
        return column, "path", others
    raise UserError(f"{path}: the column {column!r} is of type {type_}, expected {expected}.")


def _images(
    path: Path, shown: str, file: pq.ParquetFile, column: str, kind: str
) -> tuple[list[str], list[ImageSource]]:
    """Name and place of each row's image."""
    if kind == "path":
        return _files(path, _values(path, file, column))
    fields = file.schema_arrow.field(column).type if kind == "struct" else ()
    has_path = kind == "struct" and "path" in [field.name for field in fields]
    paths = _values(path, file, f"{column}.path") if has_path else [None] * file.metadata.num_rows
    # A path that several rows share (a bare file name, say) names none of them.
    named = len(set(paths)) == len(paths)
    names = [name if named and name else f"{shown}:{row}" for row, name in enumerate(paths)]
    leaf = f"{column}.bytes" if kind == "struct" else column
    sources: list[ImageSource] = [
        ParquetCell(str(path), group, row, leaf)
        for group in range(file.num_row_groups)
        for row in range(file.metadata.row_group(group).num_rows)
    ]
    return names, sources


def _files(path: Path, names: Sequence[str | None]) -> tuple[list[str], list[ImageSource]]:
    found: list[ImageSource] = []
    kept: list[str] = []
    seen: dict[str, int] = {}
    missing = []
    for row, name in enumerate(names):
        if not name:
            raise UserError(f"{path}, row {row} has no image path. Fill it in, or remove the row.")
        file = path.parent / name
        if (before := seen.setdefault(os.path.normpath(file), row)) != row:
            raise UserError(f"{path} names {name} twice: rows {before} and {row}. Remove one of them.")
        if not os.path.isfile(file):
            missing.append(row)
        found.append(file)
        kept.append(name)
    if missing:
        row = missing[0]
        raise UserError(
            f"{len(missing)} of the {len(names)} images that {path} names cannot be found, the first in row {row}: "
            f"{names[row]}. Paths are relative to the table's folder."
        )
    return kept, found


def _label_values(path: Path, values: pa.ChunkedArray, column: str) -> tuple[list[tuple[str | int, ...]], bool]:
    """Labels of each row, and whether a row may have several.

    Raises:
        UserError: a type that is no label, or a null.
    """
    import pyarrow.types as types

    type_ = values.type
    if types.is_dictionary(type_):
        values, type_ = values.cast(type_.value_type), type_.value_type
    many = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    inner = type_.value_type if many else type_
    text = types.is_string(inner) or types.is_large_string(inner)
    if not text and not types.is_integer(inner):
        raise UserError(
            f"{path}: the column {column!r} is of type {type_}, expected integers or strings, or "
            "lists of them where an image has several."
        )
    listed_ = _to_list(path, values, column)
    for row, value in enumerate(listed_):
        if value is None or (many and None in value):
            raise UserError(
                f"{path}, row {row} has no label (null) in the column {column!r}. Fill it in, or remove the row."
            )
    if many:
        return [tuple(value) for value in listed_], True
    if text and column.lower() == MULTI_COLUMN:
        return [tuple(part.strip() for part in value.split("|")) if value.strip() else () for value in listed_], True
    return [(value.strip() if text else value,) for value in listed_], False


def _class_list(schema: pa.Schema, column: str, beside: ClassList | None) -> ClassList | None:
    """Class names from the schema's Hugging Face metadata, or ``beside`` where it has none that tell classes apart.

    Raises:
        UserError: the metadata has a name twice, and there is no other list.
    """
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return beside
    try:
        feature = json.loads(stored)["info"]["features"][column]
    except (ValueError, KeyError, TypeError, RecursionError):
        return beside
    names = next((entry["names"] for entry in _features(feature) if isinstance(entry.get("names"), list)), None)
    if not names or not all(isinstance(name, str) for name in names):
        return beside
    if beside is not None and len(set(names)) < len(names):
        return beside
    origin = f"the metadata of the column {column!r} (a classes.txt beside the file can replace it)"
    return check_class_list(ClassList(tuple(names), origin))


def _features(feature: Any) -> Iterator[Mapping[str, Any]]:
    """A feature and those inside it: Sequence and List hold one in `feature`, older files in a list."""
    if isinstance(feature, list):
        for inner in feature:
            yield from _features(inner)
    elif isinstance(feature, dict):
        yield feature
        yield from _features(feature.get("feature"))


def _image_bytes(file: pq.ParquetFile, column: str) -> int:
    return sum(_row_group_bytes(file, group, column) for group in range(file.num_row_groups))


def _largest_row_group(file: pq.ParquetFile, column: str) -> int:
    return max((_row_group_bytes(file, group, column) for group in range(file.num_row_groups)), default=0)


def _row_group_bytes(file: pq.ParquetFile, group: int, column: str) -> int:
    row_group = file.metadata.row_group(group)
    chunks = (row_group.column(number) for number in range(row_group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
