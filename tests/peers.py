"""Independent implementations that tests compare with; a test skips, saying why, where one cannot be imported."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

_DECLARED: list[torch.library.Library] = []


def peer(name: str) -> ModuleType:
    """Import timm, transformers, torchvision or open_clip, or skip the test with the reason."""
    if not _DECLARED:
        _mend_torchvision()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"needs {name}, which cannot be imported here: {error}")


def _mend_torchvision() -> None:
    """Make torchvision importable beside a CPU torch.

    Its wheel is a CUDA build: there its library of operators cannot be loaded, and importing it, or what imports it, fails
    for want of two of them. Declaring these is enough; nothing here calls them. Where the library loads it declares them itself.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    _DECLARED.append(library)
    found = importlib.util.find_spec("torchvision")
    for file in Path(found.origin).parent.glob("_C*.so") if found and found.origin else ():
        try:
            torch.ops.load_library(file)
        except OSError:
            continue
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
