"""Engines of exported artefacts: the graph is computed by the runtime that it was written for, and by no other.

Engines are given normalised images, an artefact's graph takes the cropped pixels before that. Bytes are found again exactly: what
normalising makes of neighbouring bytes is far further apart than float32 rounds. Imports no torch but for PyTorch programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Executor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.answers import Outputs
from vitkit.artefact import Artefact
from vitkit.config import UserError
from vitkit.data.pixels import Preprocess
from vitkit.engines.engine import EngineFacts
from vitkit.engines.processor import processor_threads
from vitkit.engines.wrapped import Infer, WrappedEngine, why_missing

__all__ = ["RUNTIMES", "exported_engine", "missing_for", "pixels_of"]

Array = np.ndarray[Any, Any]
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}  # the engine's name, by target
OFF = 0.02  # of a byte: more than this from a whole number was never a pixel


def missing_for(target: str) -> str:
    """Why a target's runtime cannot be used here; empty where it can."""
    return "" if target == "torch" else why_missing(RUNTIMES[target], target)


def exported_engine(artefact: Artefact, engine: str = "auto", precision: str = "auto") -> WrappedEngine:
    """The engine of an artefact.

    Raises:
        UserError: another engine or precision is asked for, its runtime is missing, or refuses the graph.
    """
    name = RUNTIMES[artefact.target]
    if engine not in ("auto", name) or precision not in ("auto", artefact.precision):
        raise UserError(
            f"{artefact.folder} was exported for {name} in {artefact.precision}; it cannot be computed "
            f"by --engine {engine} --precision {precision}. Leave them out, or name the model that it was exported from."
        )
    if reason := missing_for(artefact.target):
        raise UserError(f"{artefact.folder} cannot be computed here: {reason}")
    record, threads = artefact.preprocess, processor_threads()
    library = f"{name} {metadata.version(name)}"
    facts = EngineFacts(name, artefact.precision, library, name == "torch", threads, artefact.notes)
    make = {"onnx": _onnx, "openvino": _openvino, "torch": _torch}[artefact.target]
    try:
        single, alone, pool = make(artefact.graph, artefact.precision, threads)
    except RuntimeError as error:
        raise UserError(f"{name} does not take {artefact.graph}: {str(error).strip():.400}") from None
    return WrappedEngine(
        facts, _of_pixels(single, record), lambda: _of_pixels(alone(), record), artefact.folder, pool=pool
    )


def pixels_of(images: Array, record: Preprocess) -> Array:
    """Normalised images (B, C, H, W) to the crops they were, (B, H, W, C): uint8 of three channels, else float32.

    Raises:
        UserError: images that are no normalised bytes.
    """
    mean, std = (np.asarray(values, np.float32) for values in (record.mean, record.std))
    crops = np.moveaxis(images, 1, -1) * std + mean
    if record.channels != 3:
        return np.ascontiguousarray(crops, np.float32)
    crops *= np.float32(255)
    whole = np.rint(crops)
    if not np.abs(crops - whole).max(initial=0) < OFF or whole.min(initial=0) < 0 or whole.max(initial=0) > 255:
        raise UserError(
            "an exported artefact takes images as their files hold them, in 256 levels; these are normalised otherwise."
        )
    return whole.astype(np.uint8)


def _of_pixels(infer: Callable[[Array], Outputs], record: Preprocess) -> Infer:
    return lambda images: infer(pixels_of(images, record))


Parts = tuple[
    Infer, Callable[[], Infer], Executor | None
]  # one thread; makes what uses all threads; threads of its own


def _onnx(graph: Path, precision: str, threads: int) -> Parts:  # noqa: ARG001  (it is in the graph)
    from vitkit.engines.onnxruntime import run_graph

    return run_graph(graph, 1), lambda: run_graph(graph, threads), None


def _openvino(graph: Path, precision: str, threads: int) -> Parts:
    from vitkit.engines.openvino import run_graph

    hint = "fp32" if precision == "fp16" else precision  # in fp16 are the weights; processors compute in float32
    return run_graph(graph, hint, threads, True), lambda: run_graph(graph, hint, threads, False), None


def _torch(graph: Path, precision: str, threads: int) -> Parts:  # noqa: ARG001  (it is in the program)
    import torch

    from vitkit.engines.threads import compute_pool
    from vitkit.exporters.program import open_program

    program = open_program(graph)

    def single(crops: Array) -> Outputs:
        with torch.inference_mode():
            logits, features, *_ = program(torch.from_numpy(crops))
        return Outputs(logits.numpy(), features.numpy())

    pool = compute_pool(threads)
    return single, functools.partial(_in_pool, single, pool), pool


def _in_pool(single: Infer, pool: Executor) -> Infer:
    """One image alone is computed by one thread too: shared out, PyTorch's products have other last digits."""
    return lambda crops: pool.submit(single, crops).result()
