"""Our models against transformers' own, both ways: its names read here, our folders loaded by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from converters.huggingface_models import build, expected, files_of, images, quiet, read, state_of, tokens, write
from converters.parity_huggingface import ROWS, Row
from vitkit.converters.engine import decode, split_ignored
from vitkit.converters.formats import formats
from vitkit.converters.targets import family_for
from vitkit.models.vit import VisionTransformer

IDS = [f"{row.family}-{row.model}-{row.image_size[0]}x{row.image_size[1]}" for row in ROWS]
TOLERANCE = 1e-5  # of the output's scale: measured at most 1.2e-6, and at least 8e-5 with the GELU of another family


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |difference| over the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("spelling", ["new", "old"])
@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_their_weights_compute_the_same_here(row: Row, spelling: str, tmp_path: Path) -> None:
    model, pixels = build(row), images(row)
    ours, _, _ = read(state_of(model, tmp_path, spelling), files_of(model), row.image_size)
    theirs, peak = expected(row, model, pixels)
    assert peak > 4, "attention is near uniform, the comparison proves little"
    with torch.no_grad():
        features = ours.forward_features(pixels)
        assert apart(ours.forward_head(features), theirs) <= TOLERANCE
    settings = getattr(model.config, "vision_config", model.config)
    assert ours.config.norm_eps == settings.layer_norm_eps  # too small a thing to be seen in the output
    if (all_tokens := tokens(row, model, pixels)) is not None:
        own = torch.cat([features.prefix, features.patches.flatten(1, 2)], dim=1)
        assert apart(own, all_tokens) <= TOLERANCE


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_their_own_loader_takes_our_folder_and_computes_the_same(row: Row, tmp_path: Path) -> None:
    model = build(row)
    ours, module, _ = read(state_of(model, tmp_path, "new"), files_of(model))
    assert family_for(ours.config) is module
    theirs = write(ours, module, tmp_path / "written")
    written = Row(row.family, row.library, type(theirs).__name__, row.arguments, row.image_size)
    pixels = images(row)
    assert apart(expected(written, theirs, pixels)[0], expected(row, model, pixels)[0]) <= TOLERANCE
    again, same_module, ignored = read(state_of(theirs, tmp_path, "old"), files_of(theirs))
    assert same_module is module
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values(), strict=True))
    assert ignored in ([], ["(unused) embeddings.mask_token"])


B, L = (768, 12, 12, 3072), (1024, 24, 16, 4096)
PUBLISHED: dict[str, tuple[str, tuple[int, int, int, int], dict[str, Any]]] = {  # sizes of the hub's config.json
    "google/vit-base-patch16-384": ("ViTForImageClassification", B, {"image_size": 384, "num_labels": 1000}),
    "google/vit-huge-patch14-224-in21k": ("ViTModel", (1280, 32, 16, 5120), {"patch_size": 14}),
    "facebook/deit-tiny-distilled-patch16-224": ("DeiTForImageClassificationWithTeacher", (192, 12, 3, 768), {}),
    "facebook/vit-mae-large": ("ViTMAEForPreTraining", L, {}),
    "facebook/dinov2-small": ("Dinov2Model", (384, 12, 6, 1536), {"image_size": 518, "patch_size": 14}),
    "facebook/dinov2-giant": (
        "Dinov2Model",
        (1536, 40, 24, 6144),
        {"image_size": 518, "patch_size": 14, "use_swiglu_ffn": True},
    ),
    "facebook/dinov2-with-registers-base": (
        "Dinov2WithRegistersModel",
        B,
        {"image_size": 518, "patch_size": 14, "num_register_tokens": 4},
    ),
    "openai/clip-vit-large-patch14-336": (
        "CLIPVisionModelWithProjection",
        L,
        {"image_size": 336, "patch_size": 14, "projection_dim": 768},
    ),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": (
        "CLIPVisionModelWithProjection",
        (1280, 32, 16, 5120),
        {"patch_size": 14, "projection_dim": 1024},
    ),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": ("CLIPVisionModel", (1664, 48, 16, 8192), {"patch_size": 14}),
    "google/siglip-so400m-patch14-384": (
        "SiglipVisionModel",
        (1152, 27, 16, 4304),
        {"image_size": 384, "patch_size": 14},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_read_whole_without_values(name: str) -> None:
    model, (width, depth, heads, mlp_dim), arguments = PUBLISHED[name]
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    sizes |= {"mlp_ratio": mlp_dim // width} if "Dinov2" in model else {"intermediate_size": mlp_dim}
    with quiet() as library, torch.device("meta"):
        class_ = getattr(library, model)
        theirs = class_(class_.config_class(**sizes, **arguments))
    (module,) = [module for module in formats() if module.matches(frozenset(theirs.state_dict()))]
    state, _ = split_ignored(module.normalise(theirs.state_dict()), module.IGNORE)
    config = module.config(state, None)
    assert config.num_heads == heads
    read = decode(state, module.rules(config), name)
    with torch.device("meta"):
        own = VisionTransformer(config).state_dict()
    assert {k: v.shape for k, v in read.items()} == {k: v.shape for k, v in own.items()}
    assert family_for(config) is module
