"""Dense layers of 8 bits: the runtimes compute them in whole numbers, and the result is that of rounding in PyTorch."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.running import FORMATS, Array, distance, drawn_model, expected, images_for, written
from golden import golden_config
from vitkit.engines.openvino import process_core
from vitkit.exporters.graph import Range, quantised_weight
from vitkit.exporters.onnx import write_onnx
from vitkit.exporters.openvino import write_openvino
from vitkit.models.vit import VisionTransformer

DENSE = 2 * (3 + 1 + 2) + 1  # products of a plain model of two blocks: q, k and v apart, and the head
KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "layer scale, no bias of q, k, v": {"layer_scale": 0.1, "qkv_bias": False},
    "map pooling": {"pool": "map", "cls_token": False},
    "swiglu, distilled": {"mlp": "swiglu", "mlp_dim": 40, "distilled": True, "registers": 1},
    "pre_logits, head on every token": {"pool": "none", "representation_size": 24},
}


def model_of(name: str) -> VisionTransformer:
    return drawn_model(VisionTransformer(golden_config(**{"image_size": (48, 32), **KINDS[name]})))


def dense(model: VisionTransformer) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def seen(model: VisionTransformer, images: Array) -> dict[str, Range]:
    """The smallest and largest input of every dense layer."""
    found: dict[str, Range] = {}

    def watch(name: str, x: Tensor) -> None:
        found[name] = Range(float(x.min()), float(x.max()))

    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: watch(name, args[0]))
        for name, layer in dense(model).items()
    ]
    expected(model, images)
    for hook in hooks:
        hook.remove()
    return found


def rounded(model: VisionTransformer, ranges: dict[str, Range]) -> VisionTransformer:
    """The same with 8-bit inputs and weights, in float arithmetic."""
    model = copy.deepcopy(model)
    for name, layer in dense(model).items():
        if name not in ranges or name == "map_pool.q":
            continue
        levels, scales = quantised_weight(layer.weight.detach().numpy())
        layer.weight.data = torch.from_numpy(levels * scales[:, None])
        scale, zero = ranges[name].grid()

        def cut(_: nn.Module, args: tuple[Tensor], scale: float = scale, zero: int = zero) -> Tensor:
            return ((args[0] / scale).round().add(zero).clamp(0, 255) - zero) * scale

        layer.register_forward_pre_hook(cut)
    return model


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", KINDS)
def test_eight_bits_are_those_of_pytorch(name: str, format: str, tmp_path: Path) -> None:
    model = model_of(name)
    images = images_for(model, 4)
    ranges = seen(model, images)
    if name == "map pooling":
        ranges.pop("map_pool.kv")  # its logits are not rounded
    exact, wanted = expected(model, images), expected(rounded(model, ranges), images)
    assert distance(exact, wanted) > 1e-3  # rounding is seen
    found = written(model, format, tmp_path, ranges)(images)
    error, level = np.abs(found[0] - wanted[0]).mean(), np.abs(exact[0] - wanted[0]).mean()
    assert error <= 0.35 * level  # a value between two levels may fall to either: 1/127 of what it was


def test_onnx_runtime_computes_whole_numbers(tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = model_of("plain")
    ranges = seen(model, images_for(model, 2))
    write_onnx(model, tmp_path / "a.onnx", ranges=ranges)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine
    onnxruntime.InferenceSession(tmp_path / "a.onnx", options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    # It makes a head of two dimensions a Gemm first, and computes that in float32 with the rounded numbers.
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in nodes) == DENSE - 1


def test_openvino_computes_whole_numbers(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = model_of("plain")
    ranges = seen(model, images_for(model, 2))
    write_openvino(model, tmp_path / "a.xml", ranges=ranges)
    made = process_core().compile_model(tmp_path / "a.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [node.get_rt_info() for node in made.get_runtime_model().get_ops()]
    found = [
        fact["runtimePrecision"].astype(str) for fact in facts if "FullyConnected" in fact["layerType"].astype(str)
    ]
    assert len(found) == DENSE
    assert set(found) <= {"i8", "u8"}
