"""Writes the answers to a few images at once: to a file that appears when it is complete, or to a device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vitkit.config import UserError, write_file
from vitkit.predicting.parts import skipped_lines
from vitkit.predicting.writers import Columns, Row, encode, write_text

__all__ = ["write_whole"]

Skipped = Sequence[tuple[str, str]]


def write_whole(rows: Iterable[Row], out: Path, columns: Columns, kind: str, skipped: Skipped) -> int:
    """Write rows, and what was ``skipped`` once all are written to ``<out>.skipped.csv``; returns how many rows there are.

    Raises:
        UserError: it cannot be written.
    """

    def write(path: Path) -> int:
        if kind == "parquet":
            held = list(rows)
            path.write_bytes(encode(held, columns, kind))
            return len(held)
        with open(path, "w", encoding="utf-8", newline="", errors="surrogateescape") as file:
            return write_text(rows, file, columns, kind)

    in_place = out.exists() and not out.is_file()
    written = _guard(out, in_place, write)
    if not in_place:  # a device or pipe has no file beside it
        beside = Path(f"{out}.skipped.csv")
        if skipped:
            write_file(beside, skipped_lines([("path", "reason"), *skipped]))
        else:
            beside.unlink(missing_ok=True)
    return written


def _guard(out: Path, in_place: bool, write: Callable[[Path], int]) -> int:
    """Write through a partial file, so that an older result stays whole until the new one is complete and says something."""
    result = 1
    partial = out if in_place else out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        result = write(partial)
        if not in_place and result:
            partial.replace(out)
        return result
    except UserError:  # one file was refused (--strict): what others gave is no result
        result = 0
        raise
    except OSError as error:
        kept = f" What was done is in {partial}." if not in_place and os.path.exists(partial) else ""
        raise UserError(
            f"cannot write {out}: {error.strerror or error}. Free space or choose another place.{kept}"
        ) from None
    finally:
        if not in_place and not result:
            partial.unlink(missing_ok=True)
