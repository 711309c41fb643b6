"""ONNX Runtime computes: the model's graph written by `vitkit.exporters.onnx`, optimised once and kept beside the model.

Many images are computed by one thread each, one image alone by all threads. The digits are the same: ONNX Runtime shares a
product out between threads by its outputs, never by what is summed (1.31 on a processor with AVX-512; tested bit by bit).
"""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.answers import Outputs
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines.engine import EngineFacts
from vitkit.engines.processor import processor_threads
from vitkit.engines.wrapped import Infer, WrappedEngine, build_or_find, folder_name, notes_of, source_of, why_missing

__all__ = ["PRECISIONS", "make", "missing", "open_folder", "run_graph"]

Array = np.ndarray[Any, Any]
PRECISIONS = ("fp32", "int8")
WRITER = 1  # goes up when the graph that is written of the same model changes
GRAPH = "model.onnx"
LARGE = 3 * 2**29  # bytes of tensors from which they are kept outside the graph: one file of protobuf holds 2 GiB
ERRORS = 3  # severity from which ONNX Runtime prints


def missing() -> str:
    """Why ONNX Runtime cannot be used here; empty where it can."""
    return why_missing("onnxruntime", "onnx") or why_missing("onnx", "onnx")


def make(bundle: Bundle, precision: str) -> WrappedEngine:
    """Optimise the bundle's model, or find what was optimised before.

    Raises:
        UserError: int8 without a calibration, or ONNX Runtime refuses the model.
    """
    source = source_of(bundle, precision)

    def write(folder: Path) -> None:
        import onnxruntime

        from vitkit.exporters.onnx import write_onnx

        written = folder / "graph.onnx"
        model, ranges = source.parts()
        write_onnx(model, written, ranges=ranges)
        options = _options(1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(folder / GRAPH)
        if sum(each.stat().st_size for each in folder.iterdir()) > LARGE:
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{GRAPH}.data")
        _session(written, options)
        for each in folder.glob("graph.*"):
            each.unlink()

    name = folder_name("onnxruntime", precision, _version(), WRITER, source.sign)
    try:
        return build_or_find(bundle, name, source.notes, write, lambda folder: open_folder(folder, precision))
    except RuntimeError as error:
        raise UserError(f"--engine onnxruntime cannot compute this model here: {str(error).strip():.400}") from None


def open_folder(folder: Path, precision: str) -> WrappedEngine:
    """The engine of an optimised graph.

    Raises:
        RuntimeError: ONNX Runtime refuses it.
    """
    threads = processor_threads()
    facts = EngineFacts("onnxruntime", precision, f"onnxruntime {_version()}", False, threads, notes_of(folder))
    alone = functools.partial(run_graph, folder / GRAPH, threads, optimised=True)
    return WrappedEngine(facts, run_graph(folder / GRAPH, 1, optimised=True), alone, folder)


def run_graph(path: Path, threads: int, *, optimised: bool = False) -> Infer:
    """What computes a graph by so many threads; ``optimised``: that was done before.

    Raises:
        RuntimeError: ONNX Runtime refuses it.
    """
    import onnxruntime

    options, levels = _options(threads), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if optimised else levels.ORT_ENABLE_ALL
    session = _session(path, options)

    def infer(images: Array) -> Outputs:
        return Outputs(*session.run(["logits", "features"], {"images": np.ascontiguousarray(images)}))

    return infer


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS
    return options


def _session(path: Path, options: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds share no base
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def _version() -> str:
    return metadata.version("onnxruntime")
