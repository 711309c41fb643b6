"""One streamed pass against every layer computed by itself; norms and outliers; what it leaves behind."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.unfused import drawn, images_for
from vitkit.analysis.attention import attention_distance, patch_pixels
from vitkit.analysis.survey import Survey, uniform_distance
from vitkit.analysis.tokens import TokenNorms, outliers
from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer

MODELS: dict[str, dict[str, object]] = {
    "plain": {},
    "registers, wide": {"registers": 2, "image_size": (48, 80)},
    "mean, no prefix": {"cls_token": False, "pool": "mean"},
    "map": {"cls_token": False, "pool": "map"},
    "every token": {"pool": "none"},
    "distilled": {"registers": 1, "distilled": True},
    "relative": {"position": "relative"},
    "hybrid": {"stem": (1, 1), "patch_size": (1, 1), "image_size": (32, 48)},
    "tables in every layer": {"position_at": "layers"},
    "norm before, gated": {"pre_norm": True, "mlp": "swiglu"},
}


@torch.no_grad()
def between_blocks(model: VisionTransformer, images: Tensor) -> list[Tensor]:
    """Tokens before the first block and after each, block by block."""
    x = images if model.stem is None else model.stem(images)
    x = model.place(model.patch_embed(x).flatten(2).transpose(1, 2))
    if model.norm_pre is not None:
        x = model.norm_pre(x)
    found = [x]
    for index, block in enumerate(model.blocks):
        if index and model.config.position_at != "stem":
            x = x + model.positions(index)
        x = block(x)
        found.append(x)
    return found


@torch.no_grad()
def weights_of(model: VisionTransformer, layer: int, tokens: Tensor) -> Tensor:
    """Attention weights of one image's tokens (N, D), (K, N, N), head by head and query by query."""
    block = model.blocks[layer]
    K, (N, D) = model.config.num_heads, tokens.shape
    q, k, _ = block.attn.qkv(block.norm1(tokens)).double().reshape(N, 3, K, D // K).permute(1, 2, 0, 3)
    found = torch.empty(K, N, N, dtype=torch.float64)
    for head in range(K):
        for query in range(N):
            logits = k[head] @ q[head, query] / math.sqrt(D // K)
            if block.attn.relative is not None:
                offsets = block.attn.relative[block.attn.relative_index[query]].double()
                logits = logits + offsets @ q[head, query] / math.sqrt(D // K)
            found[head, query] = logits.softmax(dim=0)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_against_every_layer_and_image_by_itself(name: str) -> None:
    model = drawn(**MODELS[name])
    config = model.config
    images = images_for(model, 6)
    survey = Survey(model)
    survey.add(images[:4])
    survey.add(images[4:])
    found = survey.result()
    assert found.images == 6
    h, w = config.grid
    pixels, P = patch_pixels(config), config.prefix_tokens
    places = [(y * pixels[0], x * pixels[1]) for y in range(h) for x in range(w)]
    distance, renormalised, entropy = (np.zeros((config.depth, config.num_heads)) for _ in range(3))
    norms = np.zeros((config.depth + 1, P))
    for image in images:
        tokens = [each[0] for each in between_blocks(model, image[None])]
        for layer in range(config.depth):
            source = tokens[layer] + (model.positions(layer)[0] if layer and config.position_at != "stem" else 0)
            for head, rows in enumerate(weights_of(model, layer, source).numpy()):
                entropy[layer, head] += -(rows * np.log(rows)).sum(axis=1).mean() / 6
                for query, row in enumerate(rows[P:, P:]):
                    far = [math.dist(places[query], place) for place in places]
                    distance[layer, head] += row @ far / (h * w) / 6
                    renormalised[layer, head] += row @ far / row.sum() / (h * w) / 6
        norms += np.array([each[:P].norm(dim=1).numpy() for each in tokens]).reshape(norms.shape) / 6
    assert found.distance == pytest.approx(distance, rel=1e-4)
    assert found.renormalised == pytest.approx(renormalised, rel=1e-4)
    assert found.entropy == pytest.approx(entropy, rel=1e-4)
    assert found.norms.prefix == pytest.approx(norms, rel=1e-5)
    assert found.cka_images == 4  # the two that are left over are too few
    assert found.cka.shape == (config.depth + 1, config.depth + 1)
    assert np.diag(found.cka) == pytest.approx(1)


def test_patches_norms_are_those_of_each_image() -> None:
    model = drawn(registers=1)
    images = images_for(model, 5)
    survey = Survey(model)
    survey.add(images)
    found = survey.result().norms
    for point, tokens in enumerate(between_blocks(model, images)):
        norms = np.linalg.norm(tokens[:, 2:].double().numpy(), axis=2)
        assert found.median[point] == pytest.approx(np.median(norms, axis=1).mean(), rel=1e-5)
        assert found.high[point] == pytest.approx(np.quantile(norms, 0.95, axis=1).mean(), rel=1e-5)
        assert found.most[point] == pytest.approx(norms.max(), rel=1e-5)


def test_outliers_are_counted_in_each_image() -> None:
    tokens = torch.ones(3, 1 + 100, 4) + 0.01 * torch.randn(3, 101, 4, generator=torch.Generator().manual_seed(0))
    tokens[0, 0] *= 50  # the class token is no patch
    tokens[1, [7, 30]] *= 10
    norms = TokenNorms(1, 1)
    norms.add(0, tokens)
    found = norms.result(3)
    assert found.outliers.tolist() == pytest.approx([2 / 300])
    assert found.images.tolist() == pytest.approx([1 / 3])


def test_what_stands_out_must_do_so_against_spread_and_size() -> None:
    assert not outliers(torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 2.5]])).any()  # no spread, but not three times
    wide = torch.linspace(0.1, 10, 100).reshape(1, -1)
    wide[0, -1] = 20
    assert not outliers(wide).any()  # nearly four times the median, but so are others nearly
    assert outliers(torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 3.5]])).nonzero().tolist() == [[0, 7]]


def test_distance_of_uniform_attention() -> None:
    assert uniform_distance((14, 14), (16, 16)) == pytest.approx(116.49, abs=0.005)  # VIT_SPEC 8
    assert uniform_distance((7, 7), (32, 32)) == pytest.approx(115.50, abs=0.005)
    for grid, pixels in (((2, 3), (4, 5)), ((1, 1), (8, 8))):
        n = grid[0] * grid[1]
        assert uniform_distance(grid, pixels) == pytest.approx(
            float(attention_distance(torch.full((1, 1, n, n), 1 / n), grid, pixels, 0)), rel=1e-5
        )


def test_nothing_is_kept_and_the_model_is_left_alone() -> None:
    model = drawn(dropout=0.5, attention_dropout=0.5).train()
    images = images_for(model, 8)
    survey = Survey(model)
    survey.add(images)
    once = survey.result()

    def kept() -> int:
        gc.collect()
        tensors = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and t.layout == torch.strided]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    before = kept()
    for _ in range(5):
        survey.add(images)
    assert kept() == before
    assert survey.result().distance == pytest.approx(once.distance)  # nothing was dropped at random
    assert survey.result().cka == pytest.approx(once.cka)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_images_and_weights() -> None:
    model = drawn()
    survey = Survey(model)
    with pytest.raises(UserError, match="no images were looked at"):
        survey.result()
    with pytest.raises(UserError, match="takes images of"):
        survey.add(torch.zeros(1, 3, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        model.blocks[1].mlp.fc2.bias[0] = float("inf")
    with pytest.raises(UserError, match="not finite after 2 of its"):
        survey.add(images_for(model, 2))
