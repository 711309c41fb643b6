"""Reads CSV and TSV tables of image paths and labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vitkit.config import UserError, did_you_mean
from vitkit.data.samples import listed
from vitkit.data.tables import (
    LABEL_COLUMNS,
    MULTI_COLUMN,
    PATH_COLUMNS,
    SPLIT_COLUMN,
    ClassList,
    Table,
    find_column,
    first_twice,
    name_labels,
    read_class_list,
    to_role,
)

__all__ = ["CSV_SUFFIXES", "iterate_csv_paths", "read_csv", "read_csv_paths"]

CSV_SUFFIXES = (".csv", ".tsv")
DELIMITERS = (",", ";", "\t")
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
HEAD = 1 << 20  # characters in which the line of column names ends
NO_PATH = "has no image path. Fill it in, or remove the row."
NO_ROWS = "has column names and no rows; expected one line per image."
ZERO_ONE = {"0": False, "1": True, "0.0": False, "1.0": True}


class _Grid(NamedTuple):
    """The fields of a file."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]  # of each row, counted from 1

    def at(self, row: int) -> str:
        return f"{self.path}, line {self.lines[row]}"

    def values(self, column: str) -> list[str]:
        place = self.columns.index(column)
        return [row[place] for row in self.rows]


def read_csv(path: Path, root: Path) -> Table:
    """Read a table with a path column, labels, and perhaps a split column; paths are relative to its folder.

    Labels are one column of names or numbers, a column ``labels`` joined by ``|``, or two or more columns of 0 and 1.
    ``classes.txt`` beside the table, or in ``root``, gives the classes and their order.

    Raises:
        UserError: anything in the table that cannot be understood, with its line.
    """
    grid = _read_grid(path)
    path_column, others = _path_column(grid)
    columns = {column.lower(): column for column in grid.columns}
    split_column = columns.get(SPLIT_COLUMN)
    label_column, more = find_column(grid.columns, LABEL_COLUMNS)
    several_column = columns.get(MULTI_COLUMN)
    if label_column and several_column:
        raise UserError(
            f"{path} has the columns {label_column!r} for one label and {several_column!r} for several. Keep one."
        )
    taken = {path_column, split_column, label_column, several_column, *others, *more}
    classes: ClassList | None = read_class_list(path.parent, root)
    notes = [f"{path.name}: images are read from the column {path_column!r}, not {listed(others)}"] if others else []
    if label_column:
        labels = name_labels([(value,) for value in grid.values(label_column)], classes, grid.at)
        if joined := next((value for value in grid.values(label_column) if "|" in value), None):
            notes.append(
                f"{path.name}: {joined!r} is taken for one class; several are joined by | in a column 'labels'"
            )
    elif several_column:
        split = [tuple(v.strip() for v in value.split("|")) for value in grid.values(several_column)]
        labels = name_labels([() if several == ("",) else several for several in split], classes, grid.at)
    else:
        flags = _flag_columns(grid, [column for column in grid.columns if column not in taken])
        labels = _flagged(grid, flags)
        classes = _check_flags(grid, flags, classes)
        taken |= set(flags)
        notes.append(f"{path.name}: the classes are its columns of 0 and 1")
    if left := [column for column in grid.columns if column not in taken]:
        notes.append(f"{path.name}: columns that were not read: {listed(left)}")
    if more:
        notes.append(f"{path.name}: labels are read from the column {label_column!r}, not {listed(more)}")
    roles = None
    if split_column:
        roles = [to_role(word, grid.at(row)) for row, word in enumerate(grid.values(split_column))]
    names = grid.values(path_column)
    sources = _find_files(grid, names)
    _refuse_twice(grid, sources, labels, roles)
    multilabel = label_column is None
    return Table(path, "line", grid.lines, names, sources, labels, multilabel, classes, roles, tuple(notes))


def read_csv_paths(path: Path) -> list[Path]:
    """The images of a table that needs no labels; a file that does not exist is left for whoever opens it."""
    return list(iterate_csv_paths(path))


