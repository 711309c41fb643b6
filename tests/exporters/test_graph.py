"""Every configuration, written as a graph and run by the runtime it is for, gives what PyTorch gives."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.running import FORMATS, distance, drawn_model, expected, images_for, written
from golden import golden_config
from models.test_vit import FEATURES
from vitkit.config import UserError
from vitkit.exporters.graph import Range, library, quantised_weight, write_graph
from vitkit.exporters.onnx import write_onnx
from vitkit.exporters.openvino import write_openvino
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.rows import ROWS

TOLERANCE = 1e-5  # of the largest value; the promise is 1e-4
MORE: dict[str, dict[str, object]] = {
    "hybrid": {"stem": (1, 2), "patch_size": (1, 1), "image_size": (65, 48)},
    "hybrid, root only": {"stem": (), "patch_size": (4, 8), "image_size": (48, 35)},
    "hybrid, timm's epsilons": {"stem": (1, 1, 1), "stem_numerics": "timm", "patch_size": (2, 2), "image_size": (80, 48)},
    "swiglu in map pooling": {"mlp": "swiglu", "mlp_dim": 40, "pool": "map"},
    "one block": {"depth": 1, "layer_scale": 0.1},
    "relative, distilled": {"position": "relative", "distilled": True, "registers": 1},
    "pixels left over": {"image_size": (50, 47)},
    "an image of one patch": {"image_size": (16, 16), "pool": "mean", "cls_token": False},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(changes: dict[str, object]) -> VisionTransformer:
    return drawn_model(VisionTransformer(golden_config(**{"image_size": (48, 32), **changes})))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", [*FEATURES, *MORE])
def test_every_feature_is_in_the_graph(name: str, format: str, tmp_path: Path) -> None:
    model = model_of({**FEATURES, **MORE}[name])
    run = written(model, format, tmp_path)
    for count in (1, 3):
        images = images_for(model, count)
        wanted = expected(model, images)
        assert distance(run(images), wanted) <= TOLERANCE
    assert np.abs(wanted[0][0] - wanted[0][1]).max() > 1e-2 * np.abs(wanted[0]).max()  # it looks at the image


def published() -> dict[str, ViTConfig]:
    """Every kind of published model once, small: what is left of its configuration when sizes and counts are taken away."""
    found: dict[ViTConfig, str] = {}
    for row in ROWS:
        config = row.model
        small = dataclasses.replace(
            config,
            embed_dim=64, depth=2, num_heads=4, mlp_dim=48, num_classes=min(config.num_classes, 7),
            representation_size=min(config.representation_size, 24),
            image_size=(64, 96),
            patch_size=(16, 16) if config.stem is None else config.patch_size,
            stem=None if config.stem is None else tuple(min(units, 1) for units in config.stem),
            position_rule="bilinear",
        )  # fmt: skip
        found.setdefault(small, row.name)
    return {name: config for config, name in found.items()}


PUBLISHED = published()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_family_is_the_same_as_a_graph(name: str, format: str, tmp_path: Path) -> None:
    model = drawn_model(VisionTransformer(PUBLISHED[name]))
    run = written(model, format, tmp_path)
    images = images_for(model, 8)
    assert distance(run(images), expected(model, images)) <= TOLERANCE


def test_every_kind_of_published_model_is_there() -> None:
    configs = PUBLISHED.values()
    assert {config.pool for config in configs} >= {"cls", "mean", "map"}
    assert {config.gelu for config in configs} == {"tanh", "erf", "quick"}
    assert {config.mlp for config in configs} == {"gelu", "swiglu"}
    assert {config.stem is None for config in configs} == {True, False}
    assert len(PUBLISHED) > 20


def test_a_layer_that_no_model_has_is_refused() -> None:
    model = VisionTransformer(golden_config())
    with pytest.raises(UserError, match=r"given for 'blocks.0.mlp.fc3', which is no dense layer.*'blocks.0.mlp.fc"):
        write_graph(model, None, {"blocks.0.mlp.fc3": Range(0, 1)})  # type: ignore[arg-type]
    for low, high in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(UserError, match=r"the range of head is .*; it must be finite and not empty"):
            write_graph(model, None, {"head": Range(low, high)})  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["onnx", "openvino"])
def test_a_package_that_is_not_installed_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = VisionTransformer(golden_config())
    monkeypatch.setitem(sys.modules, package, None)
    write, file = {"onnx": (write_onnx, "a.onnx"), "openvino": (write_openvino, "a.xml")}[package]
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'vitkit\[{package}\]'"):
        write(model, tmp_path / file)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_graphs.py").write_text("raise OSError('libfoo.so: cannot open')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"broken_graphs cannot be used here: libfoo.so: cannot open"):
        library("broken_graphs", "onnx")


def test_levels_hold_zero_and_the_range() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-7.0, -0.1), (0.0, 1e-9), (-3e4, 1.0)):
        scale, zero = Range(low, high).grid()
        assert 0 <= zero <= 255
        assert -zero * scale <= min(low, 0) + 0.51 * scale
        assert (255 - zero) * scale >= max(high, 0) - 0.51 * scale


def test_weights_of_eight_bits_are_within_half_a_level() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    weight[2] = 0
    levels, scales = quantised_weight(weight)
    assert levels.dtype == np.int8
    assert np.abs(levels).max(axis=1).tolist() == [127, 127, 0, 127, 127]
    assert np.abs(levels * scales[:, None] - weight).max() <= 0.501 * scales.max()
