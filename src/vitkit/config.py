"""The user's boundary: the one error type, JSON in and out, and writing files without losing the old ones.

Imports the standard library only, so that anything may import it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "UserError",
    "check_writable",
    "did_you_mean",
    "free_folder",
    "from_dict",
    "is_on",
    "override",
    "parse_value",
    "read_json",
    "write_file",
    "write_json",
]

T = TypeVar("T")


class UserError(ValueError):
    """A mistake the user can mend: what was found, what was expected, what to do. Printed as one message."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {match[0]!r}?" if match else ""


def from_dict(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from JSON values; lists become tuples. ``where`` names the source in errors.

    Raises:
        UserError: a key that ``cls`` does not know, or one that it needs and is missing.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise UserError(f"{where}: unknown field {key!r}.{did_you_mean(key, fields)}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise UserError(f"{where}: missing field {', '.join(missing)}.")
    try:
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except TypeError as error:
        raise UserError(f"{where}: a value is of the wrong kind: {error}.") from None


def override(record: T, changes: Mapping[str, Any], where: str) -> T:
    """Return a copy of the dataclass ``record`` with typed changes.

    Raises:
        UserError: unknown field or a value of the wrong kind.
    """
    hints = typing.get_type_hints(type(record))
    for key, value in changes.items():
        if key not in hints:
            raise UserError(f"{where}: unknown setting {key!r}.{did_you_mean(key, hints)} Known: {', '.join(hints)}.")
        expected = hints[key]
        accepted: tuple[type, ...] | None
        accepted = {float: (float, int), int: (int,), bool: (bool,), str: (str,)}.get(expected)
        if accepted is None and typing.get_origin(expected) is tuple:
            accepted = (tuple, list, int) if int in typing.get_args(expected) else (tuple, list)
        wrong_bool = isinstance(value, bool) and expected is not bool
        if accepted and (not isinstance(value, accepted) or wrong_bool):
            name = getattr(expected, "__name__", str(expected))
            raise UserError(f"{where}: {key} must be of type {name}, got {value!r}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: {key} must be a finite number, got {value!r}.")
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]


def parse_value(text: str) -> Any:
    """Read a command-line value: JSON where it is JSON (``3e-4``, ``true``, ``null``), numbers between commas, else the text."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(candidate)
    return text


def is_on(name: str) -> bool:
    """Does the environment's variable say yes? 1, on, yes or true."""
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: missing, unreadable or not JSON.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or device may never end
            raise UserError(f"{path} is not a file; a JSON file was expected there.")
        return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read as JSON: its values are nested too deeply.") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:  # a whole number of thousands of digits is a plain ValueError
        raise UserError(f"{path} cannot be read as JSON: {error}. It may be truncated; make it again.") from None


def write_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one piece: an existing file stays whole until the new one is complete.

    Raises:
        UserError: the file cannot be written (no space, no permission, size limit); nothing old is lost.
    """
    partial = path.with_name(path.name + ".partial")
    in_place = path.exists() and not path.is_file()  # a device or pipe cannot be renamed onto
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path if in_place else partial, "wb") as file:
            file.write(data)
            file.flush()
            if not in_place:
                os.fsync(file.fileno())
        if not in_place:
            partial.replace(path)
    except OSError as error:
        if not in_place:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from None


def free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or the first of ``name-2``, ``name-3``, ... that does not exist."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def check_writable(folder: Path) -> None:
    """See that files can be written in ``folder``, before long work and not after; leaves all as it was.

    Raises:
        UserError: it is a file, or cannot be made or written in.
    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]  # the deepest first
        trial = folder / ".vitkit-trial"
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
        for path in missing:
            path.rmdir()
    except FileExistsError:
        raise UserError(f"cannot write to {folder}: it is a file, and -o names a folder. Choose another -o.") from None
    except OSError as error:
        raise UserError(f"cannot write to {folder!s:.120}: {error.strerror or error}. Choose another -o.") from None
    except ValueError as error:  # no file can have such a name
        raise UserError(f"cannot write to {str(folder)!r:.120}: {error}. Choose another -o.") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON (sorted by insertion, UTF-8, newline at the end); see `write_file`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_file(path, (text + "\n").encode("utf-8", "surrogateescape"))  # file names need not be UTF-8
