"""Recorded attention against computations without a fused kernel, of every family of models that we load and can build.

timm's, transformers', OpenCLIP's and torchvision's models give their own weights; ours run unfused give the weights that
they multiplied; and a second model in numpy, in float64, gives those of what no other library has.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from analysis.unfused import (
    PlainWeights,
    Softmaxes,
    drawn,
    images_for,
    layer_by_loops,
    layers_of,
    multihead_weights,
    unfuse,
    with_fused,
)
from converters import huggingface_models, parity, parity_huggingface, parity_torchvision
from converters.drawn import redrawn
from peers import peer
from shared import shared_data
from vitkit.analysis.attention import pool_maps, recorded_weights
from vitkit.config import override
from vitkit.converters import dinov2, open_clip, timm, torchvision
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.data.official import load_view
from vitkit.data.sources import read_source
from vitkit.jobs.load import load
from vitkit.models.vit import VisionTransformer
from vitkit.weights.fill import fill
from vitkit.zoo.adapt import resize

FORMATS = {"dinov2": dinov2, "open_clip": open_clip}
TOLERANCE = 1e-5  # absolute, of weights that sum to 1


def assert_recorded(model: VisionTransformer, images: Tensor, theirs: list[Tensor]) -> None:
    """Fused and unfused, what we record are their weights; and they are far from uniform."""
    assert len(theirs) == model.config.depth
    for fused in (True, False):
        with with_fused(model, fused):
            ours = list(recorded_weights(model, images))
        assert [layer for layer, _ in ours] == list(range(model.config.depth))
        for (_, weights), expected in zip(ours, theirs, strict=True):
            assert weights.dtype == torch.float32
            assert weights.shape == expected.shape
            assert float((weights - expected).abs().max()) <= TOLERANCE
            assert float((weights.sum(dim=-1) - 1).abs().max()) <= TOLERANCE
    peak = float(torch.stack(theirs).amax(dim=-1).mean()) * theirs[0].shape[-1]
    assert peak > 2, "attention is near uniform, the comparison proves little"


def assert_pooled(model: VisionTransformer, images: Tensor, theirs: list[Tensor]) -> None:
    """What comes after the layers is attention pooling's, or nothing."""
    assert len(theirs) == (model.config.pool == "map")
    if theirs:
        ours = pool_maps(model, images)
        expected = theirs[0].reshape(ours.shape)
        assert float((ours - expected).abs().max()) <= TOLERANCE


def assert_own_unfused(model: VisionTransformer, images: Tensor) -> None:
    """What the model itself multiplies with where it does not fuse."""
    with with_fused(model, False), torch.no_grad(), Softmaxes() as watch:
        model(images)
    assert_recorded(model, images, watch.found)


TIMM = [row for row in parity.ROWS if row.library == "timm"]


@pytest.mark.parametrize("row", TIMM, ids=[row.family for row in TIMM])
def test_timms(row: parity.Row) -> None:
    theirs = peer("timm").create_model(row.model, img_size=row.image_size, **row.arguments).eval()
    state = redrawn(theirs.state_dict())
    if row.format == "open_clip":
        state["head.bias"].zero_()  # there the head is a projection
    theirs.load_state_dict(state)
    told = timm.read_sidecars(
        {"config.json": {"architecture": row.model, "model_args": row.arguments, "pretrained_cfg": {}}}
    ).model
    told.pop("image_size", None)
    config = override(timm.config(timm.normalise(state), row.image_size), told, "config.json")
    tensors = decode(timm.normalise(state), timm.rules(config), row.model)
    if row.format != "timm":  # the same weights by way of the layout that the publisher writes
        config, written = FORMATS[row.format].prepare(config, tensors)
        rules = FORMATS[row.format].rules(config)
        tensors = decode(FORMATS[row.format].normalise(encode(written, rules)), rules, "file")
    ours = VisionTransformer(config).eval()
    ours.load_state_dict(tensors)
    unfuse(theirs)
    images = images_for(ours)
    with torch.no_grad(), Softmaxes() as watch:
        theirs(images)
    layers, after = layers_of(watch.found, config.depth)
    assert_recorded(ours, images, layers)
    assert_pooled(ours, images, after)
    assert_own_unfused(ours, images)


@pytest.mark.parametrize(
    "row", parity_huggingface.ROWS, ids=lambda row: f"{row.family}-{row.model}-{row.image_size[0]}x{row.image_size[1]}"
)
def test_transformers(row: parity_huggingface.Row, tmp_path: Path) -> None:
    theirs, pixels = huggingface_models.build(row), huggingface_models.images(row)
    state = huggingface_models.state_of(theirs, tmp_path, "new")
    ours, _, _ = huggingface_models.read(state, huggingface_models.files_of(theirs), row.image_size)
    with Softmaxes() as watch, multihead_weights(theirs) as pooled:  # SigLIP's pooling is torch's own layer
        huggingface_models.expected(row, theirs, pixels)
    assert_recorded(ours, pixels, watch.found)
    if "with classes" not in row.family or "SigLIP" not in row.family:  # these have the pooling, and read the mean
        assert_pooled(ours, pixels, pooled)


