"""The tuned engine gives eager's numbers for every kind of model, and the same digits whatever is beside an image."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines import tuned
from vitkit.engines.eager import EagerEngine
from vitkit.engines.engine import Engine
from vitkit.engines.packed import private_ops
from vitkit.engines.packed import vit as packed
from vitkit.engines.tuned import TunedEngine, make
from vitkit.models.vit import VisionTransformer, ViTConfig

BASE = ViTConfig(embed_dim=48, depth=3, num_heads=3, mlp_dim=80, patch_size=(8, 8), image_size=(40, 56), num_classes=7)
FAMILIES: dict[str, dict[str, Any]] = {
    "official": {},
    "odd heads and edge pixels": {"embed_dim": 40, "num_heads": 5, "image_size": (45, 61)},
    "deit distilled": {"registers": 1, "distilled": True, "gelu": "erf"},
    "clip": {"pre_norm": True, "gelu": "quick", "patch_bias": False, "head_bias": False},
    "dinov2": {"registers": 4, "prefix_positions": "cls", "mlp": "swiglu", "layer_scale": 0.3, "pool": "cls_mean"},
    "registers without positions": {"registers": 2, "prefix_positions": "none"},
    "siglip": {"cls_token": False, "pool": "map", "gelu": "tanh"},
    "map with pre-logits": {"pool": "map", "representation_size": 20},
    "mean, norm after": {"pool": "mean", "norm_after_pool": True, "cls_token": False},
    "cls, norm after": {"norm_after_pool": True},
    "better plain": {"pool": "mean", "position": "sincos2d", "cls_token": False},
    "pre-logits": {"representation_size": 24},
    "no head": {"num_classes": 0},
    "no head, map": {"num_classes": 0, "pool": "map"},
    "every token": {"pool": "none"},
    "relative": {"position": "relative"},
    "learned 2-D in every layer": {"position": "learned2d", "position_at": "layers"},
    "shared table": {"position_at": "shared"},
    "no positions, no biases": {"position": "none", "qkv_bias": False},
    "one block": {"depth": 1},
    "hybrid": {"stem": (1, 1), "patch_size": (1, 1), "image_size": (40, 48)},
    "hybrid, timm": {"stem": (1,), "patch_size": (2, 2), "stem_numerics": "timm"},
}


def drawn(config: ViTConfig) -> VisionTransformer:
    rng = torch.Generator().manual_seed(0)
    model = VisionTransformer(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            wide = tensor[0].numel() ** -0.5 if tensor.ndim > 1 and "pos" not in name else 0.3
            tensor.copy_(torch.randn(tensor.shape, generator=rng) * wide + (".norm" in name and "weight" in name))
    return model


def pictures(config: ViTConfig, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, config.in_channels, *config.image_size), dtype=np.float32)


def engine(config: ViTConfig, precision: str = "fp32") -> TunedEngine:
    return make(Bundle(drawn(config), None), precision)


@pytest.fixture(params=["native", "packed", "public"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compiled blocks where they are there, packed products, public operators."""
    if request.param != "native":
        monkeypatch.setattr(packed, "native_missing", lambda config, dtype: "not here")
    if request.param == "public":
        monkeypatch.setattr(private_ops, "products_missing", lambda dtype: "not here")
    return request.param


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_eagers_numbers(family: str, kernels: str) -> None:
    config = dataclasses.replace(BASE, **FAMILIES[family])
    images = pictures(config, 3)
    expected, found = EagerEngine(drawn(config))(images), engine(config)(images)
    for name in ("logits", "features"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.shape == b.shape
        assert a.dtype == np.float32
        assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_near(family: str, kernels: str) -> None:
    config = dataclasses.replace(BASE, **FAMILIES[family])
    images = pictures(config, 3)
    expected, found = EagerEngine(drawn(config))(images), engine(config, "bf16")(images)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= 0.04 * np.linalg.norm(b)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["official", "deit distilled", "siglip", "relative", "better plain", "hybrid"])
