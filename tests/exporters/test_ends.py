"""A graph with its ends: cropped pixels in, calibrated probabilities out, of every family, in every precision that is stored."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters.running import drawn_model, expected
from exporters.test_graph import PUBLISHED
from golden import golden_config
from vitkit.answers import MULTI, SINGLE, calibrated
from vitkit.config import UserError
from vitkit.data.pixels import IMAGENET_MEAN, IMAGENET_STD, Preprocess, normalise, to_planes
from vitkit.exporters.graph import Ends, reduced
from vitkit.exporters.onnx import write_onnx
from vitkit.exporters.openvino import write_openvino
from vitkit.exporters.program import open_program, write_program
from vitkit.models.vit import VisionTransformer

Array = np.ndarray[Any, Any]
ENDS = Ends(IMAGENET_MEAN, IMAGENET_STD, 1.7)


def crops_for(model: VisionTransformer, count: int) -> Array:
    shape = (count, *model.config.image_size, model.config.in_channels)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def run(
    model: VisionTransformer, target: str, folder: Path, crops: Array, ends: Ends = ENDS, stored: str = "fp32"
) -> dict[str, Array]:
    """The written graph's outputs by name, as anybody would run it."""
    if target == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        write_onnx(model, folder / "m.onnx", stored=stored, ends=ends)
        session = runtime.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(None, {"images": crops}), strict=True))
    if target == "openvino":
        pytest.importorskip("openvino")
        from vitkit.engines.openvino import process_core

        write_openvino(model, folder / "m.xml", stored=stored, ends=ends)
        compiled = process_core().compile_model(folder / "m.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled({"images": crops})
        names = {name for output in compiled.outputs for name in output.names}
        return {name: found[name].copy() for name in names & {"logits", "features", "probabilities"}}
    write_program(model, folder / "m.pt2", stored=stored, ends=ends)
    with torch.inference_mode():
        rows = open_program(folder / "m.pt2")(torch.from_numpy(crops))
    return dict(zip(("logits", "features", "probabilities"), (row.numpy() for row in rows), strict=False))


def wanted(model: VisionTransformer, crops: Array, ends: Ends = ENDS) -> dict[str, Array]:
    record = Preprocess(model.config.image_size, mean=ends.mean, std=ends.std)
    logits, features = expected(model, to_planes(normalise(crops, record)))
    task = MULTI if ends.sigmoid else SINGLE
    shape = (-1, logits.shape[-1])
    probabilities = calibrated(logits.reshape(shape), ends.temperature, task).reshape(logits.shape)
    return {"logits": logits, "features": features} | (
        {"probabilities": probabilities} if model.config.num_classes else {}
    )


# Tracing takes seconds, and what is traced is the model itself: every sixth family, and no hybrid, for PyTorch programs.
TRACED = [name for name in list(PUBLISHED)[::6] if PUBLISHED[name].stem is None]
FAMILIES = [(name, target) for target in ("onnx", "openvino") for name in PUBLISHED]


@pytest.mark.parametrize(("name", "target"), [*FAMILIES, *((name, "torch") for name in TRACED)])
def test_every_family_takes_pixels_one_or_seven_at_a_time(name: str, target: str, tmp_path: Path) -> None:
    model = drawn_model(VisionTransformer(PUBLISHED[name]))
    for count in (1, 7):
        crops = crops_for(model, count)
        found, told = run(model, target, tmp_path, crops), wanted(model, crops)
        assert found.keys() == told.keys()
        for key, values in told.items():
            assert found[key].shape == values.shape
            assert np.abs(found[key] - values).max() <= 2e-5 * max(1.0, np.abs(values).max()), key


@pytest.mark.parametrize("target", ["onnx", "openvino", "torch"])
def test_a_model_of_many_labels_gives_sigmoids_and_other_channels_are_numbers(target: str, tmp_path: Path) -> None:
    model = drawn_model(VisionTransformer(golden_config(image_size=(48, 32), in_channels=2)))
    ends = Ends((0.3, 0.1), (0.2, 0.4), 0.8, sigmoid=True)
    crops = np.random.default_rng(0).random((3, 48, 32, 2), np.float32)
    found, told = run(model, target, tmp_path, crops, ends), wanted(model, crops, ends)
    for key, values in told.items():
        assert np.abs(found[key] - values).max() <= 2e-5 * max(1.0, np.abs(values).max())


@pytest.mark.parametrize("target", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize(("stored", "least", "most"), [("fp16", 1e-6, 5e-3), ("bf16", 1e-5, 5e-2)])
def test_reduced_weights_halve_the_file_and_move_the_outputs_little(
    target: str, stored: str, least: float, most: float, tmp_path: Path
) -> None:
    config = golden_config(image_size=(48, 32), embed_dim=128, mlp_dim=512, num_heads=4, depth=2)
    model = VisionTransformer(config)
    model.init_weights(0)
    if model.head is not None:
        model.head.weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    crops = crops_for(model.eval(), 3)
    sizes = []
    for kind in ("fp32", stored):
        (tmp_path / kind).mkdir()
        found = run(model, target, tmp_path / kind, crops, stored=kind)
        sizes.append(sum(file.stat().st_size for file in (tmp_path / kind).iterdir()))
    told = wanted(model, crops)["logits"]
    gap = np.abs(found["logits"] - told).max() / np.abs(told).max()
    assert least < gap < most
    assert sizes[1] < 0.75 * sizes[0]


def test_a_weight_that_fp16_cannot_hold_is_refused_and_so_is_an_unknown_precision() -> None:
    with pytest.raises(UserError, match=r"too large for fp16.*--precision bf16"):
        reduced(np.array([7e4], np.float32), "fp16")
    with pytest.raises(UserError, match="stored in fp32, fp16, bf16, not in 'int4'"):
        reduced(np.ones(1, np.float32), "int4")


def test_a_program_holds_nothing_pickled_and_one_that_does_is_not_read(tmp_path: Path) -> None:
    model = VisionTransformer(golden_config(depth=1)).eval()
    write_program(model, tmp_path / "m.pt2", ends=ENDS)
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        assert not [each for each in archive.infolist() if each.file_size and each.filename.endswith((".pt", ".pkl"))]
    with zipfile.ZipFile(tmp_path / "m.pt2", "a") as archive:
        archive.writestr("m/data/weights/weight_0.pt", b"\x80\x04.")
    with pytest.raises(UserError, match=r"holds pickled data \(m/data/weights/weight_0.pt\).*it is not read"):
        open_program(tmp_path / "m.pt2")
    (tmp_path / "no.pt2").write_bytes(b"no")
    with pytest.raises(UserError, match="is no PyTorch program"):
        open_program(tmp_path / "no.pt2")
    with pytest.raises(UserError, match="computes in fp32, fp16, bf16, not in int8"):
        write_program(model, tmp_path / "i.pt2", stored="int8", ends=ENDS)


def test_ends_scale_pixels_as_normalise_does() -> None:
    factor, summand = ENDS.scale()
    pixels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    record = Preprocess((16, 16), mean=ENDS.mean, std=ENDS.std)
    assert np.abs(pixels * factor[:, 0, 0] + summand[:, 0, 0] - normalise(pixels, record)).max() < 1e-6
