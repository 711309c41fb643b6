"""Published layouts read and written back: every tensor accounted for, nothing guessed, nothing lost."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import pytest
import torch
from torch import Tensor

from peers import peer
from vitkit.config import UserError
from vitkit.converters import big_vision, google, huggingface_dinov2, timm
from vitkit.converters.engine import decode, encode
from vitkit.converters.formats import format_of, formats
from vitkit.models.vit import VisionTransformer, ViTConfig

FORMATS = (big_vision, google, timm)
CHANGES: dict[str, dict[str, object]] = {
    "cls": {},
    "mean pooling, no cls": {"cls_token": False, "pool": "mean"},
    "pre_logits": {"representation_size": 12},
    "no head": {"num_classes": 0},
    "pre_logits without head": {"representation_size": 12, "num_classes": 0},
    "gray, rectangular patches": {"in_channels": 1, "patch_size": (4, 2), "image_size": (8, 4)},
}
LAYER_SCALE = {"layer scale": {"layer_scale": 1e-5}}
CASES = [(f, name) for f in FORMATS for name in CHANGES] + [(timm, "layer scale")]


def tiny(module: ModuleType, **changes: object) -> ViTConfig:
    """A configuration with what the format's own code computes."""
    told = {"gelu": "tanh", "position_rule": "bilinear_align_corners"}
    if module is timm:
        told = {"gelu": "erf", "position_rule": "bicubic_antialias"}
    if module is big_vision:
        told["prefix_positions"] = "none"
    base = ViTConfig(
        embed_dim=64, depth=2, num_heads=4, mlp_dim=24, patch_size=(4, 4), image_size=(12, 12), num_classes=5
    )
    return dataclasses.replace(base, **{**told, **changes})


def random_state(config: ViTConfig) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {k: torch.randn(v.shape, generator=rng) for k, v in VisionTransformer(config).state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize(("module", "case"), CASES)
def test_reading_and_writing_are_inverse_to_the_last_bit(module: ModuleType, case: str) -> None:
    config = tiny(module, **{**CHANGES, **LAYER_SCALE}[case])
    rules = module.rules(config)
    ours = random_state(config)
    theirs = encode(ours, rules)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in ours.values())
    assert_equal(decode(theirs, rules, "x"), ours)
    assert_equal(encode(decode(theirs, rules, "x"), rules), theirs)
    assert all(tensor.is_contiguous() for tensor in theirs.values())


@pytest.mark.parametrize(("module", "case"), CASES)
def test_the_configuration_is_read_off_the_tensors(module: ModuleType, case: str) -> None:
    config = tiny(module, **{**CHANGES, **LAYER_SCALE}[case])
    read = module.config(encode(random_state(config), module.rules(config)), None)
    unknown = {"num_heads": 4} if module is timm else {}  # names of this format do not tell the heads
    assert dataclasses.replace(read, **unknown) == config


@pytest.mark.parametrize("module", FORMATS)
@pytest.mark.parametrize("case", CHANGES)
def test_exactly_one_format_recognises_a_file(module: ModuleType, case: str) -> None:
    config = tiny(module, **CHANGES[case])
    names = frozenset(encode(random_state(config), module.rules(config)))
    assert [f.NAME for f in FORMATS if f.matches(names)] == [module.NAME]


@pytest.mark.parametrize("module", [module for module in formats() if module is not huggingface_dinov2])
@pytest.mark.parametrize("classes", [0, 5])
def test_formats_without_a_head_of_twice_the_width_refuse_it_by_name(module: ModuleType, classes: int) -> None:
    config = tiny(google, pool="cls_mean", num_classes=classes)
    with pytest.raises(UserError, match=f"the {module.NAME} layout cannot express pool='cls_mean'.* to huggingface"):
        module.prepare(config, random_state(config))


DECLARED = r"config\.json says it is a swin model"


def test_what_a_folder_declares_is_in_the_refusal() -> None:
    with pytest.raises(UserError, match=f"x: no known layout has tensors of these names; {DECLARED}"):
        format_of(["a", "b"], "x", "swin")
    with pytest.raises(UserError, match=rf"x: these are the weights of a ResNet, .*Transformer; {DECLARED} \(layer1"):
        format_of(["layer1.0.conv1.weight"], "x", "swin")
    with pytest.raises(UserError, match=r"; config\.json says it is an eva02_tiny model"):
        format_of(["a"], "x", "eva02_tiny")


