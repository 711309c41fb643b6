"""What a user asks for: layers, heads and classes by number, and one shape of answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from vitkit.analysis.attention import attention_maps, pool_maps
from vitkit.analysis.maps import METHODS, Asked, Map, ask, draw_maps, mean_maps
from vitkit.analysis.relevance import relevance
from vitkit.analysis.rollout import rollout
from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer, ViTConfig

SMALL = ViTConfig(
    embed_dim=32, depth=3, num_heads=4, mlp_dim=48, patch_size=(8, 8), image_size=(24, 40), num_classes=5
)  # fmt: skip


def drawn(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(dataclasses.replace(SMALL, **changes))
    model.init_weights(0)
    for head in (model.head, model.head_dist):
        if head is not None:
            head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


IMAGES = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("changes", "layers", "expected"),
    [
        ({}, None, (2,)),
        ({}, "all", (0, 1, 2)),
        ({}, [0, -1, 2], (0, 2)),
        ({}, 1, (1,)),
        ({"pool": "map", "cls_token": False}, None, ("pool",)),
        ({"pool": "map", "cls_token": False}, "all", (0, 1, 2, "pool")),
        ({"pool": "map", "cls_token": False}, ["pool", -3], ("pool", 0)),
        ({"pool": "map", "cls_token": False}, "pool", ("pool",)),
    ],
)
def test_layers_are_named_by_number(changes: dict[str, Any], layers: Any, expected: tuple[Any, ...]) -> None:
    assert ask(drawn(**changes), "attention", layers).layers == expected


@pytest.mark.parametrize(
    ("heads", "expected"), [(None, None), ("all", (0, 1, 2, 3)), ([0, -1], (0, 3)), ([1, 1], (1,)), (2, (2,))]
)
def test_heads_are_named_by_number(heads: Any, expected: Any) -> None:
    assert ask(drawn(), "attention", heads=heads).heads == expected


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {},
            {"method": "gradients"},
            "--method is 'gradients'; known: gradient, rollout, attention. Did you mean 'gradient'",
        ),
        ({}, {"method": "attention", "layers": [3]}, "there is no layer 3: the model has 3, numbered 0 to 2"),
        (
            {},
            {"method": "attention", "layers": ["x"]},
            "--layers 'x' is no layer; write numbers such as 0,2,-1, or all",
        ),
        ({}, {"method": "attention", "layers": "pool"}, "attention pooling, which this model does not use"),
        ({}, {"method": "attention", "layers": []}, "no layer was asked for"),
        ({}, {"method": "attention", "heads": [9]}, "there is no head 9: the model has 4"),
        ({}, {"method": "attention", "heads": "most"}, "--heads 'most' is no head"),
        ({}, {"method": "gradient", "layers": [0]}, "--layers is for --method attention; gradient goes through all"),
        ({}, {"method": "rollout", "heads": [0]}, "--heads is for --method attention"),
        ({}, {"method": "rollout", "residual": "some"}, "--residual is 'some'; known: half, none"),
        ({}, {"method": "gradient", "residual": "none"}, "--residual is for --method rollout"),
        ({}, {"method": "gradient", "pool": "mean"}, "--pool is for --method rollout and attention"),
        ({"num_classes": 0}, {"method": "gradient"}, "no head.*--method rollout"),
        ({"head_bias": False}, {"method": "gradient"}, "embedding shared with text.*--method rollout"),
        ({"pool": "none"}, {"method": "rollout"}, "pool='none'"),
        ({"pool": "mean", "cls_token": False}, {"method": "rollout", "pool": "cls"}, "no class token"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(drawn(**changes), **options)


def test_maps_are_those_of_the_methods() -> None:
    model = drawn()
    pixels = IMAGES[0]
    asked = ask(model, "gradient")
    found = draw_maps(model, pixels, asked, [3, 1])
    assert [one.target for one in found] == [3, 1]
    for one in found:
        assert one.target is not None
        expected = relevance(model, IMAGES[:1], torch.tensor([one.target]))[0]
        np.testing.assert_allclose(one.values, expected.numpy(), rtol=1e-4, atol=1e-7)
    (one,) = draw_maps(model, pixels, ask(model, "rollout", residual="none"))
    np.testing.assert_allclose(one.values, rollout(model, IMAGES[:1], "none")[0].numpy(), rtol=1e-5)
    found = draw_maps(model, pixels, ask(model, "attention", [2, 0], [3, 1]))
    assert [(one.layer, one.head) for one in found] == [(2, 3), (2, 1), (0, 3), (0, 1)]
    expected = attention_maps(model, IMAGES[:1], [2, 0], [3, 1])[0].flatten(0, 1)
    np.testing.assert_allclose(np.stack([one.values for one in found]), expected.numpy(), rtol=1e-5)
    (one,) = draw_maps(model, pixels, ask(model, "attention"))
    np.testing.assert_allclose(one.values, attention_maps(model, IMAGES[:1], [2])[0, 0].mean(0).numpy(), rtol=1e-5)
    assert one.values.shape == (3, 5)


def test_attention_pooling_is_a_layer_of_its_own() -> None:
    model = drawn(pool="map", cls_token=False)
    found = draw_maps(model, IMAGES[0], ask(model, "attention", ["pool", 1], "all"))
    assert [(one.layer, one.head) for one in found] == [("pool", h) for h in range(4)] + [(1, h) for h in range(4)]
    np.testing.assert_allclose(found[2].values, pool_maps(model, IMAGES[:1], [2])[0, 0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_a_batch_is_the_mean_of_each_image(method: str) -> None:
    model = drawn(pool="map", cls_token=False)
    asked = ask(model, method, *(("all", [0, 2]) if method == "attention" else ()))
    means = mean_maps(model, IMAGES, asked, torch.tensor([4, 0]))
    for number, target in enumerate((4, 0)):
        maps = draw_maps(model, IMAGES[number], asked, [target])
        mean = np.mean([one.values for one in maps], axis=0)
        np.testing.assert_allclose(means[number].numpy(), mean, rtol=1e-3, atol=1e-6)


def test_what_tells_files_apart() -> None:
    values = np.zeros((1, 1))
    assert Map(values).suffix == ""
    assert Map(values, 11, 2).suffix == ".layer11.head2"
    assert Map(values, "pool", 0).suffix == ".pool.head0"
    assert Map(values, 3).suffix == ".layer3"
    assert Map(values, target=7).suffix == ".class7"


def test_descriptions_name_what_was_asked_for() -> None:
    assert Asked("rollout", residual="none").describe().endswith("Without the residual connections.")
    assert "Layers 0, pool; heads 1, 2." in Asked("attention", (0, "pool"), (1, 2)).describe()
    assert (
        Asked("attention", (2,), pool="mean")
        .describe()
        .endswith("mean of the heads. Tokens are read as if pooled by mean.")
    )
