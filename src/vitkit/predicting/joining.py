"""Joins the parts of a prediction into one file in input order; an older file stays whole until the new one is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vitkit.config import UserError
from vitkit.predicting.parts import Parts, skipped_lines, sync_folder
from vitkit.predicting.writers import Columns, Joiner

__all__ = ["Joined", "join"]

HEADER = skipped_lines([("path", "reason")])


class Joined(NamedTuple):
    """What the parts held."""

    written: int
    skipped: int
    first: tuple[str, str]  # the first that was skipped, and why


def join(parts: Parts, columns: Columns) -> Joined:
    """Write the output, and the list of what was skipped beside it, from all parts. Where no image could be used, only the list.

    Raises:
        UserError: it cannot be written, or a part does not hold what it should; parts are kept.
    """
    out, beside = parts.out, Path(f"{parts.out}.skipped.csv")
    partial, partial_beside = (path.with_name(path.name + ".partial") for path in (out, beside))
    try:
        with partial.open("wb") as file, partial_beside.open("wb") as listing:
            found = _copy(parts, columns, file, listing)
            for each in (file, listing):
                each.flush()
                os.fsync(each.fileno())
        if found.skipped:
            partial_beside.replace(beside)
        else:
            partial_beside.unlink()
            beside.unlink(missing_ok=True)
        if found.written:
            partial.replace(out)
        else:
            partial.unlink()
        sync_folder(out.parent)
        return found
    except OSError as error:
        for path in (partial, partial_beside):
            path.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {out}: {error.strerror or error}. Free space or choose another place. {parts.kept()}"
        ) from None


def _copy(parts: Parts, columns: Columns, file: BinaryIO, listing: BinaryIO) -> Joined:
    joiner = Joiner(file, columns, parts.kind)
    listing.write(HEADER)
    written = left_out = 0
    first = ("", "")
    for part in range(parts.count):
        start, stop = parts.span(part)
        skipped = parts.skipped(part)
        try:
            rows = joiner.add(parts.place(part).read_bytes())
        except ValueError:
            rows = -1
        if rows + len(skipped) != stop - start:
            raise UserError(
                f"{parts.place(part)} is damaged: it does not hold what is known of images {start:,} to {stop - 1:,}. Remove that "
                "file and run the same command again."
            )
        written += rows
        if skipped:
            first = first if left_out else skipped[0]
            left_out += len(skipped)
            listing.write(skipped_lines(skipped))
    joiner.close()
    return Joined(written, left_out, first)
