"""Written graphs run by the runtimes they are for, plainly; a test skips, saying why, where one is not installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitkit.engines.openvino import process_core
from vitkit.exporters.graph import Range
from vitkit.exporters.onnx import write_onnx
from vitkit.exporters.openvino import write_openvino
from vitkit.models.vit import VisionTransformer

Array = np.ndarray[Any, Any]
Run = Callable[[Array], tuple[Array, Array]]  # images (B, C, H, W) -> logits, features
FORMATS = ("onnx", "openvino")


def written(model: VisionTransformer, format: str, folder: Path, ranges: Mapping[str, Range] | None = None) -> Run:
    """The model's file in ``folder``, opened by its runtime with one thread."""
    if format == "onnx":
        pytest.importorskip("onnx")
        path = folder / "model.onnx"
        write_onnx(model, path, ranges=ranges)
        return run_onnx(path)
    pytest.importorskip("openvino")
    path = folder / "model.xml"
    write_openvino(model, path, ranges=ranges)
    return run_openvino(path)


def run_onnx(path: Path) -> Run:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Array) -> tuple[Array, Array]:
        logits, features = session.run(["logits", "features"], {"images": images})
        return logits, features

    return run


def run_openvino(path: Path, precision: str = "f32") -> Run:
    pytest.importorskip("openvino")
    core = process_core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1})

    def run(images: Array) -> tuple[Array, Array]:
        found = compiled({"images": images})
        return found["logits"].copy(), found["features"].copy()

    return run


def drawn_model(model: VisionTransformer, seed: int = 1) -> VisionTransformer:
    """Its parameters drawn anew, large enough that attention is far from uniform and every one of them is seen."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=rng) + (parameter.ndim == 1)
    return model.eval()


@torch.no_grad()
def expected(model: VisionTransformer, images: Array) -> tuple[Array, Array]:
    logits, features = model.outputs(model.forward_features(torch.from_numpy(images)))
    return logits.numpy(), features.numpy()


def images_for(model: VisionTransformer, count: int, seed: int = 2) -> Array:
    shape = (count, model.config.in_channels, *model.config.image_size)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def distance(found: tuple[Array, Array], wanted: tuple[Array, Array]) -> float:
    """The largest difference, in units of the largest value."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert a.dtype == np.float32
        assert np.isfinite(a).all()
        worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst
