"""Readings, maps, distance and entropy against loops; memory; what is refused."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis.unfused import MAPPED, drawn, images_for, own_weights
from golden import golden_config
from vitkit.analysis.attention import (
    attention_distance,
    attention_entropy,
    attention_maps,
    attention_weights,
    chosen,
    patch_pixels,
    pool_maps,
    pool_weights,
    reading,
    recorded_features,
    recorded_weights,
)
from vitkit.analysis.record import evaluating, record
from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer

# Readings: 16 patches of 4 x 4; the rows that each reads, and how much of it.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {0: 1.0}),
        ({"registers": 2}, {0: 1.0}),
        ({"pool": "mean", "cls_token": False}, dict.fromkeys(range(16), 1 / 16)),
        ({"pool": "mean", "registers": 1}, dict.fromkeys(range(2, 18), 1 / 16)),
        ({"pool": "cls_mean"}, {0: 0.5} | dict.fromkeys(range(1, 17), 1 / 32)),
        ({"distilled": True, "registers": 1}, {0: 0.5, 1: 0.5}),
        ({"distilled": True, "registers": 3}, {0: 0.5, 1: 0.5}),
        ({"distilled": True, "registers": 1, "num_classes": 0}, {0: 1.0}),  # its representation is of the class token alone
    ],
)  # fmt: skip
def test_what_each_pooling_reads(changes: dict[str, object], expected: dict[int, float]) -> None:
    model = drawn(**changes)
    config = model.config
    row = torch.zeros(config.prefix_tokens + 16)
    for token, weight in expected.items():
        row[token] = weight
    images = images_for(model, 3)
    found = reading(model, images)
    assert found.dtype == torch.float32
    assert torch.equal(found, row.expand(3, -1))
    assert torch.equal(reading(model, model.forward_features(images)), found)


@pytest.mark.parametrize("changes", [{"cls_token": False}, {"registers": 2, "image_size": (64, 96)}])
def test_attention_pooling_reads_by_the_mean_of_its_heads(changes: dict[str, object]) -> None:
    model = drawn(pool="map", **changes)
    images = images_for(model)
    weights = own_weights(model, images)[-1]  # (B, K, 1, h*w)
    found = reading(model, images)
    P = model.config.prefix_tokens
    assert torch.equal(found[:, :P], torch.zeros(2, P))
    assert torch.allclose(found[:, P:], weights.mean(dim=1)[:, 0], atol=1e-6)
    assert float(found.std()) > 0.01
    with torch.no_grad():
        assert torch.equal(reading(model, model.forward_features(images)), found)


def test_a_reading_can_be_said_where_the_model_has_none() -> None:
    model = drawn(pool="none", registers=1)
    images = images_for(model)
    assert reading(model, images, pool="cls")[0].tolist() == [1.0] + [0.0] * 17
    assert reading(model, images, pool="mean")[0].tolist() == [0.0, 0.0] + [1 / 16] * 16
    two = drawn(distilled=True, registers=1)
    assert reading(two, images, pool="cls")[0, :2].tolist() == [1.0, 0.0]


def maps_by_loops(model: VisionTransformer, images: Tensor) -> np.ndarray:
    """(B, layers, heads, h, w) of every layer and head, one number at a time."""
    config = model.config
    P, (h, w) = config.prefix_tokens, config.grid
    layers = [weights.double().numpy() for weights in own_weights(model, images)[: config.depth]]
    read = reading(model, images).double().numpy()
    result = np.zeros((len(images), config.depth, config.num_heads, h, w))
    for image in range(len(images)):
        for layer, weights in enumerate(layers):
            for head in range(config.num_heads):
                for query in range(P + h * w):
                    for y in range(h):
                        for x in range(w):
                            weight = weights[image, head, query, P + y * w + x]
                            result[image, layer, head, y, x] += read[image, query] * weight
    return result


@pytest.mark.parametrize("case", MAPPED)
def test_maps_are_the_rows_of_what_is_read(case: str) -> None:
    model = drawn(**MAPPED[case])
    images = images_for(model)
    expected = maps_by_loops(model, images)
    found = attention_maps(model, images)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert float(found.min()) >= 0
    assert np.abs(found.numpy() - expected).max() <= 5e-6
    some = attention_maps(model, images, [-1, 0], [2, 0, 2])
    assert torch.equal(some, found[:, [1, 0]][:, :, [2, 0, 2]])


def test_maps_of_a_class_token_are_exactly_its_row() -> None:
    model = drawn(registers=2)
    images = images_for(model)
    (weights,) = (weights for _, weights in recorded_weights(model, images, [1]))
    assert torch.equal(attention_maps(model, images, [1])[:, 0], weights[:, :, 0, 3:].unflatten(-1, (4, 4)))


def test_maps_of_attention_pooling() -> None:
    model = drawn(pool="map", cls_token=False, image_size=(48, 80))
    images = images_for(model)
    expected = own_weights(model, images)[-1][:, :, 0].unflatten(-1, (3, 5))
    found = pool_maps(model, images)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(found.sum(dim=(2, 3)), torch.ones(2, 4))
    assert torch.equal(pool_maps(model, images, [-1]), found[:, 3:])
    assert torch.allclose(found.mean(dim=1).flatten(1), reading(model, images))


# Recording


def test_layers_come_in_the_order_asked_for_each_as_often() -> None:
    model = drawn(depth=4)
    images = images_for(model)
    every = dict(recorded_weights(model, images))
    found = list(recorded_weights(model, images, [3, 0, -1, -4]))
    assert [layer for layer, _ in found] == [3, 0, 3, 0]
    assert all(torch.equal(weights, every[layer]) for layer, weights in found)


def test_one_forward_whatever_is_asked_for() -> None:
    model = drawn(depth=4)
    calls: list[int] = []
    model.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    features, weights = recorded_features(model, images_for(model))
    assert len(list(weights)) == 4
    assert len(calls) == 1
    assert torch.equal(features.patches, model.forward_features(images_for(model)).patches)


def test_nothing_of_a_layer_is_kept_once_the_next_is_given() -> None:
    model = drawn(depth=5)
    recorded: list[weakref.ref[Tensor]] = []
    for block in model.blocks:
        block.attn.qkv.register_forward_hook(lambda _, __, out: recorded.append(weakref.ref(out)))
    given: list[weakref.ref[Tensor]] = []
    found = recorded_weights(model, images_for(model), [4, 2, 1])
    assert [ref() is not None for ref in recorded] == [False, True, True, False, True]  # only what was asked for
    for number, (_, weights) in enumerate(found):
        assert [ref() for ref in given] == [None] * number
        assert sum(ref() is not None for ref in recorded) == 2 - number
        given.append(weakref.ref(weights))


def test_the_model_is_left_as_it_was() -> None:
    model = drawn(dropout=0.5, attention_dropout=0.5, drop_path=0.5, depth=3)
    images = images_for(model)
    expected = [weights for _, weights in recorded_weights(model, images)]
    model.train()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    found = [weights for _, weights in recorded_weights(model, images)]  # nothing is dropped
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [module.training for module in model.modules()] == modes
    assert all(not weights.requires_grad for weights in found)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()
    with pytest.raises(UserError, match="the model takes images of"):
        recorded_weights(model, images[:, :, 1:])
    assert not any(module._forward_hooks for module in model.modules())
    assert [module.training for module in model.modules()] == modes


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    model[1].eval()

    def fail() -> None:
        with evaluating(model):
            assert not model[0].training
            raise RuntimeError("x")

    with pytest.raises(RuntimeError):
        fail()
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_models_made_in_inference_mode_are_recorded() -> None:
    with torch.inference_mode():
        model = drawn(pool="map", position="relative")
    images = images_for(model)
    assert attention_maps(model, images).shape == (2, 2, 4, 4, 4)
    assert pool_maps(model, images).shape == (2, 4, 4, 4)
    with torch.inference_mode():
        assert reading(model, images).shape == (2, 17)


def test_what_a_hook_keeps_makes_the_same_weights() -> None:
    """The lower functions, by hand: what other analyses build on."""
    model = drawn(pool="map", cls_token=False)
    images = images_for(model)
    with torch.no_grad(), record(model, "blocks.*.attn.qkv", "map_pool.kv", outputs=True) as seen:
        features = model.forward_features(images)
        model.forward_head(features)
    weights = attention_weights(model.blocks[1].attn, seen["blocks.1.attn.qkv"])
    assert torch.equal(weights, dict(recorded_weights(model, images))[1])
    assert seen["map_pool.kv"].shape == (2, 16, 128)
    with torch.no_grad():
        assert torch.equal(pool_weights(model.map_pool, features.patches.flatten(1, 2)),
                           pool_maps(model, images).flatten(2))  # fmt: skip


# Measures


def random_weights(tokens: int, batch: int = 2, heads: int = 3) -> Tensor:
    return (3 * torch.randn(batch, heads, tokens, tokens, generator=torch.Generator().manual_seed(2))).softmax(-1)


def distance_by_loops(
    weights: np.ndarray, grid: tuple[int, int], patch: tuple[int, int], P: int, renormalise: bool
) -> float:
    """Of one head, (N, N)."""
    h, w = grid
    total = 0.0
    for y in range(h):
        for x in range(w):
            row = weights[P + y * w + x]
            distance, seen = 0.0, 0.0
            for v in range(h):
                for u in range(w):
                    weight = row[P + v * w + u]
                    distance += weight * math.sqrt(((y - v) * patch[0]) ** 2 + ((x - u) * patch[1]) ** 2)
                    seen += weight
            total += distance / seen if renormalise else distance
    return total / (h * w)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(
    ("grid", "patch", "prefix"),
    [((4, 4), (16, 16), 1), ((2, 5), (14, 14), 0), ((5, 3), (8, 16), 5), ((1, 1), (4, 4), 1)],
)
def test_distance_against_loops(grid: tuple[int, int], patch: tuple[int, int], prefix: int, renormalise: bool) -> None:
    weights = random_weights(prefix + grid[0] * grid[1])
    found = attention_distance(weights, grid, patch, prefix, renormalise)
    assert found.shape == (2, 3)
    for image in range(2):
        for head in range(3):
            one = weights[image, head].double().numpy()
            expected = distance_by_loops(one, grid, patch, prefix, renormalise)
            assert float(found[image, head]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("side", "patch", "expected"), [(14, 16, 116.49), (7, 32, 115.50)])
def test_distance_of_uniform_attention(side: int, patch: int, expected: float) -> None:
    """VIT_SPEC 8, "Algorithms"."""
    count = side * side
    uniform = torch.full((1, 1, count, count), 1 / count)
    found = attention_distance(uniform, (side, side), (patch, patch), 0)
    assert round(float(found), 2) == expected
    beside = torch.full((1, 1, count + 1, count + 1), 1 / (count + 1))  # and a class token
    grid = (side, side)
    assert float(attention_distance(beside, grid, (patch, patch), 1)) == pytest.approx(
        float(found) * count / (count + 1)
    )
    assert float(attention_distance(beside, grid, (patch, patch), 1, renormalise=True)) == pytest.approx(float(found))


def test_distance_of_what_looks_at_itself_at_its_neighbour_and_at_no_patch() -> None:
    itself = torch.eye(6)[None, None]
    assert float(attention_distance(itself, (2, 3), (16, 16), 0)) == 0
    below = torch.eye(6).roll(3, dims=1)[None, None]  # the patch in the other row
    assert float(attention_distance(below, (2, 3), (8, 16), 0)) == 8
    prefix = torch.zeros(1, 1, 7, 7)
    prefix[..., 0] = 1
    for renormalise in (False, True):
        assert float(attention_distance(prefix, (2, 3), (8, 16), 1, renormalise)) == 0


def test_distance_of_weights_of_another_grid_is_refused() -> None:
    with pytest.raises(UserError, match="weights of 17 tokens are not those of 1 prefix tokens and a 3x4 grid"):
        attention_distance(random_weights(17), (3, 4), (16, 16), 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (16, 16)),
        ({"patch_size": (8, 16)}, (8, 16)),
        ({"stem": (), "patch_size": (8, 8)}, (32, 32)),
        ({"stem": (3, 4, 9), "patch_size": (1, 1)}, (16, 16)),
        ({"stem": (2, 2, 2, 2), "patch_size": (1, 2)}, (32, 64)),
    ],
)
def test_pixels_between_patches(changes: dict[str, object], expected: tuple[int, int]) -> None:
    config = golden_config(**{"image_size": (128, 128), **changes})
    assert patch_pixels(config) == expected
    assert tuple(128 // n for n in expected) == config.grid


def test_entropy_against_loops() -> None:
    weights = random_weights(6)
    weights[0, 0, 0] = torch.tensor([0.0, 1, 0, 0, 0, 0])
    found, share = attention_entropy(weights), attention_entropy(weights, normalised=True)
    for image in range(2):
        for head in range(3):
            total = 0.0
            for row in weights[image, head].double().tolist():
                total -= sum(weight * math.log(weight) for weight in row if weight)
            assert float(found[image, head]) == pytest.approx(total / 6, rel=1e-5)
            assert float(share[image, head]) == pytest.approx(total / 6 / math.log(6), rel=1e-5)


def test_entropy_of_uniform_attention_and_of_one_token() -> None:
    assert float(attention_entropy(torch.full((1, 1, 197, 197), 1 / 197))) == pytest.approx(math.log(197), rel=1e-5)
    assert float(attention_entropy(torch.full((1, 1, 197, 197), 1 / 197), normalised=True)) == pytest.approx(
        1, rel=1e-5
    )
    assert float(attention_entropy(torch.eye(5)[None, None])) == 0
    assert float(attention_entropy(torch.ones(1, 1, 1, 1), normalised=True)) == 0


# Refusals


MANY = "there is no {} {}: the model has {}, numbered 0 to {} (or -1 for the last)."


@pytest.mark.parametrize("layer", [2, -3, 99])
@pytest.mark.parametrize("function", [recorded_weights, recorded_features, attention_maps])
def test_a_layer_that_does_not_exist_is_refused_before_anything_runs(
    function: Callable[..., object], layer: int
) -> None:
    model = drawn()
    model.patch_embed.register_forward_hook(lambda *_: pytest.fail("the model ran"))
    with pytest.raises(UserError) as caught:
        function(model, images_for(model), [0, layer])
    assert str(caught.value) == MANY.format("layer", layer, 2, 1)


@pytest.mark.parametrize("head", [4, -5])
def test_a_head_that_does_not_exist_is_refused_before_anything_runs(head: int) -> None:
    model = drawn(pool="map")
    model.patch_embed.register_forward_hook(lambda *_: pytest.fail("the model ran"))
    for call in (lambda: attention_maps(model, images_for(model), None, [head]),
                 lambda: pool_maps(model, images_for(model), [head])):  # fmt: skip
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == MANY.format("head", head, 4, 3)


def test_chosen_numbers() -> None:
    assert chosen(None, 3, "layer") == (0, 1, 2)
    assert chosen([2, -3, -1], 3, "layer") == (2, 0, 2)
    assert chosen(np.array([1, -1]), 3, "layer") == (1, 2)  # type: ignore[arg-type]
    assert chosen(range(2, -1, -1), 3, "layer") == (2, 1, 0)
    with pytest.raises(UserError, match=r"there is no layer 0\.5"):
        chosen([0.5], 3, "layer")  # type: ignore[list-item]
    with pytest.raises(UserError, match="no head was asked for: name at least one of 0 to 2"):
        chosen([], 3, "head")


def test_a_model_that_does_not_pool_has_no_one_view() -> None:
    images = torch.zeros(1, 3, 64, 64)
    for changes, ways in (({}, "pool='cls' or pool='mean'"), ({"cls_token": False}, "pool='mean'")):
        model = drawn(pool="none", **changes)
        model.patch_embed.register_forward_hook(lambda *_: pytest.fail("the model ran"))
        for function in (reading, attention_maps):
            with pytest.raises(UserError, match=r"output for every token \(pool='none'\)") as caught:
                function(model, images)
            assert str(caught.value).endswith(f"Say how its tokens should be read: {ways}.")


@pytest.mark.parametrize("pool", ["cls", "cls_mean"])
def test_a_class_token_that_is_not_there_cannot_be_read(pool: str) -> None:
    model = drawn(pool="mean", cls_token=False)
    for function in (reading, lambda *args: attention_maps(*args[:2], pool=args[2])):
        with pytest.raises(UserError) as caught:
            function(model, images_for(model), pool)
        assert str(caught.value) == (
            f"this model has no class token, which pool={pool!r} reads; its own pooling is 'mean'. "
            "Say pool='mean', or leave it out for the model's own."
        )


def test_other_readings_that_cannot_be() -> None:
    model = drawn()
    with pytest.raises(UserError, match=r"no attention pooling, which pool='map' reads; its own is 'cls'"):
        reading(model, images_for(model), "map")
    with pytest.raises(UserError, match=r"pool is 'maen'; known: cls, mean, cls_mean, map. Did you mean 'mean'\?"):
        reading(model, images_for(model), "maen")
    with pytest.raises(UserError, match=r"no attention pooling \(pool='map'\) to show; its own is 'cls'"):
        pool_maps(model, images_for(model))
