"""`vit doctor`: what this environment is and what vitkit would use in it."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from typing import Any

from vitkit.console import Console
from vitkit.report import versions

__all__ = ["doctor"]

EXTRAS = {"sklearn": "digits", "tifffile": "multichannel"}


def doctor(*, console: Console | None = None) -> dict[str, Any]:
    """Print and return the environment: versions, processor, memory, accelerator, extras, and the choices they lead to."""
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
    return facts