def iterate_csv_paths(path: Path) -> Iterator[Path]:
    """As `read_csv_paths`, a row at a time: of a table that is larger than memory.

    Raises:
        UserError: a table that cannot be understood, with the line, when that is reached.
    """
    rows = 0
    try:
        with path.open("rb") as file:
            if file.read(2) in UTF16:
                _decode(path)
        with path.open(encoding="utf-8-sig", newline="") as text:
            delimiter = _delimiter(text.read(HEAD))
            text.seek(0)
            columns, records = _grid_rows(path, text, delimiter)
            column, _ = _find_path_column(path, columns)
            place = columns.index(column)
            for line, fields in records:
                if not fields[place]:
                    raise UserError(f"{path}, line {line} {NO_PATH}")
                if "\0" in fields[place]:
                    _decode(path)  # says where
                rows += 1
                yield path.parent / fields[place]
    except UnicodeDecodeError:
        _decode(path)  # says where
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if not rows:
        raise UserError(f"{path} {NO_ROWS}")


def _find_path_column(path: Path, columns: Sequence[str]) -> tuple[str, list[str]]:
    column, others = find_column(columns, PATH_COLUMNS)
    if column is None:
        raise UserError(
            f"{path} has no column of image paths: found {listed(columns)}, expected one of "
            f"{', '.join(PATH_COLUMNS)}.{_nearest(columns, PATH_COLUMNS)} "
            "The first line names the columns; rename one of them."
        )
    return column, others


def _path_column(grid: _Grid) -> tuple[str, list[str]]:
    column, others = _find_path_column(grid.path, grid.columns)
    if empty := [row for row, name in enumerate(grid.values(column)) if not name]:
        raise UserError(f"{grid.at(empty[0])} {NO_PATH}")
    return column, others


def _nearest(columns: Sequence[str], known: Sequence[str]) -> str:
    for column in columns:
        if hint := did_you_mean(column.lower(), known):
            return f" For {column!r}:{hint}"
    return ""


def _read_grid(path: Path) -> _Grid:
    text = _decode(path)
    columns, rows = _grid_rows(path, io.StringIO(text, newline=""), _delimiter(text))
    grid = _Grid(path, columns, [], [])
    for line, row in rows:
        grid.rows.append(row)
        grid.lines.append(line)
    if not grid.rows:
        raise UserError(f"{path} {NO_ROWS}")
    return grid


