"""`vit evaluate`: measure a model on labelled images by one of the published protocols."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vitkit.config import UserError, did_you_mean, write_json
from vitkit.console import Console
from vitkit.data.pixels import MAX_PIXELS
from vitkit.parallel.launch import launched_rank
from vitkit.parallel.world import PATIENCE, session
from vitkit.protocols.request import Request
from vitkit.report import Row, code_fingerprint, versions

__all__ = ["PROTOCOLS", "RESULTS_VERSION", "evaluate"]

PROTOCOLS = ("classify", "knn", "linear", "fewshot", "vtab", "robustness")  # each a module of `vitkit.protocols`
SUITES = ("vtab", "robustness")  # protocols that are also the name of their data
RESULTS_VERSION = 1
LEARNING = ("linear", "fewshot", "vtab")
FEATURES = ("classify", "knn", "linear", "fewshot", "robustness")
USERS = {  # protocols that use what not all of them do
    "--shots": ("fewshot",), "--neighbours": ("knn",), "--sweep": ("vtab",), "--set": ("vtab",), "--seed": LEARNING,
    "--split": FEATURES, "--preprocess": FEATURES, "--engine": FEATURES, "--precision": FEATURES,
}  # fmt: skip


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    protocol: str = "classify",
    split: str | None = None,
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    overrides: dict[str, Any] | None = None,
    data_root: str | Path | None = None,
    partial: bool = False,
    seed: int = 0,
    shots: Sequence[int] | None = None,
    neighbours: int | None = None,
    sweep: bool = False,
    settings: Mapping[str, Any] | None = None,
    preprocess: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    out: str | Path | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Measure ``model`` on ``data``. Under torchrun the ranks share the images, and the first alone returns rows.

    Args:
        model: a bundle folder, a checkpoint file, or a name of `vit models`.
        data: a folder of class folders, or one with train/ and val/ or test/ inside, a CSV, Parquet or tar file,
            ``digits``, or a published data set, ``NAME`` or ``NAME=FOLDER``.
        protocol: ``classify`` the model's own classes; ``knn``, ``linear`` and ``fewshot`` learn from features of the train
            split; ``vtab``; ``robustness``.
        split: which split to score; by default test, else val, for ``classify`` else all of a flat folder.
        strict: fail on the first file that cannot be used, instead of listing it.
        workers: threads that decode images; never changes the result.
        max_pixels: larger images are listed without being decoded.
        data_root: the folder with a folder for each published data set.
        partial: score a part of a published data set too.
        seed: of what the protocol draws.
        shots: images of each class, for ``fewshot``; by default 1, 5, 10 and 25.
        neighbours: for ``knn``; by default 20.
        sweep: for ``vtab``: choose hyper-parameters on its val200.
        settings: for ``vtab``: changes of its recipe, such as steps, batch_size, image_size or optim.lr.
        preprocess: ``own``, ``fewshot``, ``resize_small`` or ``squash``; by default the protocol's.
        engine, precision: what computes, see `vitkit.load`; vtab trains and chooses by itself.
        out: a folder to write ``results.json`` to.
        command: the command line, for that file.

    Returns:
        Rows of task, dataset, metric, value and interval.

    Raises:
        UserError: no such protocol, model, data or split; an option that the protocol does not use; classes that the model does
            not know; data of the other task.
    """
    console = console or Console()
    if protocol not in PROTOCOLS:
        raise UserError(f"no protocol {protocol!r}.{did_you_mean(protocol, PROTOCOLS)} Known: {', '.join(PROTOCOLS)}.")
    word = str(data).partition("=")[0].partition(":")[0]
    if word in SUITES and protocol != word and not Path(data).exists():
        raise UserError(f"{data} names the data of a protocol of its own: add --protocol {word}.")
    _check_used(protocol, {
        "--shots": shots is not None, "--neighbours": neighbours is not None, "--sweep": sweep, "--set": bool(settings),
        "--seed": seed != 0, "--split": split is not None, "--preprocess": preprocess is not None,
        "--engine": engine != "auto", "--precision": precision != "auto",
    })  # fmt: skip
    if protocol == "vtab" and launched_rank() is not None:
        raise UserError(
            "vit evaluate --protocol vtab fine-tunes in one process; start it without torchrun. The other protocols take ranks."
        )
    if launched_rank():  # ranks after the first one only speak up when something is wrong
        console = Console(out=open(os.devnull, "w"), err=open(os.devnull, "w"))  # noqa: SIM115, until the process ends
    with session(PATIENCE, Console().warn) as world:
        request = Request(
            model=str(model),
            data=str(data),
            split=split,
            strict=strict,
            workers=workers,
            max_pixels=max_pixels,
            overrides=overrides or {},
            data_root=None if data_root is None else str(data_root),
            partial=partial,
            seed=seed,
            shots=None if shots is None else tuple(shots),
            neighbours=neighbours,
            sweep=sweep,
            settings=settings or {},
            out=None if out is None else str(out),
            preprocess=preprocess,
            engine=engine,
            precision=precision,
            world=world,
        )
        rows: list[Row] = import_module(f"vitkit.protocols.{protocol}").run(request, console)
        if out is not None and world.main:
            path = Path(out) / "results.json"
            spoken = command or f"vitkit.evaluate({str(model)!r}, {str(data)!r}, protocol={protocol!r})"
            write_json(path, _results(request, protocol, spoken, rows))
            console.say(f"results   {path}")
        return rows if world.main else []


def _check_used(protocol: str, given: Mapping[str, bool]) -> None:
    """Refuse what the protocol would pass over in silence."""
    for option, is_given in given.items():
        if is_given and protocol not in USERS[option]:
            raise UserError(
                f"{option} says nothing to the protocol {protocol}; it belongs to {', '.join(USERS[option])}. Leave it out."
            )


def _results(request: Request, protocol: str, command: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What `vit results add` reads."""
    account = request.account
    return {
        "kind": "vitkit-results",
        "version": RESULTS_VERSION,
        "command": command,
        "code": code_fingerprint(),
        "versions": versions(),
        "data": {"name": request.data, "split": request.split, "images": None, "fingerprint": None, **account.data},
        "protocol": protocol,
        "settings": account.settings,
        "model": {"name": request.model, "fingerprint": None, **account.model},
        "rows": [row.to_dict() for row in rows],
    }