CLIPS = [row for row in parity.ROWS if row.library == "open_clip"]


@pytest.mark.parametrize("row", CLIPS, ids=[row.family for row in CLIPS])
def test_open_clips(row: parity.Row) -> None:
    vision = {**row.arguments["vision_cfg"], "image_size": row.image_size}
    text = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1}
    quick = row.arguments.get("quick_gelu", False)
    theirs = peer("open_clip.model").CLIP(24, vision, text, quick_gelu=quick).eval()
    state = {name: tensor for name, tensor in redrawn(theirs.state_dict()).items() if name != "attn_mask"}
    theirs.load_state_dict(state, strict=True)
    kept, _ = split_ignored(open_clip.normalise(state), open_clip.IGNORE)
    told: dict[str, Any] = {
        "gelu": "quick" if quick else "erf",
        "num_heads": vision["width"] // vision.get("head_width", 64),
    }
    config = dataclasses.replace(open_clip.config(kept, row.image_size), **told)
    ours = VisionTransformer(config).eval()
    ours.load_state_dict(decode(kept, open_clip.rules(config), "x"))
    images = images_for(ours)
    with torch.no_grad(), multihead_weights(theirs.visual) as found:
        theirs.encode_image(images)
    assert_recorded(ours, images, found)


@pytest.mark.parametrize("row", parity_torchvision.ROWS, ids=lambda row: f"{row.family}-{row.arguments['image_size']}")
def test_torchvisions(row: parity_huggingface.Row) -> None:
    module = peer("torchvision.models.vision_transformer")
    trained = module.VisionTransformer(**row.arguments)
    trained.load_state_dict(redrawn(trained.state_dict()))
    state = module.interpolate_embeddings(
        row.image_size[0], row.arguments["patch_size"], dict(redrawn(trained.state_dict()))
    )
    theirs = module.VisionTransformer(**{**row.arguments, "image_size": row.image_size[0]}).eval()
    theirs.load_state_dict(state)
    normalised = torchvision.normalise(redrawn(trained.state_dict()))
    config = dataclasses.replace(torchvision.config(normalised, None), num_heads=4)
    ours = VisionTransformer(config).eval()
    fill(ours, decode(normalised, torchvision.rules(config), "file"), "file")
    ours = resize(ours, row.image_size)
    images = images_for(ours)
    with torch.no_grad(), multihead_weights(theirs) as found:
        theirs(images)
    assert_recorded(ours, images, found)


# What the files of Google, of big_vision and our own bundles hold; depth 2, 4 heads, 4 x 4 patches where nothing else is said.
OWN: dict[str, dict[str, object]] = {
    "class token": {},
    "mean pooling": {"pool": "mean", "cls_token": False},
    "mean pooling beside a class token": {"pool": "mean", "norm_after_pool": True},
    "attention pooling": {"pool": "map", "cls_token": False, "position": "sincos2d"},
    "attention pooling with registers": {"pool": "map", "registers": 2, "image_size": (64, 96)},
    "class token and mean": {"pool": "cls_mean"},
    "every token": {"pool": "none"},
    "registers": {"registers": 4, "prefix_positions": "cls", "image_size": (96, 48)},
    "distilled": {"registers": 1, "distilled": True},
    "gated": {"mlp": "swiglu", "mlp_dim": 48, "layer_scale": 1e-4},
    "pre-norm": {"pre_norm": True, "gelu": "quick", "patch_bias": False, "head_bias": False},
    "tall patches": {"patch_size": (8, 16), "image_size": (40, 80)},
    "an edge that fills no patch": {"image_size": (70, 90)},
    "2-D positions": {"position": "learned2d", "image_size": (48, 80)},
    "no positions": {"position": "none"},
    "tanh layer": {"representation_size": 12, "num_classes": 0},
    "one channel, no bias": {"in_channels": 1, "qkv_bias": False},
    "one head": {"num_heads": 1, "depth": 3},
}


@pytest.mark.parametrize("case", OWN)
def test_ours_against_numpy(case: str) -> None:
    model = drawn(**OWN[case])
    images = images_for(model)
    plain = PlainWeights(model.config, model.state_dict())
    found = [plain.of_image(image.double().numpy()) for image in images]
    stacked = [torch.from_numpy(np.stack(weights)) for weights in zip(*found, strict=True)]
    layers, after = layers_of(stacked, model.config.depth)
    assert_recorded(model, images, layers)
    assert_pooled(model, images, after)
    assert_own_unfused(model, images)


LOOPED: dict[str, dict[str, object]] = {
    "relative positions": {"position": "relative", "image_size": (32, 48)},
    "relative positions without prefix": {"position": "relative", "pool": "mean", "cls_token": False},
    "relative positions with registers": {"position": "relative", "registers": 2, "image_size": (48, 32)},
    "positions of every layer": {"position_at": "layers", "image_size": (32, 48)},
    "positions shared by all layers": {"position_at": "shared", "position": "learned2d"},
    "hybrid, root only": {"stem": (), "patch_size": (8, 8), "image_size": (64, 96)},
    "hybrid": {"stem": (1, 2), "patch_size": (2, 1), "image_size": (64, 96), "stem_numerics": "timm"},
}