def test_no_format_recognises_our_own_or_foreign_names() -> None:
    own = frozenset(random_state(tiny(google)))
    for names in (own, frozenset(), frozenset({"conv1.weight", "layer1.0.bn1.bias"})):
        assert not any(f.matches(names) for f in FORMATS)


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
@pytest.mark.parametrize("pre_linen", [False, True])
def test_both_numberings_and_prefixes_of_the_official_files_read_alike(prefix: str, pre_linen: bool) -> None:
    config = tiny(google, representation_size=12)
    linen = encode(random_state(config), google.rules(config))
    older = {"MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1", "LayerNorm_1": "LayerNorm_2"}
    older["MlpBlock_0"] = "MlpBlock_3"
    stored = {}
    for name, tensor in linen.items():
        parts = [older.get(part, part) if pre_linen else part for part in name.split("/")]
        stored[prefix + "/".join(parts)] = tensor
    assert google.matches(frozenset(stored))
    assert not timm.matches(frozenset(stored))
    assert_equal(google.normalise(stored), linen)


def test_the_official_file_of_a_base_size_has_200_tensors() -> None:
    with torch.device("meta"):
        config = ViTConfig.named("B/16")
        state = encode(VisionTransformer(config).state_dict(), google.rules(config))
    assert len(state) == 16 * 12 + 8  # VIT_SPEC 2.1
    assert state["Transformer/encoderblock_11/MultiHeadDotProductAttention_0/query/kernel"].shape == (768, 12, 64)
    assert state["embedding/kernel"].shape == (16, 16, 3, 768)


def test_official_query_heads_become_rows_of_the_fused_matrix() -> None:
    config = tiny(google)
    theirs = encode(random_state(config), google.rules(config))
    ours = decode(theirs, google.rules(config), "x")
    block = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0"
    key = theirs[f"{block}/key/kernel"]  # (D, K, d)
    assert torch.equal(ours["blocks.1.attn.qkv.weight"][64 + 16 * 2 + 3], key[:, 2, 3])
    assert ours["blocks.1.attn.proj.weight"][7, 16 * 2 + 3] == theirs[f"{block}/out/kernel"][2, 3, 7]
    assert ours["patch_embed.weight"][9, 2, 1, 3] == theirs["embedding/kernel"][1, 3, 2, 9]


@pytest.mark.parametrize("module", FORMATS)
def test_missing_and_left_over_tensors_are_named(module: ModuleType) -> None:
    config = tiny(module)
    rules = module.rules(config)
    theirs = encode(random_state(config), rules)
    gone = sorted(theirs)[7]
    left = {name: tensor for name, tensor in theirs.items() if name != gone}
    with pytest.raises(UserError, match=rf"file\.x: .*Missing \(1\): {gone}\."):
        decode(left, rules, "file.x")
    with pytest.raises(UserError, match=r"Unexpected \(7\): extra\.0, .* and 2 more"):
        decode({**theirs, **{f"extra.{i}": torch.zeros(1) for i in range(7)}}, rules, "file.x")


def test_a_tensor_of_a_size_that_does_not_fit_the_others_is_named() -> None:
    config = tiny(google)
    theirs = encode(random_state(config), google.rules(config))
    name = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
    theirs[name] = theirs[name][:, :, :3]
    with pytest.raises(UserError, match=rf"file\.x: .*{name} \(64, 4, 3\)"):
        decode(theirs, google.rules(config), "file.x")


def test_what_a_format_has_no_place_for_is_not_dropped() -> None:
    scaled = tiny(google, layer_scale=1e-5)
    with pytest.raises(UserError, match=r"no place for .*layer_scale1"):
        encode(random_state(scaled), google.rules(scaled))
    fixed = tiny(timm, position="sincos2d", cls_token=False, pool="mean")
    with pytest.raises(UserError, match=r"needs .*pos_embed"):
        encode(random_state(fixed), timm.rules(fixed))


@pytest.mark.parametrize("module", FORMATS)
def test_a_grid_that_is_no_square_needs_the_source_size(module: ModuleType) -> None:
    config = tiny(module, image_size=(8, 12))
    theirs = encode(random_state(config), module.rules(config))
    with pytest.raises(UserError, match=r"6 patch positions are not a square grid.*source_image_size"):
        module.config(theirs, None)
    assert module.config(theirs, (8, 12)).grid == (2, 3)


@pytest.mark.parametrize(
    ("name", "called"),
    [("swin_t", "a Swin"), ("convnext_tiny", "a ConvNeXt"), ("mobilenet_v3_small", "a MobileNet"), ("resnet18", "a ResNet"),
     ("mobilenet_v2", "a MobileNet"), ("efficientnet_b0", "an EfficientNet"), ("alexnet", "no known layout")],
)  # fmt: skip
def test_torchvisions_other_architectures_are_called_by_their_names(name: str, called: str) -> None:
    with torch.device("meta"):
        model = getattr(peer("torchvision.models"), name)()
    with pytest.raises(UserError, match=called):
        format_of(model.state_dict(), "x")
