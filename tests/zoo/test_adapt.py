"""The same weights at other image sizes, patch sizes and channel counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from vitkit.config import UserError
from vitkit.models.positions import resample_axis, resample_positions
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.adapt import adapt_channels, resize


def model_of(**changes: object) -> VisionTransformer:
    base = ViTConfig(
        embed_dim=32, depth=2, num_heads=2, mlp_dim=48, patch_size=(4, 4), image_size=(16, 16), num_classes=5
    )
    model = VisionTransformer(dataclasses.replace(base, **changes))  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    return model.eval()


def test_positions_follow_the_rule_and_the_prefix_of_the_configuration() -> None:
    model = model_of(registers=2, prefix_positions="cls", position_rule="bicubic")
    sized = resize(model, (24, 32))
    assert sized.config.grid == (6, 8)
    expected = resample_positions(model.pos_embed, (4, 4), (6, 8), 1, "bicubic")
    assert torch.equal(sized.pos_embed, expected)
    assert torch.equal(sized.registers, model.registers)
    assert sized(torch.randn(1, 3, 24, 32)).shape == (1, 5)


def test_the_original_keeps_its_own_tensors() -> None:
    model = model_of()
    sized = resize(model, 24)
    sized.head.weight.data.zero_()
    assert model.head.weight.any()
    assert all(p.requires_grad for p in sized.parameters())
    assert resize(model, 16) is model


def test_two_dimensional_positions_are_resampled_along_their_axes() -> None:
    model = model_of(position="learned2d")
    sized = resize(model, (8, 24))
    assert (sized.pos_y.shape, sized.pos_x.shape) == ((1, 2, 16), (1, 6, 16))
    assert torch.equal(sized.pos_y, resample_positions(model.pos_y, (4, 1), (2, 1), 0, model.config.position_rule))


@pytest.mark.parametrize("position", ["learned", "learned2d"])
def test_positions_of_every_layer_are_resampled(position: str) -> None:
    model = model_of(position=position, position_at="layers", depth=3, registers=1)
    sized = resize(model, (8, 24))
    grid, rule = (2, 6), model.config.position_rule
    if position == "learned":
        assert sized.pos_embed.shape == (3, 2 + 12, 32)
        for own, new in zip(model.pos_embed.split(1), sized.pos_embed.split(1), strict=True):
            torch.testing.assert_close(new, resample_positions(own, (4, 4), grid, 2, rule))
    else:
        assert (sized.pos_y.shape, sized.pos_x.shape) == ((3, 2, 16), (3, 6, 16))
        for own, new in zip(model.pos_x.split(1), sized.pos_x.split(1), strict=True):
            torch.testing.assert_close(new, resample_axis(own, 6, rule))
    assert sized(torch.randn(1, 3, 8, 24)).shape == (1, 5)


def test_relative_positions_stay_at_their_grid() -> None:
    model = model_of(position="relative", registers=1)
    with pytest.raises(UserError, match=r"relative positions of a 4x4 grid.* grid of 8x6\. Run it at 16x16 pixels"):
        resize(model, (32, 24))
    sized = resize(model, 32, patch_size=8)  # the same grid
    assert torch.equal(sized.blocks[1].attn.relative, model.blocks[1].attn.relative)
    assert sized(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_a_larger_patch_gives_an_enlarged_image_the_tokens_it_had() -> None:
    model = model_of()
    sized = resize(model, 32, patch_size=8)
    assert sized.config.grid == model.config.grid
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    # enlarged patch by patch, as the method defines it
    patches = F.unfold(image, 4, stride=4).transpose(1, 2).reshape(-1, 3, 4, 4)
    large = F.interpolate(patches, size=(8, 8), mode="bilinear", antialias=True)
    large_image = F.fold(large.reshape(2, 16, 192).transpose(1, 2), (32, 32), 8, stride=8)
    with torch.no_grad():
        torch.testing.assert_close(sized(large_image), model(image), atol=1e-4, rtol=1e-4)


def test_a_smaller_patch_keeps_the_image_size_and_makes_more_tokens() -> None:
    sized = resize(model_of(), 16, patch_size=2)
    assert (sized.config.grid, sized.pos_embed.shape) == ((8, 8), (1, 65, 32))


def test_a_hybrid_takes_other_channels_in_its_root() -> None:
    model = model_of(stem=(1,), patch_size=(1, 1))
    gray = adapt_channels(model, 1)
    assert torch.equal(gray.stem.conv_root.weight, model.stem.conv_root.weight.sum(1, keepdim=True))
    assert gray(torch.randn(1, 1, 16, 16)).shape == (1, 5)
    with pytest.raises(UserError, match="only a model of RGB images"):
        adapt_channels(gray, 2)
