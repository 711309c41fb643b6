"""The original DINOv2 files against timm, which converts them with code of its own, and what their code says of sizes."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.drawn import assert_close, redrawn, sharpness
from converters.parity import ROWS, Row
from peers import peer
from vitkit.config import UserError
from vitkit.converters import dinov2, google, open_clip, timm
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.models.positions import resample_positions
from vitkit.models.vit import VisionTransformer, ViTConfig

FORMATS = (dinov2, google, open_clip, timm)
ORIGINAL = [row for row in ROWS if row.format == "dinov2"]


def original_state(model: nn.Module) -> dict[str, Tensor]:
    """Random tensors by the original names, of the sizes of a timm model."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    gated = "swiglu" if shapes["blocks.0.mlp.fc1.weight"][0] == 2 * shapes["blocks.0.mlp.fc2.weight"][1] else ""
    named = {}
    for name, shape in shapes.items():
        if gated:
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        if name == "pos_embed" and "reg_token" in shapes:
            shape = (1, shape[1] + 1, shape[2])  # the cls token has a row of its own
        named[name.replace("reg_token", "register_tokens")] = torch.empty(shape)
    return redrawn(named | {"mask_token": torch.empty(1, named["cls_token"].shape[2])})


@cache
def drawn(number: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """timm's model with an original file as timm reads it, and that file."""
    row = ORIGINAL[number]
    model = peer("timm").create_model(row.model, img_size=row.image_size, **row.arguments).eval()
    state = original_state(model)
    model.load_state_dict(as_timm_reads(model, state), strict=True)
    return model, state


def as_timm_reads(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    convert = peer("timm.models.vision_transformer").checkpoint_filter_fn
    return convert(dict(state), model)


def read(row: Row, state: dict[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    kept, ignored = split_ignored(dinov2.normalise(state), dinov2.IGNORE)
    assert ignored == ["mask_token"]
    config = dinov2.config(kept, row.image_size)
    return dataclasses.replace(config, num_heads=row.arguments["num_heads"]), kept


@pytest.mark.parametrize("number", range(len(ORIGINAL)), ids=[row.family for row in ORIGINAL])
@torch.no_grad()
def test_an_original_file_gives_the_numbers_that_timm_gives(number: int) -> None:
    row = ORIGINAL[number]
    theirs, state = drawn(number)
    assert [f.NAME for f in FORMATS if f.matches(frozenset(state))] == ["dinov2"]
    config, kept = read(row, state)
    ours = VisionTransformer(config).eval()
    ours.load_state_dict(decode(kept, dinov2.rules(config), "x"))
    images = torch.randn(2, 3, *row.image_size, generator=torch.Generator().manual_seed(1))
    prefix, patches = ours.forward_features(images)
    assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), theirs.forward_features(images))
    assert_close(ours(images), theirs(images))
    assert sharpness(ours, images) > 5


@pytest.mark.parametrize("number", range(len(ORIGINAL)), ids=[row.family for row in ORIGINAL])
def test_what_is_written_is_the_file_to_the_last_bit_and_timm_reads_it(number: int) -> None:
    row = ORIGINAL[number]
    theirs, state = drawn(number)
    config, kept = read(row, state)
    ours = decode(kept, dinov2.rules(config), "x")
    prepared, tensors = dinov2.prepare(config, ours)
    assert prepared == config
    written = encode(tensors, dinov2.rules(config))
    assert set(written) == set(kept)
    assert all(torch.equal(written[name], kept[name]) for name in kept)
    theirs.load_state_dict(as_timm_reads(theirs, written | {"mask_token": state["mask_token"]}), strict=True)


@pytest.mark.parametrize("number", range(len(ORIGINAL)), ids=[row.family for row in ORIGINAL])
@torch.no_grad()
def test_an_original_file_is_written_in_timms_layout_without_changing_the_function(number: int) -> None:
    row = ORIGINAL[number]
    theirs, state = drawn(number)
    config, kept = read(row, state)
    prepared, tensors = timm.prepare(config, decode(kept, dinov2.rules(config), "x"))
    written = encode(tensors, timm.rules(prepared))
    assert set(written) == set(theirs.state_dict())
    assert all(torch.equal(written[name], tensor) for name, tensor in theirs.state_dict().items())
    back, again = dinov2.prepare(prepared, tensors)  # and from timm's layout in this one
    assert set(encode(again, dinov2.rules(back))) == set(kept)
    model = VisionTransformer(back).eval()
    model.load_state_dict(again)
    images = torch.randn(1, 3, *row.image_size, generator=torch.Generator().manual_seed(1))
    assert_close(model(images), theirs(images))


def tiny(**changes: object) -> ViTConfig:
    base = ViTConfig(
        embed_dim=64, depth=4, num_heads=1, mlp_dim=24, patch_size=(4, 4), image_size=(12, 12), num_classes=0,
        registers=4, prefix_positions="cls", position_rule="bicubic_antialias", gelu="erf", layer_scale=1.0,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def written(config: ViTConfig) -> dict[str, Tensor]:
    return encode(redrawn(VisionTransformer(config).state_dict()), dinov2.rules(config))


@pytest.mark.parametrize(
    "changes",
    [{}, {"registers": 0, "prefix_positions": "all", "position_rule": "bicubic_offset"}, {"mlp": "swiglu"}],
    ids=str,
)
def test_the_configuration_is_read_off_meta_tensors(changes: dict[str, object]) -> None:
    config = tiny(**changes)
    meta = {name: torch.empty(tensor.shape, device="meta") for name, tensor in written(config).items()}
    assert dinov2.config(meta, None) == config
    assert dinov2.config(meta, (12, 12)) == config


@pytest.mark.parametrize("chunks", [1, 2])
def test_training_checkpoints_keep_blocks_in_chunks_and_the_teacher_has_heads(chunks: int) -> None:
    state = written(tiny())
    size = 4 // chunks
    heads = {f"{name}_head.last_layer.weight_v": torch.ones(2) for name in ("dino", "ibot")}
    file = {}
    for name, tensor in state.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        chunk = f"blocks.{int(block[1]) // size}." if block else ""
        file["backbone." + (chunk + name.removeprefix("blocks.") if block else name)] = tensor
    file |= heads | {"backbone.mask_token": torch.zeros(1, 64)}
    assert [f.NAME for f in FORMATS if f.matches(frozenset(file))] == ["dinov2"]
    kept, ignored = split_ignored(dinov2.normalise(file), dinov2.IGNORE)
    assert set(ignored) == {*heads, "mask_token"}
    assert set(kept) == set(state)
    assert all(torch.equal(kept[name], state[name]) for name in state)


def test_a_file_without_any_name_of_its_own_is_timms() -> None:
    state = written(tiny(registers=0, prefix_positions="all"))
    assert [f.NAME for f in FORMATS if f.matches(frozenset(state))] == ["timm"]
    assert [f.NAME for f in FORMATS if f.matches(frozenset(state) | {"mask_token"})] == ["dinov2"]


@pytest.mark.parametrize("registers", [0, 4])
def test_positions_are_resampled_as_the_published_code_does(registers: int) -> None:
    """The original resamples from a square table: by a factor with 0.1 added, or with antialias where there are registers.

    Source: facebookresearch/dinov2, `interpolate_pos_encoding` in dinov2/models/vision_transformer.py.
    """
    state = written(tiny(registers=registers, prefix_positions="cls" if registers else "all", image_size=(28, 28)))
    file = state | {"mask_token": torch.zeros(1, 64)}
    config = dinov2.config(split_ignored(dinov2.normalise(file), dinov2.IGNORE)[0], None)
    table = state["pos_embed"]
    for h, w in ((5, 9), (14, 3), (8, 8)):
        side = int(math.sqrt(table.shape[1] - 1))
        grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if registers:
            grid = F.interpolate(grid, size=(h, w), mode="bicubic", antialias=True)
        else:
            grid = F.interpolate(grid, scale_factor=((h + 0.1) / side, (w + 0.1) / side), mode="bicubic")
        expected = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, h * w, -1)], dim=1)
        got = resample_positions(table, (side, side), (h, w), config.position_prefix, config.position_rule)
        assert torch.equal(got, expected)


