"""Independent implementations that tests compare with; a test skips, saying why, where one cannot be imported."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest
import torch

_DECLARED: list[torch.library.Library] = []


def peer(name: str) -> ModuleType:
    """Import timm, transformers, torchvision or open_clip, or skip the test with the reason.

    The paired torchvision wheel is a CUDA build: beside a CPU torch two of its operators do not exist, and importing it, or
    what imports it, fails. Declaring them once is enough; nothing here calls them.
    """
    if not _DECLARED:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"needs {name}, which cannot be imported here: {error}")
