"""The ONNX file itself: valid, readable by another implementation, whole beside its weights, and written in little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporters.running import distance, drawn_model, expected, images_for, run_onnx, written
from golden import golden_config
from vitkit.exporters import onnx as writer
from vitkit.exporters.graph import Range
from vitkit.exporters.onnx import OPSET, data_file, write_onnx
from vitkit.models.vit import VisionTransformer

onnx = pytest.importorskip("onnx")


def model(**changes: object) -> VisionTransformer:
    return drawn_model(VisionTransformer(golden_config(**{"image_size": (48, 32), **changes})))


RANGES = {"blocks.0.mlp.fc2": Range(-0.5, 4), "blocks.1.attn.qkv": Range(-3, 3), "head": Range(-2, 2.5)}


@pytest.mark.parametrize("ranges", [{}, RANGES])
def test_the_file_is_valid_and_says_its_shapes(ranges: dict[str, Range], tmp_path: Path) -> None:
    write_onnx(model(), tmp_path / "a.onnx", ranges=ranges)
    found = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(found, full_check=True)
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", OPSET)]
    (images,) = found.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
    assert (images.name, dims) == ("images", ["B", 3, 48, 32])
    assert [output.name for output in found.graph.output] == ["logits", "features"]
    names = [tensor.name for tensor in found.graph.initializer]
    assert len(set(names)) == len(names)
    assert "blocks.0.mlp.fc1.weight" in names
    shapes = onnx.shape_inference.infer_shapes(found)
    sizes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim][1:] for o in shapes.graph.output}
    assert sizes == {"logits": [5], "features": [64]}


def test_the_standards_own_evaluator_reads_the_same(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    made = model(layer_scale=0.1, registers=1, pool="cls_mean")
    write_onnx(made, tmp_path / "a.onnx")
    images = images_for(made, 2)
    found = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(["logits", "features"], {"images": images})
    assert distance(tuple(found), expected(made, images)) <= 1e-5


def test_weights_that_are_too_large_for_one_file_go_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    images = images_for(made, 2)
    whole = written(made, "onnx", tmp_path)(images)
    assert not data_file(tmp_path / "model.onnx").exists()
    monkeypatch.setattr(writer, "LARGEST", 1000)
    write_onnx(made, tmp_path / "b.onnx")
    assert data_file(tmp_path / "b.onnx").stat().st_size > 100_000 > (tmp_path / "b.onnx").stat().st_size
    onnx.checker.check_model(str(tmp_path / "b.onnx"))
    for a, b in zip(run_onnx(tmp_path / "b.onnx")(images), whole, strict=True):
        assert np.array_equal(a, b)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        write_onnx(model(), tmp_path / name, ranges=RANGES)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
