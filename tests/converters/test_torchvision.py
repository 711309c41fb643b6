"""torchvision's Vision Transformer and ours, both ways."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.parity_huggingface import Row
from converters.parity_torchvision import ROWS
from peers import peer
from vitkit.converters import torchvision
from vitkit.converters.engine import decode, encode
from vitkit.models.vit import VisionTransformer
from vitkit.weights.fill import fill
from vitkit.zoo.adapt import resize


def build(**arguments: Any) -> nn.Module:
    """A model whose queries and keys are enlarged, so that attention is far from uniform."""
    module = peer("torchvision.models.vision_transformer")
    model: nn.Module = module.VisionTransformer(**arguments).eval()
    rng = torch.Generator().manual_seed(0)
    width = arguments["hidden_dim"]
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=rng)
            if tensor.ndim < 2:
                tensor.copy_((1 if "ln" in name and "weight" in name else 0) + 0.3 * noise)
            elif "pos_embedding" in name or "token" in name:
                tensor.copy_(0.7 * noise)
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
                if "in_proj" in name:
                    tensor[: 2 * width].mul_(2.5)
    return model


def read(state: dict[str, Tensor], num_heads: int = 4) -> VisionTransformer:
    normalised = torchvision.normalise(state)
    config = dataclasses.replace(torchvision.config(normalised, None), num_heads=num_heads)
    model = VisionTransformer(config).eval()
    fill(model, decode(normalised, torchvision.rules(config), "file"), "file")
    return model


def peak(model: nn.Module, images: Tensor) -> float:
    """The mean of the largest attention weight of a query, times the number of tokens."""
    found = []

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        weights = nn.MultiheadAttention.forward(module, *args, need_weights=True, average_attn_weights=False)[1]
        found.append(weights)

    handles = [layer.self_attention.register_forward_pre_hook(hook) for layer in model.encoder.layers]
    model(images)
    for handle in handles:
        handle.remove()
    weights = torch.stack(found)
    return float(weights.amax(dim=-1).mean() * weights.shape[-1])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.family}-{row.arguments['image_size']}-{row.image_size[0]}")
@torch.no_grad()
def test_their_weights_compute_the_same_here_and_ours_there(row: Row) -> None:
    module = peer("torchvision.models.vision_transformer")
    trained, size = build(**row.arguments), row.image_size[0]
    state = module.interpolate_embeddings(size, row.arguments["patch_size"], dict(trained.state_dict()))
    theirs = module.VisionTransformer(**{**row.arguments, "image_size": size}).eval()
    theirs.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = theirs(images)
    assert peak(theirs, images) > 4, "attention is near uniform, the comparison proves little"
    ours = resize(read(trained.state_dict()), row.image_size)
    assert float((ours(images) - expected).abs().max() / expected.abs().max()) <= 1e-5
    config, tensors = torchvision.prepare(ours.config, ours.state_dict())
    assert config == ours.config
    other = module.VisionTransformer(**{**row.arguments, "image_size": size}).eval()
    other.load_state_dict(encode(tensors, torchvision.rules(config)), strict=True)
    difference = (other(images) - expected).abs().max()
    assert float(difference / expected.abs().max()) <= (0 if size == row.arguments["image_size"] else 1e-5)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_the_published_sizes_are_read_whole(name: str) -> None:
    module = peer("torchvision.models.vision_transformer")
    with torch.device("meta"):
        theirs = getattr(module, name)()
        state = theirs.state_dict()
        config = torchvision.config(torchvision.normalise(state), None)
        ours = VisionTransformer(config)
        read = decode(state, torchvision.rules(config), name)
    assert config.num_heads == theirs.encoder.layers[0].num_heads
    assert {k: v.shape for k, v in read.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    weights = getattr(module, f"ViT_{name[4:].upper()}_Weights").DEFAULT.meta["num_params"]
    at_default = sum(p.numel() for p in ours.parameters())
    positions = (config.grid[0] ** 2 + 1) * config.embed_dim
    side = getattr(module, f"ViT_{name[4:].upper()}_Weights").DEFAULT.meta["min_size"][0] // config.patch_size[0]
    assert at_default - positions + (side**2 + 1) * config.embed_dim == weights
