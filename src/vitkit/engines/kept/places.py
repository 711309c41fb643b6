"""Where engines keep what they made for a model: by the content of its tensors, whole or not at all, shared by processes.

``<bundle>/engines/<key>/`` where the model is a bundle folder, else ``engines/<key>/`` in the cache folder; ``<key>`` is the
beginning of `fingerprint`, so that nothing made for other weights or another image size is ever taken. Imports no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vitkit.bundle import Bundle, is_bundle
from vitkit.config import UserError
from vitkit.data.cache import cache_folder

__all__ = [
    "FOLDER",
    "KEY",
    "PlaceError",
    "candidates",
    "engine_folder",
    "fingerprint",
    "first_writable",
    "make_once",
    "write_whole",
]

FOLDER = "engines"
KEY = 24  # digits of the fingerprint in names of folders


class PlaceError(UserError):
    """A place that cannot be written."""


def fingerprint(bundle: Bundle) -> str:
    """SHA-256 of a model: configuration, names and values of its tensors, whatever file they came from; of an exported artefact
    its graph's.
    """
    if bundle.artefact is not None:
        return bundle.artefact.identity
    import torch

    signed = hashlib.sha256(json.dumps(dataclasses.asdict(bundle.config), sort_keys=True).encode())
    for name, tensor in sorted(bundle.model.state_dict().items()):
        signed.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        signed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return signed.hexdigest()


def candidates(bundle: Bundle) -> tuple[Path, ...]:
    """The folders in which something made for this model may be, the one beside the model first. None need exist."""
    key = fingerprint(bundle)[:KEY]
    kept = cache_folder() / FOLDER / key
    if bundle.place is not None and bundle.place.is_dir() and is_bundle(bundle.place):
        return bundle.place / FOLDER / key, kept
    return (kept,)


def engine_folder(bundle: Bundle) -> Path:
    """The folder to write to: beside the model where that can be written, else in the cache folder. Not made here."""
    return first_writable(candidates(bundle))


def first_writable(places: Sequence[Path]) -> Path:
    """The first of `candidates` that can be written; the last where none can."""
    return next((place for place in places if _writable(place)), places[-1])


def _writable(folder: Path) -> bool:
    """May files be made in a folder that need not exist yet?"""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for other processes that write ``path``; a file system without locks is written without."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError):
            stack.enter_context(lock)
        yield


def write_whole(path: Path, writer: Callable[[Path], object]) -> Path:
    """Write the file or folder ``path`` in one piece: ``writer`` makes it under another name of the same ending, beside it.

    What was there stays whole until the new one is complete. Processes that write the same wait for each other.

    Raises:
        PlaceError: the place cannot be written.
    """
    try:
        with _locked(path):
            return _write(path, writer)
    except OSError as error:
        raise _refused(path, error) from None


def make_once(path: Path, writer: Callable[[Path], object]) -> Path:
    """As `write_whole`, unless ``path`` is there, or another process wrote it while this one waited.

    Raises:
        PlaceError: the place cannot be written.
    """
    if path.exists():
        return path
    try:
        with _locked(path):
            return path if path.exists() else _write(path, writer)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: OSError) -> PlaceError:
    return PlaceError(
        f"cannot write {path}: {error.strerror or error}. Free space, or set VITKIT_CACHE to another place."
    )


def _write(path: Path, writer: Callable[[Path], object]) -> Path:
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        for left in path.parent.glob(f".partial-*-{path.name}"):  # of processes that were killed: the lock is ours
            _remove(left)
        writer(partial)
        if path.is_dir():  # a folder cannot be replaced by another
            path.replace(path.with_name(f".partial-old-{path.name}"))
        partial.replace(path)
    finally:
        _remove(partial)
        _remove(path.with_name(f".partial-old-{path.name}"))
    return path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
