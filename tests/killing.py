"""Runs of a job in child processes that are killed (SIGKILL) at a named point, for the tests and the benchmark.

A point is one of

    half NAME           the temporary file of NAME is half written
    before NAME         it is whole and not yet renamed
    after NAME          it was just renamed
    call MODULE:NAME N  a function is called for the Nth time

NAME of a file may be a pattern, ``step-*.safetensors``.
"""

from __future__ import annotations

import importlib
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

__all__ = ["COLOURS", "facts_of", "kill_at", "run_child", "write_data"]

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (200, 50, 40)}
TIMES = ("seconds", "estimate_seconds")  # of a report, and what never changes a result
_CONTEXT = multiprocessing.get_context("forkserver")  # imports once, and forks before any thread computes
_CONTEXT.set_forkserver_preload(
    ["vitkit.jobs.finetune", "vitkit.jobs.pretrain", "torch._dynamo", "jinja2", "PIL.PngImagePlugin"]
)


def _die() -> None:
    """Leave the ids of this process' children for those who look whether they end too."""
    children = " ".join(str(child.pid) for child in psutil.Process().children(recursive=True))
    Path(os.environ["KILLED_CHILDREN"]).write_text(children)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(point: str) -> None:
    """Make this process end at a point."""
    kind, what, *rest = point.split()
    if kind == "call":
        _kill_at_call(what, int(rest[0]))
    elif kind == "half":
        _kill_at_half(what)
    else:
        _kill_at_rename(kind, what)


def _kill_at_call(what: str, count: int) -> None:
    module, _, name = what.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    called: Callable[..., Any] = getattr(owner, name)
    left = [count]

    def counted(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            _die()
        return called(*args, **options)

    setattr(owner, name, counted)


def _kill_at_half(pattern: str) -> None:
    fsync = os.fsync

    def cut(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if fnmatch(path.name, f"{pattern}.partial"):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            _die()
        fsync(descriptor)

    os.fsync = cut


def _kill_at_rename(kind: str, pattern: str) -> None:
    replace = os.replace

    def watched(source: Any, target: Any) -> None:
        here = fnmatch(Path(target).name, pattern)
        if here and kind == "before":
            _die()
        replace(source, target)
        if here:
            _die()

    os.replace = watched


def _child(verb: str, options: dict[str, Any], point: str | None, said: Path) -> None:
    import torch

    from vitkit.config import UserError
    from vitkit.console import Console

    multiprocessing.set_start_method("fork", force=True)  # as in a plain process, of the loader's processes
    torch.set_num_threads(1)
    os.environ["KILLED_CHILDREN"] = str(said.with_suffix(".children"))
    job = getattr(importlib.import_module(f"vitkit.jobs.{verb}"), verb)
    if point is not None:
        kill_at(point)
    out = io.StringIO()
    try:
        job(**options, console=Console(out, out))
    except UserError as error:
        out.write(f"error: {error}")
    said.write_text(out.getvalue(), encoding="utf-8")


def run_child(verb: str, said: Path, point: str | None = None, **options: Any) -> tuple[int | None, str]:
    """Run a job in a child: (exit code, what it said), -9 and nothing where it was killed."""
    child = _CONTEXT.Process(target=_child, args=(verb, options, point, said))
    said.unlink(missing_ok=True)
    child.start()
    child.join(120)
    return child.exitcode, said.read_text(encoding="utf-8") if said.exists() else ""


def write_data(root: Path, kind: str, counts: dict[str, int], side: int = 32) -> Path:
    """Noisy colours, easy classes, as class folders, Parquet tables or tar files: so many a class in every split."""
    from tiny_tables import write_parquet, write_tar

    rng = np.random.default_rng(0)
    for split, count in counts.items():
        files = {}
        for name, colour in COLOURS.items():
            for i in range(count):
                buffer = io.BytesIO()
                pixels = np.clip(rng.normal(colour, 60, (side, side, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(buffer, "PNG")
                files[f"{name}/{i:02d}.png"] = buffer.getvalue()
        if kind == "folder":
            for name, content in files.items():
                path = root / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        elif kind == "tar":
            write_tar(root / f"{split}.tar", files)
        else:
            rows = [{"bytes": content, "path": name.replace("/", "-")} for name, content in files.items()]
            labels = [list(COLOURS).index(name.split("/")[0]) for name in files]
            columns = {"image": rows, "label": labels}
            write_parquet(root / f"{split}-00000-of-00001.parquet", columns, names={"label": tuple(COLOURS)})
    return root


def facts_of(run: Path) -> dict[str, Any]:
    """All of a finished run that stopping it must not change: bytes of weights and logs, and every number of the report."""
    text = (run / "report.json").read_text(encoding="utf-8").replace(str(run), "RUN").replace(run.name, "RUN")
    kept = {"report": _timeless(json.loads(text))}
    files = [*(run / "model").iterdir(), run / "metrics.jsonl", *run.glob("predictions.csv")]
    return kept | {path.name: path.read_bytes() for path in files if path.name != "training.json"}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in (*TIMES, "workers", "command")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
