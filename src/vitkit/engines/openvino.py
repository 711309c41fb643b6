"""OpenVINO computes: the model's graph written by `vitkit.exporters.openvino`, compiled once and kept beside the model.

Many images are computed by one thread each, one image alone by all threads. The digits are the same: OpenVINO shares a product
out between threads by its outputs, never by what is summed (2026.4 on a processor with AVX-512; tested bit by bit).
"""

from __future__ import annotations

import functools
import threading
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

__all__ = ["PRECISIONS", "make", "missing", "open_folder", "process_core", "run_graph"]

Array = np.ndarray[Any, Any]
PRECISIONS = ("fp32", "bf16", "int8")
WRITER = 1  # goes up when the graph that is written of the same model changes
GRAPH = "model.blob"
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not quantised


def missing() -> str:
    """Why OpenVINO cannot be used here; empty where it can."""
    return why_missing("openvino", "openvino")


@functools.cache
def process_core() -> Any:
    """The one `openvino.Core` of this process, never let go.

    Each Core takes over the thread's stack for signals and gives back, at its end, the one it found: of two that overlap the
    second gives back what the first has freed, and the next signal ends the process (2026.4).
    """
    import openvino

    return openvino.Core()


def make(bundle: Bundle, precision: str) -> WrappedEngine:
    """Compile the bundle's model, or find what was compiled before.

    Raises:
        UserError: the processor lacks the precision, int8 without a calibration, or OpenVINO refuses the model.
    """
    _check_processor(precision)
    source = source_of(bundle, precision)
    shape = [1, bundle.config.in_channels, *bundle.config.image_size]

    def write(folder: Path) -> None:
        from vitkit.exporters.openvino import write_openvino

        written = folder / "graph.xml"
        model, ranges = source.parts()
        write_openvino(model, written, ranges=ranges)
        core = process_core()
        graph = core.read_model(written)
        graph.reshape(shape)  # a fixed shape compiles to the fastest kernels
        compiled = core.compile_model(graph, "CPU", _settings(precision, processor_threads(), streams=True))
        (folder / GRAPH).write_bytes(compiled.export_model().getbuffer())
        del compiled, graph
        for each in folder.glob("graph.*"):
            each.unlink()

    name = folder_name("openvino", precision, _version(), WRITER, source.sign)
    try:
        return build_or_find(bundle, name, source.notes, write, lambda folder: open_folder(folder, precision))
    except RuntimeError as error:
        raise UserError(f"--engine openvino cannot compute this model here: {str(error).strip():.400}") from None


def open_folder(folder: Path, precision: str) -> WrappedEngine:
    """The engine of a compiled graph.

    Raises:
        RuntimeError: OpenVINO refuses it.
    """
    threads = processor_threads()
    facts = EngineFacts(
        "openvino", precision, f"openvino {_version()}", False, threads, (*_notes(precision), *notes_of(folder))
    )
    single = _imported(folder, _settings(precision, threads, streams=True))
    return WrappedEngine(facts, single, lambda: _imported(folder, _settings(precision, threads, streams=False)), folder)


def run_graph(path: Path, precision: str, threads: int, streams: bool) -> Infer:
    """What computes a graph's `.xml`, one image at a time: by one thread for each caller, or by all threads.

    Raises:
        RuntimeError: OpenVINO refuses it.
    """
    core = process_core()
    graph = core.read_model(path)
    graph.reshape([1, *(size.get_length() for size in list(graph.inputs[0].partial_shape)[1:])])
    return _Requests(core.compile_model(graph, "CPU", _settings(precision, threads, streams)))


def _imported(folder: Path, settings: dict[str, Any]) -> Infer:
    """What computes a compiled graph."""
    import openvino

    data = np.fromfile(folder / GRAPH, np.uint8)
    blob = openvino.Tensor(data, shared_memory=True)
    return _Requests(process_core().import_model(blob, "CPU", settings), data)


class _Requests:
    """A compiled graph; each thread that calls it has a request of its own.

    Args:
        data: what its weights may lie in.
    """

    def __init__(self, model: Any, data: Array | None = None) -> None:
        self.model, self.data = model, data
        self.own = threading.local()

    def __call__(self, images: Array) -> Outputs:
        request = getattr(self.own, "request", None)
        if request is None:
            request = self.own.request = self.model.create_infer_request()
        found = request.infer([np.ascontiguousarray(images)], share_inputs=True, share_outputs=True)
        return Outputs(np.array(found["logits"]), np.array(found["features"]))


def _settings(precision: str, threads: int, streams: bool) -> dict[str, Any]:
    """Of a compiled graph: a thread for each request (``streams``), or all threads for one request."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads if streams else 1,
        "ENABLE_CPU_PINNING": False,  # other work of the process uses the processors too
    }


def _check_processor(precision: str) -> None:
    if precision != "bf16":
        return
    if "BF16" not in process_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError(
            "--engine openvino --precision bf16: this processor multiplies no bf16 matrices (it has neither avx512_bf16 nor "
            "amx_bf16), so it would gain nothing. Use --precision fp32 or int8."
        )


def _notes(precision: str) -> tuple[str, ...]:
    if precision == "bf16":
        return ("OpenVINO rounds what passes between operations to bf16 too",)
    return ()


def _version() -> str:
    return metadata.version("openvino")
