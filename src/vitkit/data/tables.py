"""What CSV, Parquet and tar data share: columns by name, labels to class names, and tables to one `Source`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vitkit.config import UserError, did_you_mean
from vitkit.data.containers import ImageSource
from vitkit.data.samples import SPLIT_NAMES, Sample, Source, listed

__all__ = [
    "LABEL_COLUMNS",
    "MULTI_COLUMN",
    "PATH_COLUMNS",
    "SPLIT_COLUMN",
    "ClassList",
    "Table",
    "assemble",
    "find_column",
    "name_labels",
    "read_class_list",
    "to_role",
]

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "filepath", "image_path", "image_file")
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name")
MULTI_COLUMN = "labels"
SPLIT_COLUMN = "split"
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)  # 007 and what no 64-bit integer holds are names
_FLOAT = re.compile(r"-?(0|[1-9]\d{0,17})(\.0)?", re.ASCII)
Value = str | int


class ClassList(NamedTuple):
    """Class names in the order that numbers index."""

    names: tuple[str, ...]
    origin: str  # where the list is from, for messages


@dataclass(frozen=True)
class Table:
    """The rows of one file, with class names for labels."""

    file: Path
    unit: str  # what a row is called in messages: line, row or member
    places: Sequence[int | str]  # of each row, in that unit
    names: Sequence[str]  # of each image
    sources: Sequence[ImageSource]
    labels: Sequence[tuple[str, ...]]  # class names of each image; exactly one unless multi-label
    multilabel: bool
    classes: ClassList | None  # the list that came with the data
    roles: Sequence[str] | None = None  # train, val or test of each row, where the table says so
    notes: tuple[str, ...] = ()

    def at(self, row: int) -> str:
        """Name a row for a message."""
        return f"{self.file}, {self.unit} {self.places[row]}"


def find_column(columns: Sequence[str], known: Sequence[str]) -> tuple[str | None, list[str]]:
    """The column that goes by a known name in any case, the first name winning; and others that do too."""
    found = [column for name in known for column in columns if column.strip().lower() == name]
    return (found[0] if found else None), found[1:]


def read_class_list(*folders: Path) -> ClassList | None:
    """``classes.txt`` of the first folder that has one, a class name a line; None where there is no such file.

    Raises:
        UserError: not UTF-8, no names, an empty line between names, or a name twice.
    """
    path = next((folder / "classes.txt" for folder in folders if (folder / "classes.txt").is_file()), None)
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}. Expected UTF-8 text, one class name a line.") from None
    if names == [""]:
        raise UserError(f"{path} is empty; expected one class name a line.")
    if "" in names:
        raise UserError(f"{path}, line {names.index('') + 1} is empty; expected one class name a line.")
    return check_class_list(ClassList(tuple(names), str(path)))


def check_class_list(classes: ClassList) -> ClassList:
    """Return ``classes``, or raise a `UserError` where a name is there twice."""
    name, count = Counter(classes.names).most_common(1)[0]
    if count > 1:
        first = classes.names.index(name)
        second = classes.names.index(name, first + 1)
        raise UserError(
            f"{classes.origin} has the class name {name!r} twice, for classes {first} and {second} (counted from 0). "
            "Classes are told apart by name: give each its own."
        )
    return classes


def name_labels(
    values: Sequence[Sequence[Value]], classes: ClassList | None, at: Callable[[int], str]
) -> list[tuple[str, ...]]:
    """Class names for the labels of each row.

    With a class list, numbers index it and words must be in it. Without one, a label's text is the class name.

    Args:
        values: labels of each row: text, or int where the file's own type says so.
        classes: the list that came with the data.
        at: names a row for a message.

    Raises:
        UserError: numbers and words in one column; a label that is not in the list, negative or empty.
    """
    values = _whole_numbers(values)
    first: dict[Value, int] = {}
    for row, several in enumerate(values):
        for value in several:
            first.setdefault(value, row)
        if len(set(several)) < len(several):
            raise UserError(f"{at(row)} names a class twice: {'|'.join(map(str, several))}. Keep one.")
    names = _names_of(first, classes, at)
    return [tuple(names[value] for value in several) for several in values]


def _whole_numbers(values: Sequence[Sequence[Value]]) -> Sequence[Sequence[Value]]:
    """Labels such as 1.0, as tables are saved that once had an empty cell, as the numbers they are, if all labels are numbers."""
    if not all(isinstance(v, int) or _FLOAT.fullmatch(v) for several in values for v in several):
        return values
    return [[v if isinstance(v, int) else v.removesuffix(".0") for v in several] for several in values]


def _names_of(first: Mapping[Value, int], classes: ClassList | None, at: Callable[[int], str]) -> Mapping[Value, str]:
    """Each distinct label's class name; ``first`` holds the row in which a label comes first."""
    if "" in first:
        raise UserError(f"{at(first[''])} has an empty label. Fill it in, or remove the row.")
    numbers = [value for value in first if isinstance(value, int) or _NUMBER.fullmatch(value)]
    words = [value for value in first if value not in set(numbers) and not str(value).isdecimal()]
    known = {} if classes is None else {name: number for number, name in enumerate(classes.names)}
    by_name = bool(known) and all(value in known for value in first)
    if numbers and words and not by_name:
        raise UserError(
            f"{at(first[words[0]])} has the word {str(words[0])!r} for a label, and {at(first[numbers[0]])} the number "
            f"{numbers[0]}. Use words only or numbers only."
        )
    negative = [value for value in numbers if int(value) < 0]
    if negative and not by_name:
        raise UserError(
            f"{at(first[negative[0]])} has the label {negative[0]}, which often stands for a hidden label; expected 0 or "
            "more. Remove rows without a label."
        )
    if classes is None:
        return {value: str(value) for value in first}
    by_index = len(numbers) == len(first) and all(int(value) < len(known) for value in first)
    if by_name and by_index:
        for value in first:
            if classes.names[int(value)] != value:
                raise UserError(
                    f"{at(first[value])} has the label {value}, which is a class name in {classes.origin} and also the "
                    f"number of the class {classes.names[int(value)]!r}. Use names that are not numbers."
                )
    if by_index:
        return {value: classes.names[int(value)] for value in first}
    for value in first:
        if len(numbers) == len(first) and not any(number in known for number in numbers):
            if int(value) >= len(known):
                raise UserError(
                    f"{at(first[value])} has the label {value}; {classes.origin} holds {len(known)} classes, "
                    f"0 to {len(known) - 1}."
                )
        elif value not in known:
            raise UserError(
                f"{at(first[value])} has the label {str(value)!r}, which is not in {classes.origin} "
                f"({listed(classes.names)}).{did_you_mean(str(value), known)}"
            )
    return {value: str(value) for value in first}


