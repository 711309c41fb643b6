"""What this machine is, and how fast it multiplies matrices: what engines are chosen by, and what their speed is compared with.

Importing this imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from vitkit.config import UserError

__all__ = [
    "FLAGS",
    "LIBRARIES",
    "Machine",
    "Peak",
    "compiler",
    "library_versions",
    "machine_key",
    "matrix_peak",
    "this_machine",
]

# Of a processor, what decides which kernels are fast.
FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
LIBRARIES = {"eager": "torch", "tuned": "torch", "cuda": "torch", "openvino": "openvino", "onnxruntime": "onnxruntime"}
SHAPES = ((1576, 768, 3072), (1576, 3072, 768), (2048, 2048, 2048), (512, 4096, 1024))  # rows, inputs, outputs
WIDE = ((8192, 8192, 8192), (16384, 4096, 4096), (25216, 1024, 4096))  # that fill a GPU

Product = Callable[[], object]


class Machine(NamedTuple):
    """What decides how fast an engine is here."""

    processor: str
    flags: tuple[str, ...]  # of `FLAGS`, those there are
    cpus: int  # that this process may use
    memory_gib: float
    accelerator: str  # the GPU, or "none"

    def describe(self) -> str:
        """In one line, for people."""
        told = f"{self.processor}, {self.cpus} processor{'s' * (self.cpus != 1)}, {self.memory_gib:.0f} GiB"
        return f"{told}, {', '.join(self.flags) or 'no vector flags known'}, GPU: {self.accelerator}"


class Peak(NamedTuple):
    """The fastest matrix product that was found."""

    precision: str
    gflops: float  # 10^9 multiplications and additions a second
    operator: str
    shape: tuple[int, int, int]  # rows, inputs, outputs
    threads: int


def this_machine() -> Machine:
    """What the system says of itself."""
    import psutil

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name, flags = _processor()
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return Machine(name, tuple(flag for flag in FLAGS if flag in flags), cpus, memory, _accelerator())


def machine_key(machine: Machine) -> str:
    """A sign of everything about the machine that a measurement holds for."""
    facts = (machine.processor, machine.flags, machine.cpus, machine.accelerator, os.environ.get("OMP_NUM_THREADS", ""))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _processor() -> tuple[str, frozenset[str]]:
    """Name and flags."""
    told: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip().lower(), value.strip())
    except OSError:  # not Linux
        pass
    name = told.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(told.get("flags", told.get("features", "")).split())


def _accelerator() -> str:
    """The first NVIDIA GPU, as its driver tells without being started."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "none"


def library_versions() -> dict[str, str]:
    """Versions of the libraries that engines compute with; those that are not installed are left out."""
    found = {}
    for name in dict.fromkeys(LIBRARIES.values()):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use; None where there is none."""
    own = os.environ.get("CXX")
    return next((found for name in (own, "g++", "clang++", "c++") if name and (found := shutil.which(name))), None)


def matrix_peak(precision: str, threads: int | None = None, seconds: float = 1.5) -> Peak:
    """The fastest product of matrices in one precision, over all operators and shapes that there are here.

    On a CPU by ``threads`` processor threads, by default PyTorch's. The best of several rounds in turn: a machine that does other
    things shows less than it can.

    Raises:
        UserError: no operator computes in that precision here.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_num_threads()
    used = threads or before
    if used != before:
        torch.set_num_threads(used)
    try:
        best: Peak | None = None
        products = list(_products(precision, device))
        if not products:
            raise UserError(f"no matrix product in {precision} is known for this machine.")
        each = seconds / len(products)
        for operator, shape, product in products:
            rate = 2e-9 * shape[0] * shape[1] * shape[2] / _fastest(product, device, each)
            if best is None or rate > best.gflops:
                best = Peak(precision, rate, operator, shape, used)
        assert best is not None
        return best
    finally:
        if used != before:
            torch.set_num_threads(before)


def _fastest(product: Product, device: str, seconds: float) -> float:
    """Seconds of the fastest call, of at least two after one that is not counted."""
    import torch

    times: list[float] = []
    with torch.inference_mode():
        product()
        began = time.perf_counter()
        while len(times) < 2 or time.perf_counter() - began < seconds:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            product()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return min(times)


def _products(precision: str, device: str) -> Iterator[tuple[str, tuple[int, int, int], Product]]:
    """Operators by name and shape, each made when it is asked for."""
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for shape in WIDE if device == "cuda" else SHAPES:
        rows, inputs, outputs = shape
        if precision in kinds:
            x = torch.randn(rows, inputs, device=device).to(kinds[precision])
            weight = torch.randn(outputs, inputs, device=device).to(kinds[precision])
            yield "torch.nn.functional.linear", shape, _linear(x, weight)
            if device == "cpu":
                yield from _packed(x, weight, shape)
        elif device == "cpu":
            yield from _eight_bits(shape)


def _linear(x: Any, weight: Any) -> Product:
    from torch.nn.functional import linear

    return lambda: linear(x, weight)


def _packed(x: Any, weight: Any, shape: tuple[int, int, int]) -> Iterator[tuple[str, tuple[int, int, int], Product]]:
    """oneDNN with weights in its own order, where this PyTorch has it."""
    import torch

    mkldnn = torch.ops.mkldnn
    try:
        packed = mkldnn._reorder_linear_weight(weight.to_mkldnn(), shape[0])

        def product() -> object:
            return mkldnn._linear_pointwise(x, packed, None, "none", [], "")

        product()
    except (
        AttributeError,
        RuntimeError,
        NotImplementedError,
        TypeError,
    ):  # a private operator that is not, or is another
        return
    yield "oneDNN linear, packed weights", shape, product


def _eight_bits(shape: tuple[int, int, int]) -> Iterator[tuple[str, tuple[int, int, int], Product]]:
    """Unsigned by signed bytes, summed in 32 bits."""
    import torch

    rows, inputs, outputs = shape
    x = torch.randint(0, 255, (rows, inputs), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    onednn = torch.ops.onednn
    try:
        packed = onednn.qlinear_prepack(weight, list(x.shape))
        scales, zeros = torch.full((outputs,), 0.01), torch.zeros(outputs, dtype=torch.int64)

        def product() -> object:
            return onednn.qlinear_pointwise(
                x, 0.01, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )

        product()
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return
    yield "oneDNN linear, bytes", shape, product