@pytest.mark.parametrize("case", LOOPED)
@torch.no_grad()
def test_ours_against_loops_over_tokens(case: str) -> None:
    model = drawn(**LOOPED[case])
    images = images_for(model)
    inputs: list[Tensor] = []
    handles = [block.attn.register_forward_pre_hook(lambda _, x: inputs.append(x[0])) for block in model.blocks]
    model(images)
    for handle in handles:
        handle.remove()
    layers = [
        torch.from_numpy(np.stack([layer_by_loops(block.attn, one, model.config.grid) for one in x]))
        for block, x in zip(model.blocks, inputs, strict=True)
    ]
    assert_recorded(model, images, layers)
    assert_own_unfused(model, images)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("case", ["class token", "attention pooling with registers"])
@torch.no_grad()
def test_in_bfloat16_weights_are_those_of_the_queries_and_keys_that_the_model_had(case: str, fused: bool) -> None:
    model = drawn(**OWN[case])
    images, depth, K = images_for(model), model.config.depth, model.config.num_heads
    kept: list[Tensor] = []
    handles = [block.attn.qkv.register_forward_hook(lambda _, __, out: kept.append(out)) for block in model.blocks]
    pool: list[Tensor] = []
    if model.map_pool is not None:
        for part in (model.map_pool.q, model.map_pool.kv):
            handles.append(part.register_forward_hook(lambda _, __, out: pool.append(out)))
    with torch.autocast("cpu", torch.bfloat16), with_fused(model, fused):
        model(images)
    for handle in handles:
        handle.remove()
    assert kept[0].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16), with_fused(model, fused):
        ours = [weights for _, weights in recorded_weights(model, images)]
        maps = None if model.map_pool is None else pool_maps(model, images)
    with torch.autocast("cpu", torch.bfloat16), with_fused(model, False), Softmaxes() as watch:
        model(images)
    for weights, qkv, rounded in zip(ours, kept, watch.found[:depth], strict=True):
        parts = qkv.double().unflatten(-1, (3, K, -1)).permute(2, 0, 3, 1, 4)  # (3, B, K, N, d)
        expected = (parts[0] @ parts[1].mT / parts[0].shape[-1] ** 0.5).softmax(dim=-1)
        assert weights.dtype == torch.float32
        assert float((weights - expected).abs().max()) <= TOLERANCE
        if not fused:
            assert float((weights - rounded).abs().max()) <= 0.05  # logits and weights of 8 bits there
    if maps is not None:
        q, kv = (x.double() for x in pool)
        q = q.reshape(1, K, 1, -1)
        k = kv[..., : kv.shape[-1] // 2].unflatten(-1, (K, -1)).transpose(1, 2)
        expected = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)[:, :, 0]
        assert float((maps.flatten(2) - expected).abs().max()) <= TOLERANCE


@torch.no_grad()
def test_a_model_held_in_bfloat16_is_read_too() -> None:
    for changes in (OWN["class token"], OWN["attention pooling"], LOOPED["relative positions"]):
        model = drawn(**changes).bfloat16()
        images = images_for(model).bfloat16()
        for _, weights in recorded_weights(model, images):
            assert weights.dtype == torch.float32
            assert float((weights.sum(dim=-1) - 1).abs().max()) <= TOLERANCE
        if model.map_pool is not None:
            assert pool_maps(model, images).dtype == torch.float32


@pytest.mark.slow
@torch.no_grad()
def test_a_trained_model_on_photographs() -> None:
    """Rounding grows through trained layers: unfused in float32 it is 2e-5 away from itself in float64, at 16 images.

    So the layer is held to the bound, and the model unfused; fused, the model is another one by as little as that.
    """
    bundle = load(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))
    model, record = bundle.model, bundle.require_preprocess()
    split = next(iter(read_source(shared_data("imagenet_sample")).splits.values()))
    images = torch.stack([torch.from_numpy(load_view(sample.source, record)).movedim(-1, 0) for sample in split[:2]])
    theirs = peer("timm").create_model("deit_tiny_patch16_224").eval()
    theirs.load_state_dict(load_file(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors")))
    unfuse(theirs)
    with Softmaxes() as watch:
        theirs(images)
    kept: list[Tensor] = []
    handles = [block.attn.qkv.register_forward_hook(lambda _, __, out: kept.append(out)) for block in model.blocks]
    for fused, bound in ((False, 1e-6), (True, 2e-5)):
        kept.clear()
        with with_fused(model, fused):
            ours = list(recorded_weights(model, images))
        for (layer, weights), qkv, expected in zip(ours, kept, watch.found, strict=True):
            q, k, _ = qkv.double().unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)
            of_these = (q @ k.mT / 8).softmax(dim=-1)
            assert float((weights - of_these).abs().max()) <= 5e-6, layer  # logits of 30 are themselves rounded
            assert float((weights - expected).abs().max()) <= bound, layer
    for handle in handles:
        handle.remove()
