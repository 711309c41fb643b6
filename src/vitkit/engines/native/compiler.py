"""C that is compiled on the machine that runs it, once for each processor and compiler, and kept in vitkit's cache folder.

Imports no torch, so that compiling can begin while torch is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from vitkit.data.cache import cache_folder
from vitkit.engines.processor import has_instructions, processor_sign

__all__ = ["SOURCE", "begin", "compiled"]

SOURCE = Path(__file__).with_name("block.c")
SOURCES = {"int8": SOURCE.with_name("block8.c")}  # by precision; of all others `SOURCE`
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
SECONDS = 120.0  # that a compiler may take
_begun: dict[Path, threading.Thread] = {}


def begin(precision: str) -> None:
    """Compile what computes blocks in a precision, meanwhile, where it is not there yet. What goes wrong is said by `compiled`."""
    source = SOURCES.get(precision, SOURCE)
    if os.environ.get("VITKIT_NATIVE") == "0" or not has_instructions("avx512f") or source in _begun:
        return

    def work() -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError, RuntimeError):
            _made(source)

    _begun[source] = threading.Thread(target=work, name="vitkit-compiler", daemon=True)
    _begun[source].start()


def compiled(source: Path) -> ctypes.CDLL:
    """The compiled file, made where it is not there or not whole. A ``source`` may include `SOURCE`.

    Raises:
        OSError, SubprocessError, RuntimeError: there is no compiler, or it fails, or what it makes cannot be loaded.
    """
    if source in _begun:
        _begun[source].join()
    try:
        return ctypes.CDLL(str(_made(source)))
    except OSError:  # a place that cannot be written: for this process only
        with tempfile.TemporaryDirectory() as own:
            return ctypes.CDLL(str(_compile(_compiler(), source, Path(own), Path(own) / f"{source.stem}.so")))


def _made(source: Path) -> Path:
    """The compiled file in the cache."""
    compiler = _compiler()
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=SECONDS, check=True).stdout
    parts = [SOURCE.read_bytes(), source.read_bytes(), version, processor_sign().encode()]
    key = hashlib.sha256(b"\0".join([*parts, repr((compiler, FLAGS)).encode()]))
    folder = cache_folder() / "native"
    path = folder / f"{source.stem}-{key.hexdigest()[:24]}.so"
    with contextlib.suppress(OSError):  # made anew
        if _whole(path):
            return path
    folder.mkdir(parents=True, exist_ok=True)
    return _compile(compiler, source, folder, path)


def _compiler() -> list[str]:
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        parts = shlex.split(command)
        if parts and shutil.which(parts[0]):
            return parts
    raise OSError("no C compiler is found (cc, gcc, clang or what $CC says)")


def _compile(compiler: list[str], source: Path, folder: Path, path: Path) -> Path:
    """Compile into ``folder``, whole under its name or not at all. Several processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        made = Path(own) / path.name
        found = subprocess.run(
            [*compiler, *FLAGS, "-o", str(made), str(source)], capture_output=True, text=True, timeout=SECONDS
        )
        if found.returncode:
            raise RuntimeError(f"{compiler[0]} could not compile {source.name}: {found.stderr.strip()}")
        mark = made.with_suffix(".sha256")
        mark.write_text(hashlib.sha256(made.read_bytes()).hexdigest(), encoding="ascii")
        os.replace(made, path)
        os.replace(mark, path.with_suffix(".sha256"))
    return path


def _whole(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.with_suffix(".sha256").read_text(encoding="ascii")