def _grid_rows(path: Path, lines: Iterable[str], delimiter: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The names of the columns, and each row with the line that it starts in."""
    records = _records(path, lines, delimiter)
    _, header = next(records, (0, []))
    columns = [column.strip() for column in header]
    if not any(columns):
        raise UserError(f"{path} is empty; expected a line of column names, then one line per image.")
    named = [place for place, column in enumerate(columns) if column]  # spreadsheets leave empty columns at the end
    if twice := first_twice(columns[place].lower() for place in named):
        raise UserError(f"{path} has the column {columns[named[twice[0]]]!r} twice. Rename or remove one.")
    return [columns[place] for place in named], _fields(path, records, columns, named, delimiter)


def _fields(
    path: Path, records: Iterable[tuple[int, list[str]]], columns: Sequence[str], named: Sequence[int], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record in the columns that have a name."""
    for line, row in records:
        if len(row) != len(columns):
            raise UserError(
                f"{path}, line {line} has {len(row)} fields, expected {len(columns)} ({listed(columns)}), separated by "
                f"{delimiter!r}. Put fields that hold {delimiter!r} into double quotes."
            )
        fields = [field.strip() for field in row]
        if nameless := [field for place, field in enumerate(fields) if field and not columns[place]]:
            raise UserError(f"{path}, line {line} has {nameless[0]!r} in a column without a name. Name the column.")
        yield line, [fields[place] for place in named]


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if content.startswith(UTF16):
        raise UserError(f"{path} is UTF-16; expected UTF-8. Save it as CSV UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line} is not UTF-8 (byte {error.start}). Save it as CSV UTF-8.") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{path}, line {line} holds a zero byte: this is not a text file. Save it as CSV UTF-8.")
    return text


def _delimiter(text: str) -> str:
    """The one with which the first line has a path column, else the one that gives the most columns."""
    header = text.lstrip("\r\n").split("\n", 1)[0].split("\r", 1)[0]
    fields = {}
    for delimiter in DELIMITERS:
        try:
            fields[delimiter] = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            fields[delimiter] = []
        if find_column(fields[delimiter], PATH_COLUMNS)[0] and len(fields[delimiter]) > 1:
            return delimiter
    return max(DELIMITERS, key=lambda delimiter: len(fields[delimiter]))


def _records(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not an empty line, with the line it starts in."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    start = 1
    try:
        for record in reader:
            if record:
                yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {start} cannot be read: {error}. A quoted field must be closed and a double quote inside "
            "one written twice."
        ) from None


def _flag_columns(grid: _Grid, candidates: Sequence[str]) -> list[str]:
    """The columns that are one class each: at least half of what they hold is 0 or 1, and then all must be."""
    flags = []
    for column in candidates:
        values = grid.values(column)
        filled = [value for value in values if value]
        good = sum(value in ZERO_ONE for value in filled)
        if not filled or 2 * good < len(filled):
            continue
        for row, value in enumerate(values):
            if value not in ZERO_ONE:
                found = repr(value) if value else "nothing"
                raise UserError(
                    f"{grid.at(row)} has {found} in the column {column!r}; a column that stands for a class holds 0 or 1 "
                    "in every row. Correct it, or remove the column if it is no class."
                )
        flags.append(column)
    if len(flags) < 2:
        raise UserError(
            f"{grid.path} has no column of labels: found {listed(grid.columns)}, expected one of "
            f"{', '.join(LABEL_COLUMNS)}, or {MULTI_COLUMN!r} joined by |, or two or more columns of 0 and 1."
            f"{_nearest(candidates, (*LABEL_COLUMNS, MULTI_COLUMN))}"
        )
    return flags


def _flagged(grid: _Grid, flags: Sequence[str]) -> list[tuple[str, ...]]:
    places = [(column, grid.columns.index(column)) for column in flags]
    return [tuple(column for column, place in places if ZERO_ONE[row[place]]) for row in grid.rows]


def _check_flags(grid: _Grid, flags: Sequence[str], classes: ClassList | None) -> ClassList:
    """The columns are the classes; a class list may only put them in another order."""
    if classes is None:
        return ClassList(tuple(flags), str(grid.path))
    if set(classes.names) != set(flags):
        raise UserError(
            f"{classes.origin} names {listed(classes.names)}, and the columns of 0 and 1 in {grid.path} are "
            f"{listed(flags)}. Make them agree, or remove {Path(classes.origin).name}."
        )
    return classes


def _find_files(grid: _Grid, names: Sequence[str]) -> list[Path]:
    """The file of each row.

    Raises:
        UserError: files that do not exist: how many, and the first.
    """
    paths = [grid.path.parent / name for name in names]
    missing = [row for row, path in enumerate(paths) if not os.path.isfile(path)]
    if missing:
        row = missing[0]
        hint = " Write / in paths, not \\." if "\\" in names[row] else ""
        if "://" in names[row]:
            hint = " Web addresses are not read: download the images first."
        what = "is a folder" if os.path.isdir(paths[row]) else "does not exist"
        raise UserError(
            f"{len(missing)} of the {len(names)} images that {grid.path} names cannot be found, the first in line "
            f"{grid.lines[row]}: {names[row]} ({paths[row]} {what}). Paths are relative to the table's folder.{hint}"
        )
    return paths


def _refuse_twice(
    grid: _Grid, paths: Sequence[Path], labels: Sequence[tuple[str, ...]], roles: Sequence[str] | None
) -> None:
    if (twice := first_twice(os.path.normpath(path) for path in paths)) is None:
        return
    one, two = twice
    if set(labels[one]) != set(labels[two]):
        said = [" and ".join(map(repr, labels[row])) or "no class" for row in twice]
        how = f"with conflicting labels, {said[0]} and {said[1]}"
    elif roles is not None and roles[one] != roles[two]:
        how = f"in the {roles[one]} and in the {roles[two]} split"
    else:
        how = "with the same label"
    raise UserError(
        f"{grid.path} names {paths[one]} twice, {how}: lines {grid.lines[one]} and {grid.lines[two]}. Remove one of them."
    )
