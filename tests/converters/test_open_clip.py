"""OpenCLIP's image towers against ours, whole models with their text tower, and OpenAI's files as timm reads them."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.drawn import assert_close, redrawn, sharpness
from converters.parity import ROWS, Row
from peers import peer
from vitkit.config import UserError
from vitkit.converters import dinov2, google, open_clip, timm
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.models.vit import VisionTransformer, ViTConfig

FORMATS = (dinov2, google, open_clip, timm)
CLIPS = [row for row in ROWS if row.library == "open_clip"]
TEXT = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1}


@cache
def drawn(number: int) -> tuple[nn.Module, dict[str, Tensor]]:
    row = CLIPS[number]
    vision = {**row.arguments["vision_cfg"], "image_size": row.image_size}
    module = peer("open_clip.model")
    model = module.CLIP(24, vision, TEXT, quick_gelu=row.arguments.get("quick_gelu", False)).eval()
    state = {name: tensor for name, tensor in redrawn(model.state_dict()).items() if name != "attn_mask"}
    model.load_state_dict(state, strict=True)
    return model, state


def told(row: Row) -> dict[str, Any]:
    vision = row.arguments["vision_cfg"]
    gelu = "quick" if row.arguments.get("quick_gelu") else "erf"
    return {"gelu": gelu, "num_heads": vision["width"] // vision.get("head_width", 64)}


def read(row: Row, state: dict[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    kept, _ = split_ignored(open_clip.normalise(state), open_clip.IGNORE)
    return dataclasses.replace(open_clip.config(kept, row.image_size), **told(row)), kept


def images_of(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("number", range(len(CLIPS)), ids=[row.family for row in CLIPS])
@torch.no_grad()
def test_a_whole_model_gives_its_image_embeddings(number: int) -> None:
    row = CLIPS[number]
    theirs, state = drawn(number)
    assert [f.NAME for f in FORMATS if f.matches(frozenset(state))] == ["open_clip"]
    config, kept = read(row, state)
    assert all(name.startswith("visual.") for name in kept)
    ours = VisionTransformer(config).eval()
    ours.load_state_dict(decode(kept, open_clip.rules(config), "x"))
    images = images_of(row.image_size)
    assert_close(ours(images), theirs.encode_image(images))
    assert sharpness(ours, images) > 5
    if not config.norm_after_pool:
        _, tokens = theirs.visual._pool(theirs.visual.transformer(theirs.visual._embeds(images)))
        assert_close(ours.forward_features(images).patches.flatten(1, 2), tokens)


@pytest.mark.parametrize("number", range(len(CLIPS)), ids=[row.family for row in CLIPS])
@torch.no_grad()
def test_the_image_tower_is_written_to_the_last_bit_and_loads_strictly(number: int) -> None:
    row = CLIPS[number]
    theirs, state = drawn(number)
    config, kept = read(row, state)
    prepared, tensors = open_clip.prepare(config, decode(kept, open_clip.rules(config), "x"))
    assert prepared == config
    written = encode(tensors, open_clip.rules(config))
    assert set(written) == set(kept)
    assert all(torch.equal(written[name], kept[name]) for name in kept)
    before = theirs.encode_image(images_of(row.image_size))
    tower = {name.removeprefix("visual."): tensor for name, tensor in written.items()}
    theirs.visual.load_state_dict(tower, strict=True)
    assert torch.equal(theirs.encode_image(images_of(row.image_size)), before)


@pytest.mark.parametrize("number", range(len(CLIPS)), ids=[row.family for row in CLIPS])
def test_the_configuration_is_read_off_meta_tensors(number: int) -> None:
    row = CLIPS[number]
    kept, _ = split_ignored(open_clip.normalise(drawn(number)[1]), open_clip.IGNORE)
    meta = {name: torch.empty(tensor.shape, device="meta") for name, tensor in kept.items()}
    assert open_clip.config(meta, row.image_size) == open_clip.config(kept, row.image_size)


@torch.no_grad()
def test_openais_files_give_the_numbers_that_timm_gives() -> None:
    """timm reads them with code of its own, and its model is the same one with a bias of zeros on the projection."""
    row = next(row for row in ROWS if row.format == "open_clip" and row.library == "timm")
    model = peer("timm").create_model(row.model, img_size=row.image_size, **row.arguments).eval()
    config = tiny(image_size=row.image_size, num_classes=11)
    config = dataclasses.replace(
        config, depth=3, embed_dim=64, num_heads=4, mlp_dim=256, patch_size=(16, 16), gelu="quick"
    )
    state = redrawn(encode(VisionTransformer(config).state_dict(), open_clip.rules(config)))
    text = {"logit_scale": torch.ones(()), "text_projection": torch.ones(2, 2), "ln_final.weight": torch.ones(2)}
    numbers = {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}
    file = (
        state
        | text
        | numbers
        | {"positional_embedding": torch.ones(2, 2), "transformer.resblocks.0.ln_1.bias": torch.ones(2)}
    )
    convert = peer("timm.models.vision_transformer").checkpoint_filter_fn
    model.load_state_dict(convert(dict(file), model), strict=True)
    assert [f.NAME for f in FORMATS if f.matches(frozenset(file))] == ["open_clip"]
    kept, ignored = split_ignored(open_clip.normalise(file), open_clip.IGNORE)
    assert len(ignored) == 8
    assert dataclasses.replace(open_clip.config(kept, row.image_size), num_heads=4, gelu="quick") == config
    ours = VisionTransformer(config).eval()
    tensors = decode(kept, open_clip.rules(config), "x")
    ours.load_state_dict(tensors)
    images = images_of(row.image_size)
    assert_close(ours(images), model(images))
    assert sharpness(ours, images) > 5
    prepared, folded = timm.prepare(config, tensors)  # written in timm's layout, and back
    assert set(encode(folded, timm.rules(prepared))) == set(model.state_dict())
    back, again = open_clip.prepare(prepared, folded)
    assert back == config
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def tiny(**changes: object) -> ViTConfig:
    base = ViTConfig(
        embed_dim=64, depth=2, num_heads=1, mlp_dim=24, patch_size=(4, 4), image_size=(12, 12), num_classes=5,
        position_rule="bicubic_antialias", gelu="erf", norm_eps=1e-5, pre_norm=True, patch_bias=False, head_bias=False,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def written(config: ViTConfig) -> dict[str, Tensor]:
    return encode(redrawn(VisionTransformer(config).state_dict()), open_clip.rules(config))


@pytest.mark.parametrize("changes", [{}, {"num_classes": 0, "head_bias": True}, {"layer_scale": 1e-5}], ids=str)
@pytest.mark.parametrize("prefix", ["visual.", "module.visual.", "", "model.visual."])
def test_wrappers_and_a_bare_tower_read_alike(prefix: str, changes: dict[str, object]) -> None:
    config = tiny(**changes)
    state = written(config)
    outer = prefix.removesuffix("visual.")
    file = {prefix + name.removeprefix("visual."): tensor for name, tensor in state.items()}
    if prefix:
        file |= {f"{outer}{name}": torch.ones(2) for name in ("logit_scale", "text.x", "token_embedding.weight")}
    assert [f.NAME for f in FORMATS if f.matches(frozenset(file))] == ["open_clip"]
    kept, ignored = split_ignored(open_clip.normalise(file), open_clip.IGNORE)
    assert len(ignored) == (3 if prefix else 0)
    assert set(kept) == set(state)
    assert open_clip.config(kept, None) == config


def test_missing_and_left_over_tensors_are_named() -> None:
    state = written(tiny())
    for gone in ("visual.transformer.resblocks.1.attn.in_proj_bias", "visual.ln_post.weight", "visual.ln_pre.bias"):
        left = {name: tensor for name, tensor in state.items() if name != gone}
        with pytest.raises(UserError, match=rf"Missing \(1\): {gone}\."):
            decode(left, open_clip.rules(open_clip.config(left, None)), "x")
    extra = state | {"visual.transformer.resblocks.0.attn.q_norm.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"Unexpected \(1\): visual\.transformer\.resblocks\.0\.attn\.q_norm\.weight"):
        decode(extra, open_clip.rules(open_clip.config(extra, None)), "x")
    with pytest.raises(UserError, match=r"visual\.attn_pool\.query pool by attention of several queries \(CoCa\)"):
        open_clip.config(state | {"visual.attn_pool.query": torch.ones(1)}, None)
    with pytest.raises(UserError, match=r"6 patch positions are not a square grid.*source_image_size"):
        open_clip.config(written(tiny(image_size=(8, 12))), None)


def test_other_files_of_clip_are_not_taken_for_it() -> None:
    resnet = {"visual.conv1.weight", "visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding"}
    hub = {"vision_model.embeddings.class_embedding", "vision_model.embeddings.patch_embedding.weight"}
    for names in (resnet, hub):
        assert not any(f.matches(frozenset(names)) for f in FORMATS)


def test_what_openclip_has_not_is_not_written() -> None:
    for changes in ({"mlp": "swiglu"}, {"patch_bias": True}, {"head_bias": True}, {"registers": 2}, {"pool": "map"}):
        config = tiny(**changes)
        with pytest.raises(UserError, match="no place for"):
            encode(VisionTransformer(config).state_dict(), open_clip.rules(config))
    config = tiny(qkv_bias=False)
    with pytest.raises(UserError, match=r"needs blocks\.0\.attn\.qkv\.bias"):
        encode(VisionTransformer(config).state_dict(), open_clip.rules(config))
    prepared, tensors = open_clip.prepare(
        *timm.prepare(tiny(head_bias=True), VisionTransformer(tiny(head_bias=True)).state_dict())
    )
    assert prepared.head_bias  # a bias that is not of zeros stays, and is refused
    with pytest.raises(UserError, match=r"no place for head\.bias"):
        encode(tensors, open_clip.rules(prepared))
