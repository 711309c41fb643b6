"""`vit doctor`: what this environment is and what vitkit would use in it; with `--perf`, what decides speed, and why."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from vitkit.console import Console
from vitkit.report import versions

__all__ = ["Decision", "doctor"]

EXTRAS = {"sklearn": "digits", "tifffile": "multichannel", "openvino": "openvino", "onnxruntime": "onnx"}
PEAK = 1.0  # seconds of matrix products in each precision


class Decision(NamedTuple):
    """One choice that decides speed."""

    what: str
    choice: str
    why: str
    override: str  # what the user writes to have another


def doctor(*, perf: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Print and return the environment: versions, processor, memory, accelerator, extras, and the choices they lead to.

    Args:
        perf: also measure the matrix products, and list every choice that decides speed with its reason and its override.
    """
    import psutil
    import torch

    from vitkit.train import best_precision

    console = console or Console()
    precision, fused = best_precision()
    memory = psutil.virtual_memory()
    facts: dict[str, Any] = {
        **versions(),
        "executable": sys.executable,
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_free_gib": round(memory.available / 2**30, 1),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "training_precision": precision,
        "training_attention": "fused" if fused else "plain products",
        "extras": {name: importlib.util.find_spec(module) is not None for module, name in EXTRAS.items()},
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = ", ".join(f"{k} {'yes' if v else 'no'}" for k, v in value.items()) if isinstance(value, dict) else value
        console.say(f"{name.replace('_', ' '):{width}}  {shown}")
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        console.warn("this CPU has no AVX2: training and inference will be slow.")
    if perf:
        facts["perf"] = _perf(console)
    return facts


def _perf(console: Console) -> dict[str, Any]:
    """Measure, print and return what decides speed."""
    from vitkit.engines.measured.machine import this_machine

    machine = this_machine()
    console.say("")
    console.say(
        f"{machine.processor}: {machine.cpus} processors for this process, {', '.join(machine.flags) or 'no flags known'}"
    )
    for warning in _lacks(machine.flags):
        console.say(f"  {warning}")
    peaks = _peaks()
    console.say("")
    console.say("fastest matrix product, GFLOP/s (measured now; a busy machine shows less)")
    for precision, peak in peaks.items():
        shown = (
            peak if isinstance(peak, str) else f"{peak['gflops']:,.0f}  {peak['operator']}, {peak['threads']} threads"
        )
        console.say(f"  {precision:5} {shown}")
    engines = list(_engines())
    console.say("")
    console.say("engines")
    for each in engines:
        console.say(f"  {each['name']:12} {', '.join(each['precisions']):16} {each['missing'] or 'here'}")
    decisions = list(_decisions())
    console.say("")
    for decision in decisions:
        console.say(f"{decision.what}: {decision.choice}")
        console.say(f"  because {decision.why}; otherwise: {decision.override}")
    return {
        "machine": machine._asdict(),
        "peaks": {precision: peak for precision, peak in peaks.items() if isinstance(peak, dict)},
        "engines": engines,
        "decisions": [each._asdict() for each in decisions],
    }


def _lacks(flags: tuple[str, ...]) -> Iterator[str]:
    """What a processor lacks that would make something faster; of Intel's and AMD's only."""
    if not flags or {"asimd", "sve"} & set(flags):
        return
    if "avx512f" not in flags:
        yield "no AVX-512: about half the products of a processor with it"
    if not {"avx512_bf16", "amx_bf16"} & set(flags):
        yield "no bfloat16 arithmetic: bf16 is computed in float32 and is no faster"
    if not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags):
        yield "no VNNI: int8 is little faster than fp32"


def _peaks() -> dict[str, Any]:
    """`Peak` of each precision as a dictionary, or why there is none. In another process, whose threads end with it."""
    from vitkit.engines.engine import PRECISIONS
    from vitkit.engines.measured.apart import Apart, ApartError

    found: dict[str, Any] = {}
    with Apart() as process:
        for precision in PRECISIONS:
            try:
                found[precision] = process.ask({"do": "peak", "precision": precision, "seconds": PEAK}, 120)
            except ApartError as error:
                found[precision] = str(error)
    return found


def _engines() -> Iterator[dict[str, Any]]:
    from vitkit.engines.book import ENGINES, missing, precisions

    for name in ENGINES:
        yield {"name": name, "precisions": list(precisions(name)), "missing": missing(name)}


def _decisions() -> Iterator[Decision]:
    """Every choice, its reason and its override."""
    import torch

    from vitkit.data.loader import spare_cores
    from vitkit.engines.choose import preferred
    from vitkit.engines.measured.machine import compiler
    from vitkit.engines.native.training import training_missing
    from vitkit.train import best_blocks, best_precision

    threads = torch.get_num_threads()
    said = "OMP_NUM_THREADS says so" if os.environ.get("OMP_NUM_THREADS") else "so many processors may be used"
    yield Decision("processor threads", str(threads), said, "OMP_NUM_THREADS=1 vit ...")
    engine, precision, why = preferred()
    yield Decision(
        "inference", f"--engine auto is {engine} {precision}", f"{why}, and auto loses no accuracy unasked",
        "--engine NAME --precision fp32|bf16|int8; vit benchmark M --store keeps what is fastest for one model",
    )  # fmt: skip
    precision, fused = best_precision()
    gpu = torch.cuda.is_available()
    arithmetic = "has bfloat16 arithmetic" if precision == "bf16" else "has no bfloat16 arithmetic"
    yield Decision(
        "training precision", f"{precision}" + (" (autocast; short runs on a CPU are fp32)" if precision == "bf16" else ""),
        f"the {'GPU' if gpu else 'processor'} {arithmetic}", "vit pretrain RECIPE precision=fp32; --plan RUN repeats another's",
    )  # fmt: skip
    yield Decision(
        "training attention", "fused kernel" if fused else "plain products with a softmax",
        "it is faster on a GPU and in float32" if fused else "with bfloat16 arithmetic they beat the processor's fused kernel",
        "--plan RUN repeats that of another run",
    )  # fmt: skip
    compiled = best_blocks(precision)
    why = "compiled ones compute in bf16" if precision == "fp32" else training_missing()
    yield Decision(
        "training blocks", "compiled here, forward and backward, where they have no dropout" if compiled else "PyTorch's operators",
        "they beat PyTorch's operators in bf16" if compiled else "a GPU computes them" if gpu else why,
        "VITKIT_NATIVE=0 vit ...; --plan RUN repeats that of another run",
    )  # fmt: skip
    yield Decision(
        "optimiser", "AdamW over all tensors at once" if gpu else "AdamW, PyTorch's own for this device",
        "its numerics are those of the published recipes", "vit pretrain RECIPE optim.optimiser=sgd|adam|adamw",
    )  # fmt: skip
    found = compiler()
    yield Decision(
        "compiler", found or "none: nothing is compiled",
        "it is the first of CXX, g++, clang++ and c++ that is here" if found else "no C++ compiler is on the path",
        "CXX=/path/to/compiler",
    )  # fmt: skip
    yield Decision(
        "loading while training", f"{spare_cores()} process{'es' * (spare_cores() != 1)}, 4 batches ahead each",
        "one processor is left to the model", "--workers N of vit finetune and vit pretrain",
    )  # fmt: skip
    yield Decision(
        "loading while predicting", "2 threads, a few groups of images ahead", "decoding runs beside the model, in bounded memory",
        "--workers N of vit predict and vit evaluate",
    )  # fmt: skip
