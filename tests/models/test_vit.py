"""The model against the reference: golden vectors, parameter counts, initialisation (VIT_SPEC 1 and 11)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from golden import golden_config, golden_image, golden_state
from plain import Plain
from vitkit.config import UserError
from vitkit.converters import google
from vitkit.converters.engine import decode
from vitkit.models.vit import Attention, VisionTransformer, ViTConfig
from vitkit.zoo.record import count_parameters

# name -> size, changes, parameters at 224 with 1000 classes: the official unit test's values (VIT_SPEC 1.1)
OFFICIAL = {
    "ViT-Ti_16": ("Ti/16", {}, 5_717_416),
    "ViT-S_16": ("S/16", {}, 22_050_664),
    "ViT-S_32": ("S/32", {}, 22_878_952),
    "ViT-B_8": ("B/8", {}, 86_576_872),
    "ViT-B_16": ("B/16", {}, 86_567_656),
    "ViT-B_32": ("B/32", {}, 88_224_232),
    "ViT-L_16": ("L/16", {}, 304_326_632),
    "ViT-L_32": ("L/32", {}, 306_535_400),
    "ViT-H_14": ("H/14", {}, 632_045_800),
    "ViT-S_16-gap-norep": ("S/16", {"pool": "mean", "cls_token": False}, 22_049_896),
    "ViT-B_16-gap-norep": ("B/16", {"pool": "mean", "cls_token": False}, 86_566_120),
    "ViT-S_32-gap-norep": ("S/32", {"pool": "mean", "cls_token": False}, 22_878_184),
    "ViT-B_32-gap-norep": ("B/32", {"pool": "mean", "cls_token": False}, 88_222_696),
    "testing": ("Ti/16", {"embed_dim": 10, "mlp_dim": 10, "num_heads": 2, "depth": 1}, 21_390),
    "testing-unpooled": (
        "Ti/16",
        {"embed_dim": 10, "mlp_dim": 10, "num_heads": 2, "depth": 1, "pool": "none", "cls_token": False},
        21_370,
    ),
}
GOLDEN = {
    "G1": (
        {},
        [
            [-0.066155, -2.081751, -1.134842, -0.442081, -0.058782],
            [-0.175514, -1.671000, -0.637034, -0.290550, -0.318304],
        ],
    ),
    "G1 with erf GELU": ({"gelu": "erf"}, [[-0.066241, -2.081869, -1.134909, -0.441983, -0.058709]]),
    "G2": (
        {"representation_size": 48},
        [[-1.047176, -1.335025, 0.289128, 1.475547, 1.233105], [-0.662167, -0.923790, 0.410419, 1.077064, 0.775541]],
    ),
    "G3": (
        {"pool": "mean", "cls_token": False},
        [[-0.038097, 0.079475, 0.009387, 0.187979, 0.011244], [-0.046546, 0.029920, -0.074894, 0.214529, 0.125022]],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("fused", [True, False])
def test_golden_vectors(name: str, fused: bool) -> None:
    changes, expected = GOLDEN[name]
    config = golden_config(**changes)
    model = VisionTransformer(config).eval()
    model.load_state_dict(decode(golden_state(config), google.rules(config), name))
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = fused
    with torch.no_grad():
        logits = model(golden_image(2, 64)).numpy()
    np.testing.assert_allclose(logits[: len(expected)], expected, atol=1e-4)


def test_the_golden_file_has_the_stated_size() -> None:
    state = golden_state(golden_config())
    assert len(state) == 40
    assert sum(tensor.numel() for tensor in state.values()) == 117_765


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameter_counts_of_every_official_plain_variant(name: str) -> None:
    size, changes, parameters = OFFICIAL[name]
    with torch.device("meta"):
        model = VisionTransformer(ViTConfig.named(size, **changes))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_rectangular_images_and_any_patch_size() -> None:
    config = golden_config(image_size=(50, 96), patch_size=(12, 16))
    model = VisionTransformer(config).eval()
    model.init_weights(0)
    features = model.forward_features(torch.zeros(2, 3, 50, 96))
    assert features.prefix.shape == (2, 1, 64)
    assert features.patches.shape == (2, 4, 6, 64)  # the last 2 rows of pixels are dropped, as the reference does
    assert model(torch.zeros(2, 3, 50, 96)).shape == (2, 5)


def test_patch_rows_run_left_to_right_then_down() -> None:
    config = golden_config(image_size=(32, 48), depth=1)
    model = VisionTransformer(config).eval()
    model.init_weights(0)
    image = torch.zeros(1, 3, 32, 48)
    image[:, :, 16:, 32:] = 1.0  # the last patch of the second row
    changed = (model.patch_embed(image) - model.patch_embed(torch.zeros_like(image))).abs().sum(1)[0]
    assert changed.flatten().nonzero().flatten().tolist() == [5]


# what the model can do beyond the paper's, alone and where two of them meet
FEATURES: dict[str, dict[str, object]] = {
    "plain": {},
    "registers": {"registers": 3},
    "registers without positions": {"registers": 3, "prefix_positions": "none"},
    "registers, of the prefix only cls has a position": {"registers": 3, "prefix_positions": "cls"},
    "registers without cls": {"registers": 2, "cls_token": False, "pool": "mean"},
    "cls without a position": {"prefix_positions": "none"},
    "mean beside cls and registers": {"pool": "mean", "registers": 2},
    "cls beside the mean": {"pool": "cls_mean"},
    "cls beside the mean, registers, pre_logits": {"pool": "cls_mean", "registers": 2, "representation_size": 24},
    "cls beside the mean, no head": {"pool": "cls_mean", "num_classes": 0},
    "map pooling": {"pool": "map", "cls_token": False},
    "map pooling beside a prefix, quick GELU": {"pool": "map", "registers": 2, "gelu": "quick"},
    "map pooling, pre_logits": {"pool": "map", "cls_token": False, "representation_size": 24},
    "swiglu": {"mlp": "swiglu", "mlp_dim": 40},
    "quick GELU": {"gelu": "quick"},
    "erf GELU": {"gelu": "erf"},
    "pre-norm": {"pre_norm": True, "patch_bias": False, "head_bias": False},
    "no bias of q, k, v": {"qkv_bias": False},
    "learned2d": {"position": "learned2d", "image_size": (32, 80)},
    "sincos2d": {"position": "sincos2d", "image_size": (32, 80)},
    "no positions": {"position": "none"},
    "relative": {"position": "relative"},
    "relative, registers, one row of patches": {"position": "relative", "registers": 2, "image_size": (16, 80)},
    "relative without prefix": {"position": "relative", "cls_token": False, "pool": "mean"},
    "relative, map pooling": {"position": "relative", "cls_token": False, "pool": "map"},
    "positions at layers": {"position_at": "layers", "depth": 3},
    "positions at layers, registers without": {"position_at": "layers", "registers": 2, "prefix_positions": "cls"},
    "positions shared by layers": {"position_at": "shared", "depth": 3},
    "positions shared, cls without": {"position_at": "shared", "prefix_positions": "none"},
    "learned2d at layers": {"position": "learned2d", "position_at": "layers", "image_size": (32, 80)},
    "learned2d shared, pre-norm": {"position": "learned2d", "position_at": "shared", "pre_norm": True, "registers": 1},
    "norm after the mean": {"pool": "mean", "cls_token": False, "norm_after_pool": True},
    "norm after cls": {"norm_after_pool": True},
    "distilled": {"distilled": True, "registers": 1},
    "distilled, with a register, norm after pool": {"distilled": True, "registers": 2, "norm_after_pool": True},
    "layer scale": {"layer_scale": 0.1},
    "pre_logits": {"representation_size": 24},
    "no head": {"num_classes": 0},
    "head on every token": {"pool": "none", "registers": 1},
    "rectangular patches, gray, another epsilon": {"patch_size": (16, 8), "in_channels": 1, "norm_eps": 1e-3},
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_computes_what_a_plain_computation_does(name: str, fused: bool) -> None:
    config = golden_config(**{"image_size": (48, 32), **FEATURES[name]})
    rng = torch.Generator().manual_seed(1)
    model = VisionTransformer(config).eval()
    for parameter in model.parameters():  # large enough that attention is far from uniform
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=rng) + (parameter.ndim == 1)
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = fused
    images = torch.randn(2, config.in_channels, *config.image_size, generator=rng)
    plain = Plain(config, model.state_dict())
    with torch.no_grad():
        logits = model(images).numpy()
    expected = np.stack([plain.logits(image) for image in images.double().numpy()])
    assert logits.shape == expected.shape
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()  # it looks at the image


@pytest.mark.parametrize("name", [*FEATURES, "hybrid", "hybrid, root only"])
def test_initialisation_fills_every_parameter_of_every_feature(name: str) -> None:
    hybrids = {
        "hybrid": {"stem": (1, 1), "patch_size": (1, 1)},
        "hybrid, root only": {"stem": (), "patch_size": (8, 8)},
    }
    model = VisionTransformer(golden_config(**{**FEATURES, **hybrids}[name]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights(0, head_bias=-3.0)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), parameter_name
    for head in (model.head, model.head_dist):
        assert head is None or not head.weight.any()
        assert head is None or head.bias is None or (head.bias == -3).all()
    again = VisionTransformer(model.config)
    again.init_weights(0, head_bias=-3.0)
    for (parameter_name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), parameter_name


def test_small_initialisation_changes_the_matrices_of_blocks_alone() -> None:
    model, official = (VisionTransformer(ViTConfig.named("Ti/16", depth=2)) for _ in range(2))
    model.init_weights(3, scheme="small")
    official.init_weights(3)
    for (name, small), as_reference in zip(model.named_parameters(), official.parameters(), strict=True):
        if name.startswith("blocks.") and small.ndim == 2:
            assert small.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            assert torch.equal(small, as_reference), name


def test_map_pooling_starts_as_the_reference_s() -> None:
    model = VisionTransformer(ViTConfig.named("Ti/16", depth=1, pool="map", cls_token=False))
    model.init_weights(0)
    pool = model.map_pool
    limit = math.sqrt(6 / (2 * 192))
    for weight in (pool.q.weight, pool.kv.weight[:192], pool.kv.weight[192:], pool.proj.weight):
        assert 0.98 * limit < weight.abs().max().item() <= limit  # key and value each for itself
    limit = math.sqrt(6 / (1 + 192))  # of a matrix of one row
    assert 0.9 * limit < pool.probe.abs().max().item() <= limit


def test_registers_start_apart_so_that_they_can_learn_different_things() -> None:
    model = VisionTransformer(golden_config(registers=4, prefix_positions="none"))
    model.init_weights(0)
    assert model.registers.std().item() == pytest.approx(1e-6, rel=0.2)
    assert len({tuple(row.tolist()) for row in model.registers[0]}) == 4


def test_dropout_leaves_the_pooling_head_alone() -> None:
    model = VisionTransformer(golden_config(pool="map", cls_token=False, dropout=0.5))
    model.init_weights(0)
    x = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.train().map_pool(x), model.eval().map_pool(x))


def test_fixed_positions_are_there_in_a_model_built_on_the_meta_device() -> None:
    config = golden_config(position="sincos2d")
    model = VisionTransformer(config).eval()
    model.init_weights(0)
    with torch.device("meta"):
        lazy = VisionTransformer(config).eval()
    lazy.load_state_dict(model.state_dict(), assign=True)
    images = golden_image(1, 64)
    assert torch.equal(lazy.forward_features(images).patches, model.forward_features(images).patches)


@pytest.mark.parametrize("changes", [{"position": "relative", "registers": 1}, {"position_at": "layers"}])
def test_models_with_such_positions_are_whole_when_built_on_the_meta_device(changes: dict[str, object]) -> None:
    config = golden_config(**changes)
    model = VisionTransformer(config).eval()
    model.init_weights(0)
    with torch.device("meta"):
        lazy = VisionTransformer(config).eval()
    lazy.load_state_dict(model.state_dict(), assign=True)
    images = golden_image(1, 64)
    assert torch.equal(lazy.forward_features(images).patches, model.forward_features(images).patches)


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"position": "none"}, -17 * 64),
        ({"position": "learned2d"}, -17 * 64 + 8 * 32),
        ({"position_at": "layers"}, 17 * 64),  # a second table, of the second of two layers
        ({"position_at": "shared"}, 0),
        ({"position": "learned2d", "position_at": "layers"}, -17 * 64 + 2 * 8 * 32),
        (
            {"position": "relative"},
            -17 * 64 + 2 * (2 * 16 - 1 + 3) * 16,
        ),  # 31 offsets, 3 of the prefix; 4 heads of width 16
    ],
)
def test_parameters_of_each_kind_of_positions(changes: dict[str, object], more: int) -> None:
    counts = [
        sum(p.numel() for p in VisionTransformer(config).parameters())
        for config in (golden_config(), golden_config(**changes))
    ]
    assert counts[1] - counts[0] == more
    assert count_parameters(golden_config(**changes)) == counts[1]


@pytest.mark.parametrize("fused", [True, False])
def test_relative_positions_move_with_the_patches_and_learn(fused: bool) -> None:
    """Without a prefix, swapping nothing but where patches are changes the answer only through their offsets."""
    config = golden_config(position="relative", cls_token=False, pool="mean", image_size=(16, 64))  # 4 patches in a row
    model = VisionTransformer(config)
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        block.attn.fused = fused
        block.attn.relative.data.normal_(generator=torch.Generator().manual_seed(1))
    a, b = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    whole = [torch.cat(parts, dim=-1) for parts in ([a, b, a, b], [b, a, b, a], [a, a, b, b])]
    first, reversed_, other = (model(image) for image in whole)
    assert (first - other).abs().max() > 1e-3
    assert (first - reversed_).abs().max() > 1e-3  # an offset of 1 is not one of -1
    first.sum().backward()
    for block in model.blocks:
        rows = block.attn.relative.grad.abs().sum(dim=1)
        assert (rows[: 2 * 4 - 1] > 0).all()  # every offset of two patches
        assert not rows[2 * 4 - 1 :].any()  # there is no prefix


@pytest.mark.parametrize("changes", [{"position": "relative"}, {"position_at": "layers"}])
def test_such_positions_in_bfloat16_are_near_those_in_float32(changes: dict[str, object]) -> None:
    model = VisionTransformer(golden_config(**changes)).eval()
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    found = []
    for fused in (True, False):
        for block in model.blocks:
            block.attn.fused = fused
        with torch.no_grad():
            exact = model(golden_image(2, 64))
            with torch.autocast("cpu", torch.bfloat16):
                found.append(model(golden_image(2, 64)).float())
    for rough in found:
        torch.testing.assert_close(rough, exact, atol=0.05 * exact.abs().max().item(), rtol=0)


@pytest.mark.parametrize("scale", [None, 1e-5])
def test_initialisation_fills_every_parameter_as_the_reference(scale: float | None) -> None:
    config = ViTConfig.named("Ti/16", depth=2, layer_scale=scale, representation_size=32)
    model = VisionTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights(3)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
    kernel = model.patch_embed.weight
    assert kernel.std().item() == pytest.approx(0.0361, rel=0.02)  # VIT_SPEC 1.5
    assert kernel.abs().max().item() <= 0.0821
    limit = math.sqrt(6 / (2 * 192))
    qkv = model.blocks[0].attn.qkv.weight
    assert 0.98 * limit < qkv.abs().max().item() <= limit  # each of q, k, v for itself
    assert model.blocks[0].mlp.fc1.weight.abs().max().item() <= math.sqrt(6 / (192 + 768))
    assert model.blocks[0].mlp.fc1.bias.std().item() == pytest.approx(1e-6, rel=0.1)
    assert model.pos_embed is not None
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.cls_token.any()
    assert not model.head.weight.any()
    assert not model.head.bias.any()


def test_equal_seeds_give_equal_weights_and_other_seeds_others() -> None:
    weights = []
    for seed in (1, 1, 2):
        model = VisionTransformer(golden_config())
        model.init_weights(seed)
        weights.append(model.patch_embed.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_drop_path_drops_whole_branches_of_single_images_in_training_only() -> None:
    model = VisionTransformer(golden_config(drop_path=0.5, depth=4))
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    images = golden_image(1, 64).expand(8, -1, -1, -1)
    assert model.blocks[0].drop_path == 0
    assert model.blocks[3].drop_path == 0.5
    model.train()
    torch.manual_seed(0)
    assert len({tuple(row.tolist()) for row in model(images).detach().round(decimals=4)}) > 1
    model.eval()
    with torch.no_grad():
        rows = model(images)
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"pool": "gap"}, "pool is 'gap'; known: cls, mean, map, cls_mean, none"),
        ({"pool": "cls", "cls_token": False}, "needs cls_token=True"),
        ({"pool": "cls_mean", "cls_token": False}, "pool='cls_mean' needs cls_token=True"),
        (
            {"pool": "cls_mean", "norm_after_pool": True},
            "norm_after_pool=True needs pool='cls' or 'mean', not 'cls_mean'",
        ),
        ({"pool": "cls_mean", "registers": 1, "distilled": True}, "distilled=True needs pool='cls'"),
        ({"num_heads": 5}, "64 does not divide into 5 heads"),
        ({"image_size": (8, 64)}, "smaller than one patch"),
        ({"image_size": (0, 64)}, "positive integers"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
        ({"position": "sincos"}, "Did you mean 'sincos2d'"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"num_classes": -1}, "num_classes must not be negative, got -1"),
        ({"representation_size": -8}, "representation_size must not be negative"),
        ({"registers": -1}, "registers must not be negative, got -1"),
        ({"distilled": True}, "distilled=True needs pool='cls', at least one register and no representation_size"),
        ({"distilled": True, "registers": 1, "pool": "mean"}, "distilled=True needs pool='cls'"),
        ({"distilled": True, "registers": 1, "representation_size": 8}, "no representation_size"),
        ({"distilled": True, "registers": 1, "cls_token": False}, "needs cls_token=True"),
        ({"norm_after_pool": True, "pool": "map"}, "norm_after_pool=True needs pool='cls' or 'mean', not 'map'"),
        ({"position": "learned2d", "embed_dim": 9, "num_heads": 3}, "learned2d positions need .* multiple of 2, got 9"),
        ({"position": "sincos2d", "embed_dim": 66, "num_heads": 3}, "sincos2d positions need .* multiple of 4, got 66"),
        ({"prefix_positions": "some"}, "prefix_positions is 'some'; known: all, cls, none"),
        ({"position": "relativ"}, "Did you mean 'relative'"),
        ({"position_at": "layer"}, "position_at is 'layer'; known: stem, layers, shared. Did you mean 'layers'"),
        ({"position_at": "layers", "position": "relative"}, "'layers', which is for learned positions .* 'relative'"),
        ({"position_at": "shared", "position": "sincos2d"}, "'shared', which is for learned positions .* 'sincos2d'"),
        ({"position_at": "shared", "position": "none"}, "position is 'none'. Say position_at=stem"),
        ({"position_rule": "bicubik"}, "Did you mean 'bicubic'"),
        ({"mlp": "swish"}, "mlp is 'swish'; known: gelu, swiglu"),
        ({"gelu": "fast"}, "gelu is 'fast'; known: tanh, erf, quick"),
        ({"stem": (), "stem_numerics": "google"}, "stem_numerics is 'google'; known: official, timm"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(changes: dict[str, object], found: str) -> None:
    with pytest.raises(UserError, match=found):
        golden_config(**changes)


def test_a_wrong_size_or_name_says_what_is_known() -> None:
    with pytest.raises(UserError, match="one of Ti, S, B, L, H"):
        ViTConfig.named("XL/16")
    model = VisionTransformer(golden_config())
    with pytest.raises(UserError, match="image_size"):
        model(torch.zeros(1, 3, 32, 32))


def test_every_field_of_the_configuration_is_read(tmp_path: object) -> None:
    """A field that never reaches the model changes results silently: each must change tensors, values or errors."""
    reference = VisionTransformer(golden_config())
    reference.init_weights(0)
    changed = {
        "embed_dim": 128, "depth": 3, "num_heads": 8, "mlp_dim": 64, "patch_size": (8, 8), "image_size": (32, 64),
        "in_channels": 1, "num_classes": 7, "cls_token": False, "pool": "mean", "representation_size": 16,
        "position": "sincos2d", "gelu": "erf", "norm_eps": 1e-2, "layer_scale": 0.5, "drop_path": 0.5, "dropout": 0.5,
        "attention_dropout": 0.5, "registers": 2, "distilled": True, "norm_after_pool": True, "prefix_positions": "none",
        "stem": (1,), "stem_numerics": "timm", "mlp": "swiglu", "pre_norm": True, "patch_bias": False, "qkv_bias": False,
        "head_bias": False, "position_at": "layers",
    }  # fmt: skip
    elsewhere = {"position_rule"}  # read when a table is resampled: tests/zoo
    assert set(changed) | elsewhere == {f.name for f in dataclasses.fields(ViTConfig)}
    for field, value in changed.items():
        extra: dict[str, object] = {
            "cls_token": {"pool": "mean"}, "distilled": {"registers": 1}, "norm_after_pool": {"pool": "mean"},
            "stem_numerics": {"stem": ()},
        }.get(field, {})  # fmt: skip
        config = golden_config(**{field: value, **extra})
        reference = VisionTransformer(golden_config(**extra)) if field != "cls_token" else reference
        model = VisionTransformer(config).train()
        model.init_weights(0)
        if {k: v.shape for k, v in model.state_dict().items()} != {
            k: v.shape for k, v in reference.state_dict().items()
        }:
            continue  # it changed the tensors
        model.head.weight.data.fill_(0.1)
        torch.manual_seed(0)
        images = golden_image(2, 64)
        got = model(images)
        plain = VisionTransformer(golden_config(**extra)).train()
        plain.load_state_dict(model.state_dict())
        assert not torch.equal(got, plain(images)), field
