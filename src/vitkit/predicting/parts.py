"""What a long prediction has done, in files beside its output, so that it goes on where it was stopped.

<out>.parts/listing.jsonl        the images, see `listing`
<out>.parts/manifest.json        what this is the prediction of: model, images, settings, engine
<out>.parts/part-00000.csv       rows of the first images, whole as soon as it has this name
<out>.parts/part-00000.skipped   those of them that cannot be used, written before
<out>.parts/joined.json          written when the output is whole
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitkit.config import UserError, read_json, write_file, write_json
from vitkit.predicting.listing import Listing

__all__ = ["Parts", "differences", "part_size", "skipped_lines", "sync_folder"]

FORMAT, VERSION = "vitkit-predict-parts", 1
LEAST, USUAL, MOST_PARTS = 64, 1024, 4096
NAMES = re.compile(r"(listing\.jsonl|manifest\.json|joined\.json|lock|part-\d+\.\w+)(\.partial)?")
IMAGES = "the images"
Facts = Mapping[str, Any]


def part_size(images: int) -> int:
    """Images of a part: 64 to 1,024, so that little is done twice, and more only where there would be too many parts."""
    size = LEAST
    while (size < USUAL and images > LEAST * size) or images > MOST_PARTS * size:
        size *= 2
    return size


class Parts:
    """The folder of one output."""

    def __init__(self, out: Path, kind: str) -> None:
        self.out, self.kind = out, kind
        self.folder = Path(f"{out}.parts")
        self.images, self.size = 0, 1
        self._lock: Any = None

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.images // self.size)

    def span(self, part: int) -> tuple[int, int]:
        """The first image of a part, and the one after its last."""
        return part * self.size, min((part + 1) * self.size, self.images)

    def place(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{part:05d}.{self.kind}"

    def skipped_place(self, part: int) -> Path:
        """The file of the images of a part that cannot be used; there is one only if there are some."""
        return self.folder / f"part-{part:05d}.skipped"

    def is_done(self, part: int) -> bool:
        """Is a part whole?"""
        return self.place(part).exists()

    def done(self) -> int:
        """How many parts are whole."""
        return sum(self.is_done(part) for part in range(self.count))

    def manifest(self) -> dict[str, Any] | None:
        """What is here; None where there is nothing yet.

        Raises:
            UserError: something else, or of another version.
        """
        path = self.folder / "manifest.json"
        if not path.exists():
            return None
        found = read_json(path)
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
            raise UserError(f"{path} is not of this version of vitkit. Add --restart to begin anew.")
        return found

    def began_by(self) -> str:
        """The name of the start of torchrun that began this; empty where that cannot be told."""
        with contextlib.suppress(UserError):
            return str((self.manifest() or {}).get("launch", ""))
        return ""

    def open(self, manifest: Facts) -> None:
        """Take size and number of parts from a manifest."""
        self.images, self.size = int(manifest["images"]), int(manifest["size"])

    def joined(self) -> dict[str, Any] | None:
        """What `finish` was told, with the manifest, if the output is whole and not all of this was removed yet."""
        path = self.folder / "joined.json"
        return read_json(path) if path.exists() and self.out.exists() else None

    def hold(self) -> None:
        """Let no other process write here, until this one ends.

        Raises:
            UserError: one does.
        """
        from filelock import FileLock, Timeout

        if not self.folder.is_dir() or (self._lock is not None and self._lock.is_locked):
            return
        self._lock = FileLock(self.folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process writes {self.out} now. Wait for it, or choose another -o.") from None
        except (OSError, NotImplementedError):  # a file system without locks
            self._lock = None

    def release(self) -> None:
        """Let others write here."""
        if self._lock is not None:
            self._lock.release()

    def create(self, facts: Facts, listing: Listing, launch: str) -> dict[str, Any]:
        """Begin, and return the manifest.

        Raises:
            UserError: the folder cannot be written, or holds something else.
        """
        self.remove()
        manifest = {
            "format": FORMAT, "version": VERSION, "images": listing.count, "size": part_size(listing.count),
            "launch": launch, "facts": facts,
        }  # fmt: skip
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.hold()
            listing.save(self.folder / "listing.jsonl")
        except OSError as error:
            raise UserError(
                f"cannot write {self.folder}: {error.strerror or error}. Free space or choose another place."
            ) from None
        write_json(self.folder / "manifest.json", manifest)
        sync_folder(self.folder)
        return manifest

    def check(self, manifest: Facts, facts: Facts, listing: Listing) -> None:
        """See that those facts that are known now are those of the manifest.

        Raises:
            UserError: they are not; says which, and what to do.
        """
        known = manifest["facts"]
        found = differences({name: known.get(name) for name in facts}, facts)
        if known.get(IMAGES) != facts.get(IMAGES, known.get(IMAGES)):
            saved = self.folder / "listing.jsonl"
            first = listing.compare(saved) if saved.exists() else ""
            told = f": {first}" if first else ""
            found.append(f"{IMAGES} ({manifest['images']:,} then, {listing.count:,} now{told})")
        if found:
            raise UserError(
                f"{self.folder} holds what an earlier run has done, and this one differs from it in {'; '.join(found)}. Run it "
                "as before to go on with it, or add --restart to begin anew."
            )

    def write(self, part: int, data: bytes, skipped: Sequence[tuple[str, str]]) -> None:
        """Keep a part: its file has its name when it is whole and on the disk.

        Raises:
            UserError: it cannot be written.
        """
        beside = self.skipped_place(part)
        try:
            if skipped:
                write_file(beside, skipped_lines(skipped))
            else:
                beside.unlink(missing_ok=True)
            write_file(self.place(part), data)
        except UserError as error:
            raise UserError(f"{error} {self.kept()}") from None
        sync_folder(self.folder)

    def kept(self) -> str:
        """What to do after a stop."""
        return f"{self.done()} of {self.count} parts are done and kept in {self.folder}: run the same command again to go on."

    def skipped(self, part: int) -> list[tuple[str, str]]:
        """Name and reason of the images of a part that cannot be used."""
        path = self.skipped_place(part)
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        return [(row[0], row[1]) for row in csv.reader(io.StringIO(text, newline=""))]

    def finish(self, result: Facts) -> None:
        """Note that the output is whole, and remove the parts."""
        write_json(self.folder / "joined.json", {**result, "manifest": self.manifest()})
        sync_folder(self.folder)
        self.remove()

    def remove(self) -> None:
        """Remove what is here. What says that the output is whole goes last, what says what this is before it.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        if not os.path.lexists(self.folder):
            return
        try:
            names = [entry.name for entry in os.scandir(self.folder)]
            if foreign := sorted(name for name in names if not NAMES.fullmatch(name)):
                raise UserError(
                    f"{self.folder} holds {foreign[0]!r}, which is not a part of a prediction. Move it, or choose another -o."
                )
            last = ("manifest.json", "joined.json")
            for name in sorted(names, key=lambda name: last.index(name) if name in last else -1):
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / name).unlink()
            if self._lock is not None:
                self.release()
                (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()
        except OSError as error:
            raise UserError(f"cannot remove {self.folder}: {error.strerror or error}.") from None


def skipped_lines(skipped: Iterable[tuple[str, str]]) -> bytes:
    """Names and reasons as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(skipped)
    return text.getvalue().encode("utf-8", "surrogateescape")


def differences(then: Facts, now: Facts) -> list[str]:
    """The facts that are not equal, with both values; those of the images are left to the listing."""
    return [
        f"{name} ({_shown(then[name])} then, {_shown(value)} now)"
        for name, value in now.items()
        if name != IMAGES and json.loads(json.dumps(value)) != then[name]
    ]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def sync_folder(folder: Path) -> None:
    """Let names in a folder outlive a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
