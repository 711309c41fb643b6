"""JSON as every command writes it: without nan, and a file of a long list entry by entry."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from vitkit.config import UserError

__all__ = ["JsonList", "without_nan"]


class JsonList:
    """A JSON file with facts and one long list, written entry by entry; it gets its name when it is whole.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], name: str) -> None:
        self.path, self.count = path, 0
        self._partial = path.with_name(path.name + ".partial")
        self._begin = f"{_inside(facts)},\n{json.dumps(name)}: [\n"
        self._file: TextIO | None = None

    def begin(self) -> None:
        """Create the file, where that was not done yet: its unfinished name marks whose the folder is."""
        if self._file is None:
            with _told(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._partial.open("w", encoding="utf-8", errors="surrogateescape")

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write an entry."""
        text = json.dumps(without_nan(entry), ensure_ascii=False, allow_nan=False)
        self._write((",\n" if self.count else "{\n" + self._begin) + text)
        self.count += 1

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write more facts behind the list, and give the file its name."""
        self._write(("" if self.count else "{\n" + self._begin) + f"\n],\n{_inside(facts)}\n}}\n")
        self.close()
        with _told(self.path):
            self._partial.replace(self.path)

    def close(self) -> None:
        """Close the file, whole or not."""
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        self.begin()
        assert self._file is not None
        with _told(self.path):
            self._file.write(text)

    def __enter__(self) -> JsonList:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.close()


def _inside(facts: Mapping[str, Any]) -> str:
    """Facts as JSON without the braces around them."""
    return json.dumps(without_nan(facts), indent=1, ensure_ascii=False, allow_nan=False)[2:-2]


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from None


def without_nan(value: Any) -> Any:
    """JSON has no nan: a number that does not exist (the precision of a class never predicted) becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value