def test_an_images_digits_do_not_depend_on_what_is_beside_it(family: str, precision: str, kernels: str) -> None:
    config = dataclasses.replace(BASE, **FAMILIES[family])
    images, made = pictures(config, 30), engine(config, precision)
    assert made.together > 1
    alone = [made.pool.submit(made.forward, image[None]).result() for image in images]
    together = made.together
    for found in (
        made(images),
        made(images[:7]),
        made(images[:1]),
        made(images[:1]),
        made.pool.submit(made.outputs_of_group, images[:together]).result(),
        made.pool.submit(made.outputs_of_group, images[:together]).result(),
    ):
        for place in range(len(found.logits)):
            for a, b in zip(found, alone[place], strict=True):
                assert np.array_equal(a[place], b[0])


def test_what_would_change_a_digit_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    made, images = engine(BASE), pictures(BASE, 30)
    plain, own = engine(BASE)(images), made.forward

    def off(images: np.ndarray) -> object:
        found = own(images)
        wrong = len(images) > 1 or torch.get_num_threads() > 1
        return found._replace(features=np.nextafter(found.features, np.float32(9.0))) if wrong else found

    monkeypatch.setattr(made, "forward", off)
    for _ in range(2):
        assert np.array_equal(made(images).features, plain.features)
        assert np.array_equal(made(images[:1]).features, plain.features[:1])
    if made.threads > 1:
        made.latency = True
        assert not np.array_equal(made(images[:1]).features, plain.features[:1])


PROGRAM = """
import sys, torch, numpy as np
sys.path[:0] = sys.argv[2:]
torch.set_num_threads(int(sys.argv[1]))
from vitkit.bundle import Bundle
from vitkit.engines.tuned import make
from vitkit.models.vit import ViTConfig, VisionTransformer
size = {"patch_size": (8, 8), "image_size": (56, 40), "num_classes": 7}
model = VisionTransformer(ViTConfig(embed_dim=96, depth=2, num_heads=3, mlp_dim=384, **size))
model.init_weights(0)
model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
images = torch.randn(21, 3, 56, 40, generator=torch.Generator().manual_seed(1)).numpy()
for precision in ("fp32", "bf16"):
    engine = make(Bundle(model.eval(), None), precision)
    for count in (21, 21, 1, 1):
        rows = engine(images[:count])
        print(count, *(float(part[:1].astype(float).sum()).hex() for part in rows), float(rows.logits.astype(float).sum()).hex())
"""


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    found = {
        subprocess.run([sys.executable, "-c", PROGRAM, str(threads)], capture_output=True, text=True, check=True).stdout
        for threads in (1, 2, 3)
    }
    assert len(found) == 1


def test_it_is_an_engine_and_says_what_it_is() -> None:
    made = engine(BASE, "bf16")
    assert isinstance(made, Engine)
    facts = made.facts
    assert (facts.name, facts.precision, facts.ours) == ("tuned", "bf16", True)
    assert facts.library == f"torch {torch.__version__}"
    assert any("float32" in note for note in facts.notes)


def test_what_is_lacking_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "native_missing", lambda config, dtype: "no C compiler is found")
    for where in (private_ops, tuned):
        monkeypatch.setattr(where, "products_missing", lambda dtype: "this PyTorch is built without oneDNN")
    note = engine(BASE).facts.notes[0]
    assert "no C compiler is found" in note
    assert "built without oneDNN" in note


def test_bf16_without_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "bf16_missing", lambda: "this processor has none")
    with pytest.raises(UserError, match=r"this processor has none.*--precision fp32"):
        engine(BASE, "bf16")


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match="the model takes images of"):
        engine(BASE)(np.zeros((2, 3, 24, 24), np.float32))


def test_the_models_own_weights_are_left_alone() -> None:
    config = dataclasses.replace(BASE, layer_scale=0.5)
    model = drawn(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make(Bundle(model, None), "fp32")(pictures(config, 2))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
