"""The folder of a run: who works in it, and what is written before anything else so that a killed run can be resumed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitkit.config import UserError, write_file, write_json

__all__ = ["began_by", "check_free", "claimed", "left_nothing", "not_begun", "write_arguments"]

ARGUMENTS, COMMAND, LOCK, LAUNCH = "arguments.json", "command.txt", ".lock", ".launch"
FIRST = {ARGUMENTS, COMMAND, LOCK, LAUNCH}  # what a run writes before it has read its data


def left_nothing(run: Path) -> bool:
    """Is there no run in this folder, or one that was stopped before it had done any work?"""
    if not run.exists():
        return True
    return run.is_dir() and {path.name.removesuffix(".partial") for path in run.iterdir()} <= FIRST


def check_free(run: Path, verb: str) -> None:
    """Refuse a folder that holds something; what a run left that was stopped before any work does not count.

    Raises:
        UserError: the folder is taken.
    """
    if not left_nothing(run):
        hint = f", or go on with it: vit {verb} --resume {run}" if (run / ARGUMENTS).exists() else ""
        raise UserError(f"{run} already exists. Choose another --out{hint}.")


def not_begun(run: Path) -> str:
    """What to do where there is nothing to go on with, for the end of a message; empty where the folder holds something."""
    if not left_nothing(run):
        return ""
    return " There is nothing to go on with: if it was stopped in its first moments, give its first command again."


def write_arguments(run: Path, arguments: Mapping[str, Any], command: str, launch: str = "") -> None:
    """Store what a run was asked; with the last file of it the run can be resumed.

    ``launch`` names the start of several ranks, see `began_by`.

    Raises:
        UserError: the folder cannot be written.
    """
    if launch:
        write_file(run / LAUNCH, launch.encode())
    write_file(run / COMMAND, (command + "\n").encode("utf-8", "surrogateescape"))
    write_json(run / ARGUMENTS, arguments)


def began_by(run: Path) -> str:
    """Which start of several ranks began the run in this folder; empty where none did."""
    if not ((run / LAUNCH).is_file() and (run / ARGUMENTS).is_file()):
        return ""
    return (run / LAUNCH).read_text(encoding="utf-8")


@contextlib.contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Keep other processes out of the folder. The claim ends with this process, however that ends.

    Where the block ends in a `UserError` before any work was done, nothing is left behind.

    Raises:
        UserError: another process works there, or the folder cannot be made.
    """
    there = run.exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {run}: {error.strerror}. Choose another place.") from None
    lock = _lock(run / LOCK)
    if lock is None:
        raise UserError(f"another process is at work in {run}. Wait for it, stop it, or choose another --out.")
    try:
        yield
    except UserError:
        if left_nothing(run):
            for path in run.iterdir():
                if path.name != LOCK:
                    path.unlink()
        raise
    finally:
        (run / LOCK).unlink(missing_ok=True)
        os.close(lock)
        if not there and not any(run.iterdir()):
            run.rmdir()


def _lock(path: Path) -> int | None:
    """A file descriptor that holds the lock, None where another process does.

    A record lock, which children do not inherit: a loader process that outlives its killed parent holds nothing.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: two runs in one folder are not noticed while both run
        fcntl = None  # type: ignore[assignment]
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {path.parent}: {error.strerror}. Choose another place.") from None
        if fcntl is not None:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(descriptor)
                return None
            except OSError:  # a file system without locks
                pass
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # removed by the process that held it: take the new one