def test_what_the_original_code_has_not_is_not_written() -> None:
    for changes in (
        {"num_classes": 3},
        {"pre_norm": True},
        {"pool": "map"},
        {"norm_after_pool": True, "pool": "mean"},
        {"stem": (), "patch_size": (1, 1)},
        {"num_classes": 3, "registers": 1, "distilled": True},
        {"representation_size": 8},
    ):
        config = tiny(**changes)
        with pytest.raises(UserError, match="no place for"):
            encode(VisionTransformer(config).state_dict(), dinov2.rules(config))


def test_other_architectures_and_missing_tensors_are_named() -> None:
    state = written(tiny())
    dinov3 = {name: t for name, t in state.items() if name != "pos_embed"} | {"rope_embed.periods": torch.ones(4)}
    assert dinov2.matches(frozenset(dinov3))
    with pytest.raises(UserError, match=r"DINOv2 weights with rope_embed\.periods have rotary positions"):
        dinov2.config(dinov3, None)
    beit = state | {"blocks.0.attn.q_bias": torch.ones(4)}
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.q_bias have BEiT's or EVA's attention"):
        dinov2.config(beit, None)
    for gone in ("blocks.2.ls1.gamma", "norm.bias", "cls_token", "patch_embed.proj.bias"):
        left = {name: tensor for name, tensor in state.items() if name != gone}
        with pytest.raises(UserError, match=gone.replace(".", r"\.")):
            decode(left, dinov2.rules(dinov2.config(left, (12, 12))), "x")
    wrapped = dinov2.normalise({f"backbone.{name}": t for name, t in state.items()} | {"head.weight": torch.ones(1)})
    config = dinov2.config(wrapped, None)
    with pytest.raises(UserError, match=r"Unexpected \(1\): \(outside\) head\.weight"):
        decode(wrapped, dinov2.rules(config), "x")
