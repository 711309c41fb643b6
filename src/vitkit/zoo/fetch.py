"""From a row of the zoo to a file on this machine: the download cache first, then, because the user named it, the publisher."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.cache import cache_folder
from vitkit.data.download import Expected, download, is_offline, is_whole, record_of, size_text, verify
from vitkit.zoo.hub import SIDECARS, from_cache, from_hub
from vitkit.zoo.record import Checkpoint

__all__ = ["cached", "fetch", "place"]


def place(row: Checkpoint) -> Path:
    """Where the download cache has the row's file, and where a copy put by hand is found."""
    address = urlsplit(row.url or f"https://huggingface.co/{row.repo}/{row.file}")
    return cache_folder().joinpath("weights", str(address.hostname), *unquote(address.path).strip("/").split("/"))


def cached(row: Checkpoint) -> Path | None:
    """The row's file where this machine has it whole, else None. Opens no socket."""
    for file in row.files or (row.file,):
        own = place(row).with_name(file)
        if is_whole(own):
            return own
    return from_cache(row.repo, row.files) if row.repo else None


def fetch(row: Checkpoint, *, offline: bool = False, quiet: bool = False) -> Path:
    """The row's weights on this machine, fetched where they are not there; the JSON files of its library stand beside them.

    Size, licence and checksum are told on stderr, with a progress bar on a terminal; ``quiet`` tells nothing.

    Raises:
        UserError: not to be had, damaged, no space, or offline and not there; the message says how to do it by hand.
    """
    say = (lambda _: None) if quiet else Console(out=sys.stderr).say
    target = place(row)
    found = cached(row)
    by_hand = found == target and bool(row.url) and not record_of(target).exists()
    if found is not None and not by_hand:
        return found
    try:
        if by_hand:  # read it once
            verify(target, Expected(row.sha256, row.digest), row.url)
            return target
        if offline or is_offline():
            state = "is damaged, of another size than it came with" if target.exists() else "is not on this machine"
            raise UserError(f"{row.file} {state}, and nothing is fetched offline.")
        terms = f"licence {row.licence}"
        if row.repo:
            return from_hub(row.repo, row.files, say, terms, quiet)
        return _from_address(row, target, say, terms, quiet)
    except UserError as error:
        beside = f" (and beside it, where the repository has them, {', '.join(SIDECARS)})" if row.repo else ""
        raise UserError(
            f"cannot have {row.name}: {error} By hand: put {row.address} at {target}{beside}, "
            "or give the path of a copy in place of the name."
        ) from None


def _from_address(row: Checkpoint, target: Path, say: Callable[[str], None], terms: str, quiet: bool) -> Path:
    from filelock import FileLock

    @contextlib.contextmanager
    def progress(start: int, total: int | None) -> Iterator[Callable[[int], object]]:
        from tqdm import tqdm

        more = f", going on after {size_text(start)}" if start else ""
        say(f"fetching {row.url}: {size_text(total)}, {terms}{more}")
        hidden = True if quiet else None  # None: hidden where stderr is no terminal
        with tqdm(
            total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=row.file, file=sys.stderr,
            leave=False, disable=hidden,
        ) as bar:  # fmt: skip
            yield bar.update

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f"{target.name}.lock"))
        with lock:  # another process that fetches the same file is waited for
            if is_whole(target):
                return target
            digest = download(row.url, target, Expected(row.sha256, row.digest), progress)
    except OSError as error:
        raise UserError(f"cannot write to {target.parent}: {error.strerror or error}.") from None
    checked = "as published" if row.digest or row.sha256 else "none published to compare with"
    say(f"kept as {target}, SHA-256 {digest} ({checked})")
    return target