def to_role(word: str, where: str) -> str:
    """``train``, ``val`` or ``test`` for what a split column says.

    Raises:
        UserError: another word.
    """
    role = SPLIT_NAMES.get(word.strip().lower())
    if role is None:
        raise UserError(
            f"{where} has the split {word!r}; expected one of {', '.join(SPLIT_NAMES)}."
            f"{did_you_mean(word.strip().lower(), SPLIT_NAMES)}"
        )
    return role


def assemble(name: str, tables: Sequence[tuple[str, Table]], notes: Iterable[str] = ()) -> Source:
    """Join tables of ``train``, ``val``, ``test`` or ``all`` rows to one source, classes matched by name.

    Raises:
        UserError: no rows; single-label and multi-label tables together; a class that training does not have.
    """
    first = tables[0][1]
    for _, table in tables:
        if not table.names:
            raise UserError(f"{table.file} holds no images. Expected one row per image.")
        if table.multilabel != first.multilabel:
            several, one = (table, first) if table.multilabel else (first, table)
            raise UserError(f"{several.file} has several classes per image, {one.file} one. Make them alike.")
    rows: dict[str, list[tuple[Table, int]]] = {}
    for role, table in tables:
        for row in range(len(table.names)):
            rows.setdefault(_role(role, table, row), []).append((table, row))
    rows = {role: rows[role] for role in ("train", "val", "test", "all") if role in rows}
    trained = rows.get("train") or rows.get("all") or [entry for part in rows.values() for entry in part]
    classes = _classes(trained)
    if not classes:
        raise UserError(f"{first.file} names no class in any row; expected at least two classes. Fill in the labels.")
    index = {known: number for number, known in enumerate(classes)}
    told = [note for _, table in tables for note in table.notes]
    splits = {}
    for role, part in rows.items():
        splits[role] = [_sample(table, row, role, index) for table, row in part]
        seen = {label for s in splits[role] for label in s.labels or (s.label,)}
        if empty := [known for number, known in enumerate(classes) if number not in seen]:
            where = "" if role == "all" else f" in the {role} split"
            told.append(f"{len(empty)} of {len(classes)} classes have no image{where}: {listed(empty, 4)}")
        if first.multilabel and (without := sum(not s.labels for s in splits[role])):
            told.append(f"{without} images of {role} have none of the classes")
    return Source(name, classes, splits, tuple(dict.fromkeys((*told, *notes))), first.multilabel)


def _role(role: str, table: Table, row: int) -> str:
    if table.roles is None:
        return role
    if role not in ("all", table.roles[row]):
        raise UserError(
            f"{table.at(row)} belongs to {table.roles[row]} by its split column, and to {role} by the file's name. "
            "Rename the file or remove the column."
        )
    return table.roles[row]


def _classes(rows: Sequence[tuple[Table, int]]) -> tuple[str, ...]:
    """The list that came with the training rows, else their class names in sorted order, numbers as numbers."""
    for table in {id(table): table for table, _ in rows}.values():
        if table.classes is not None:
            return table.classes.names
    names = {label for table, row in rows for label in table.labels[row]}
    if all(_NUMBER.fullmatch(known) for known in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _sample(table: Table, row: int, role: str, index: Mapping[str, int]) -> Sample:
    labels = table.labels[row]
    for name in labels:
        if name not in index:
            owner = "the list of classes" if role in ("train", "all") else "train"
            raise UserError(
                f"the {role} split has a class {name!r} that {owner} does not have ({owner}: {listed(list(index))}): "
                f"{table.at(row)}.{did_you_mean(name, index)} Correct the label, or add training images of it."
            )
    if table.multilabel:
        return Sample(table.names[row], table.sources[row], -1, tuple(sorted(index[label] for label in labels)))
    return Sample(table.names[row], table.sources[row], index[labels[0]])


def first_twice(keys: Iterable[Hashable]) -> tuple[int, int] | None:
    """The first two places that hold equal keys."""
    seen: dict[Hashable, int] = {}
    for number, key in enumerate(keys):
        if (before := seen.setdefault(key, number)) != number:
            return before, number
    return None
