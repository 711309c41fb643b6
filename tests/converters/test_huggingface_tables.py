"""The tables of transformers' families and of torchvision: exact inverses, read off meta tensors, told apart by names."""

from __future__ import annotations

import dataclasses
import re
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import google, huggingface_clip, huggingface_dinov2, huggingface_vit, timm, torchvision
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.converters.formats import formats
from vitkit.models.vit import VisionTransformer, ViTConfig

BASE = ViTConfig(
    embed_dim=64, depth=2, num_heads=4, mlp_dim=128, patch_size=(4, 4), image_size=(12, 12), num_classes=5, gelu="erf"
)
VIT: dict[str, object] = {"position_rule": "bicubic", "norm_eps": 1e-12}
DINOV2: dict[str, object] = {"num_classes": 0, "layer_scale": 1.0, "position_rule": "bicubic"}
REGISTERS: dict[str, object] = {
    **DINOV2,
    "registers": 4,
    "prefix_positions": "cls",
    "position_rule": "bicubic_antialias",
}
CLIP: dict[str, object] = {
    **{"pre_norm": True, "patch_bias": False, "gelu": "quick", "norm_eps": 1e-5, "position_rule": "bicubic"},
    **{"head_bias": False},
}
SIGLIP: dict[str, object] = {
    **{"cls_token": False, "pool": "map", "num_classes": 0, "gelu": "tanh", "position_rule": "bicubic"}
}
TORCHVISION: dict[str, object] = {"position_rule": "bicubic_align_corners"}
CASES: dict[str, tuple[ModuleType, dict[str, object]]] = {
    "ViT": (huggingface_vit, VIT),
    "ViT without head": (huggingface_vit, {**VIT, "num_classes": 0}),
    "ViT with pooler": (huggingface_vit, {**VIT, "num_classes": 0, "representation_size": 12}),
    "ViT without q, k, v biases": (huggingface_vit, {**VIT, "qkv_bias": False}),
    "ViT, gray, rectangular patches": (huggingface_vit, {**VIT, "in_channels": 1, "patch_size": (4, 2), "image_size": (8, 4)}),
    "DeiT": (huggingface_vit, {**VIT, "registers": 1}),
    "DeiT with two heads": (huggingface_vit, {**VIT, "registers": 1, "distilled": True}),
    "DeiT with pooler": (huggingface_vit, {**VIT, "registers": 1, "num_classes": 0, "representation_size": 12}),
    "DINOv2": (huggingface_dinov2, DINOV2),
    "DINOv2 with SwiGLU": (huggingface_dinov2, {**DINOV2, "mlp": "swiglu", "mlp_dim": 88}),
    "DINOv2 with registers": (huggingface_dinov2, REGISTERS),
    "DINOv2 with classes": (huggingface_dinov2, {**DINOV2, "num_classes": 5, "pool": "cls_mean"}),
    "DINOv2 with registers and classes": (huggingface_dinov2, {**REGISTERS, "num_classes": 5, "pool": "cls_mean"}),
    "CLIP": (huggingface_clip, {**CLIP, "num_classes": 0, "head_bias": True}),
    "CLIP with projection": (huggingface_clip, CLIP),
    "SigLIP": (huggingface_clip, SIGLIP),
    "SigLIP with classes": (huggingface_clip, {**SIGLIP, "pool": "mean", "num_classes": 5}),
    "torchvision": (torchvision, TORCHVISION),
    "torchvision with pre_logits": (torchvision, {**TORCHVISION, "representation_size": 12}),
    "torchvision without head": (torchvision, {**TORCHVISION, "num_classes": 0}),
}  # fmt: skip
FORMATS = (huggingface_vit, huggingface_dinov2, huggingface_clip, torchvision)


def case(name: str) -> tuple[ModuleType, ViTConfig]:
    module, changes = CASES[name]
    return module, dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]


def random_state(config: ViTConfig) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {k: torch.randn(v.shape, generator=rng) for k, v in VisionTransformer(config).state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("name", CASES)
def test_reading_and_writing_are_inverse_to_the_last_bit(name: str) -> None:
    module, config = case(name)
    rules, ours = module.rules(config), random_state(config)
    theirs = encode(ours, rules)
    assert_equal(decode(theirs, rules, "x"), ours)
    assert_equal(encode(decode(theirs, rules, "x"), rules), theirs)
    assert_equal(split_ignored(module.normalise(theirs), module.IGNORE)[0], theirs)
    assert all(tensor.is_contiguous() for tensor in theirs.values())
    zeros = config.embed_dim if module is huggingface_dinov2 else 0  # the mask token of theirs
    assert sum(t.numel() for t in theirs.values()) == zeros + sum(t.numel() for t in ours.values())


@pytest.mark.parametrize("name", CASES)
def test_the_configuration_is_read_off_tensors_without_values(name: str) -> None:
    module, config = case(name)
    with torch.device("meta"):
        state = encode(VisionTransformer(config).state_dict(), module.rules(config))
    normalised, ignored = split_ignored(module.normalise(state), module.IGNORE)
    assert [name.rsplit(".", 1)[-1] for name in ignored] in ([], ["mask_token"])
    source = None if config.grid[0] == config.grid[1] else config.image_size
    assert dataclasses.replace(module.config(normalised, source), num_heads=4) == config
    assert "num_heads" in module.untold(ViTConfig())


@pytest.mark.parametrize("name", CASES)
def test_exactly_one_format_recognises_the_names(name: str) -> None:
    module, config = case(name)
    names = frozenset(encode(random_state(config), module.rules(config)))
    assert [f.NAME for f in formats() if f.matches(names)] == [module.NAME]


def test_the_names_of_other_formats_are_not_taken() -> None:
    for other in (google, timm):
        names = frozenset(encode(random_state(BASE), other.rules(BASE)))
        assert not any(f.matches(names) for f in FORMATS)
    for names in (frozenset(), frozenset(random_state(BASE)), frozenset({"vit.embeddings.cls_token"})):
        assert not any(f.matches(names) for f in FORMATS)


NEW = {  # transformers 5 in memory -> what is on the hub
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


@pytest.mark.parametrize("name", ["ViT", "ViT with pooler", "DeiT with two heads"])
@pytest.mark.parametrize("prefix", [True, False])
def test_newer_names_read_as_the_hubs_with_and_without_prefix(name: str, prefix: bool) -> None:
    module, config = case(name)
    theirs = encode(random_state(config), module.rules(config))
    newer = {}
    for key, tensor in theirs.items():
        base, heads = key.removeprefix("vit.").removeprefix("deit."), ("class", "cls", "dist", "pooler")
        for old, new in NEW.items():
            base = base.replace(old, new)
        kind = "deit." if config.registers else "vit."
        newer[(kind if prefix and not base.startswith(heads) else "") + base] = tensor
    assert set(newer) != set(theirs)
    assert module.matches(frozenset(newer))
    assert_equal(module.normalise(newer), theirs)


def test_newer_names_of_dinov2_give_one_first_layer_of_two() -> None:
    module, config = case("DINOv2 with SwiGLU")
    theirs = encode(random_state(config), module.rules(config))
    newer = {}
    for key, tensor in theirs.items():
        if "weights_in" in key:
            gate, up = tensor.chunk(2)
            newer[key.replace("weights_in", "gate_proj")] = gate
            newer[key.replace("weights_in", "up_proj")] = up
        else:
            new = key.replace("weights_out", "down_proj").replace("attention.output.dense", "attention.o_proj")
            for part, short in (("query", "q"), ("key", "k"), ("value", "v")):
                new = new.replace(f"attention.attention.{part}", f"attention.{short}_proj")
            newer[f"dinov2.{new}"] = tensor
    read, ignored = split_ignored(module.normalise(newer), module.IGNORE)
    assert ignored == ["(unused) embeddings.mask_token"]
    assert_equal(read, theirs)


@pytest.mark.parametrize("name", ["CLIP", "SigLIP"])
def test_a_tower_alone_and_in_the_whole_model_read_alike(name: str) -> None:
    module, config = case(name)
    theirs = encode(random_state(config), module.rules(config))
    alone = {key.removeprefix("vision_model."): tensor for key, tensor in theirs.items()}
    whole = {
        **theirs,
        **{
            "text_model.embeddings.token_embedding.weight": torch.zeros(3, 2),
            "text_projection.weight": torch.zeros(2, 2),
        },
        **{"vision_model.embeddings.position_ids": torch.arange(10)[None], "logit_scale": torch.tensor(1.0)},
    }
    assert_equal(module.normalise(alone), theirs)
    assert module.matches(frozenset(alone))
    read, ignored = split_ignored(module.normalise(whole), module.IGNORE)
    assert_equal(read, theirs)
    assert len(ignored) == 4


def test_what_a_classifier_passes_by_is_left_out_and_listed() -> None:
    for name, extra in (("ViT", "vit.pooler.dense.weight"), ("SigLIP with classes", "vision_model.head.probe")):
        module, config = case(name)
        theirs = encode(random_state(config), module.rules(config))
        read, ignored = split_ignored(module.normalise({**theirs, extra: torch.zeros(2, 2)}), module.IGNORE)
        assert_equal(read, theirs)
        assert ignored == [f"(unused) {extra.removeprefix('vit.')}"]


def test_older_names_of_torchvision_read_alike() -> None:
    module, config = case("torchvision")
    theirs = encode(random_state(config), module.rules(config))
    older = {k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v for k, v in theirs.items()}
    assert module.matches(frozenset(older))
    assert_equal(module.normalise(older), theirs)


@pytest.mark.parametrize("wrapper", ["module.", "model.", "_orig_mod.module.", "net."])
@pytest.mark.parametrize("name", CASES)
def test_names_that_training_code_wraps_read_alike(name: str, wrapper: str) -> None:
    module, config = case(name)
    theirs = encode(random_state(config), module.rules(config))
    file = {wrapper + key: tensor for key, tensor in theirs.items()}
    assert [format_.NAME for format_ in formats() if format_.matches(frozenset(file))] == [module.NAME]
    read, _ = split_ignored(module.normalise(file), module.IGNORE)
    assert_equal(read, theirs)


def test_two_spellings_of_one_tensor_in_a_file_are_an_error() -> None:
    module, config = case("ViT")
    theirs = encode(random_state(config), module.rules(config))
    theirs["layers.0.attention.q_proj.bias"] = torch.zeros(64)
    with pytest.raises(UserError, match=r"query\.bias and layers\.0\.attention\.q_proj\.bias, two spellings of one"):
        module.normalise(theirs)


@pytest.mark.parametrize("name", CASES)
def test_missing_and_left_over_tensors_are_named(name: str) -> None:
    module, config = case(name)
    theirs = encode(random_state(config), module.rules(config))
    gone = next(key for key in sorted(theirs) if re.search(r"(norm2|norm_after|norm1|ln_2)\.weight", key))
    left = {key: tensor for key, tensor in theirs.items() if key != gone}
    with pytest.raises(UserError, match=rf"file\.x: .*Missing \(1\): {gone}\."):
        decode(left, module.rules(config), "file.x")
    with pytest.raises(UserError, match=r"Unexpected \(1\): extra\.0\."):
        decode({**theirs, "extra.0": torch.zeros(1)}, module.rules(config), "file.x")


@pytest.mark.parametrize("name", ["ViT", "DeiT", "DINOv2 with registers", "CLIP", "SigLIP", "torchvision"])
def test_a_grid_that_is_no_square_needs_the_source_size(name: str) -> None:
    module, config = case(name)
    config = dataclasses.replace(config, image_size=(8, 12))
    theirs = encode(random_state(config), module.rules(config))
    with pytest.raises(UserError, match=r"6 patch positions are not a square grid.*source_image_size"):
        module.config(theirs, None)
    assert module.config(theirs, (8, 12)).grid == (2, 3)


def test_clip_with_a_classifier_is_refused() -> None:
    module, config = case("CLIP")
    theirs = encode(random_state(config), module.rules(config))
    with pytest.raises(UserError, match=r"mean of the patches before the last norm.*classifier\.\*"):
        module.config({**theirs, "classifier.weight": torch.zeros(2, 64)}, None)


@pytest.mark.parametrize("name", ["ViT", "DINOv2", "CLIP", "torchvision"])
def test_a_first_layer_of_other_dimensions_is_named(name: str) -> None:
    module, config = case(name)
    theirs = encode(random_state(config), module.rules(config))
    key = next(key for key, tensor in theirs.items() if tensor.ndim == 4)
    for shape in ((64, 48), (64, 3, 2, 4, 4)):
        with pytest.raises(UserError, match=rf"{key} has shape .*This is a model of another kind"):
            module.config({**theirs, key: torch.zeros(shape)}, None)


@pytest.mark.parametrize(
    ("module", "changes", "heads"),
    [
        (huggingface_vit, {"embed_dim": 1280, "depth": 32, "num_heads": 16}, 16),
        (huggingface_vit, {"embed_dim": 192, "num_heads": 3}, 3),
        (huggingface_vit, {"embed_dim": 48}, 1),
        (huggingface_clip, {**SIGLIP, "embed_dim": 1152, "depth": 27, "num_heads": 16}, 16),
        (torchvision, {"embed_dim": 1280, "depth": 32, "num_heads": 16}, 16),
    ],
)
def test_assumed_heads_are_those_of_the_published_sizes(
    module: ModuleType, changes: dict[str, object], heads: int
) -> None:
    config = dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]
    with torch.device("meta"):
        state = encode(VisionTransformer(config).state_dict(), module.rules(config))
    assert module.config(module.normalise(state), None).num_heads == heads


FOLDS = {
    "no patch bias": (huggingface_vit, {**VIT, "patch_bias": False}),
    "no head bias": (huggingface_vit, {**VIT, "head_bias": False}),
    "two heads without bias": (huggingface_vit, {**VIT, "registers": 1, "distilled": True, "head_bias": False}),
    "no position of the cls token": (huggingface_vit, {**VIT, "prefix_positions": "none"}),
    "no position of the distillation token": (huggingface_vit, {**VIT, "registers": 1, "prefix_positions": "cls"}),
    "the norm after taking the cls token": (huggingface_vit, {**VIT, "norm_after_pool": True}),
    "two heads of no classes": (huggingface_vit, {**VIT, "registers": 1, "distilled": True, "num_classes": 0}),
    "positions of registers": (huggingface_dinov2, {**REGISTERS, "prefix_positions": "all"}),
    "no positions of cls and registers": (huggingface_dinov2, {**REGISTERS, "prefix_positions": "none"}),
    "no layer scale": (huggingface_dinov2, {**DINOV2, "layer_scale": None}),
    "classes without bias": (
        huggingface_dinov2, {**DINOV2, "num_classes": 5, "pool": "cls_mean", "head_bias": False, "patch_bias": False}
    ),
    "CLIP without q, k, v biases": (huggingface_clip, {**CLIP, "qkv_bias": False}),
    "SigLIP without biases": (huggingface_clip, {**SIGLIP, "patch_bias": False, "qkv_bias": False}),
    "torchvision without biases": (torchvision, {**TORCHVISION, "patch_bias": False, "qkv_bias": False, "head_bias": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_what_a_format_writes_otherwise_is_folded_into_its_tensors(name: str) -> None:
    module, changes = FOLDS[name]
    config = dataclasses.replace(BASE, **changes)
    state = random_state(config)
    before = VisionTransformer(config).eval()
    before.load_state_dict(state)
    prepared, folded = module.prepare(config, state)
    assert prepared != config
    if module is not torchvision:
        module.write_sidecars(prepared, None, None)
    rules = module.rules(prepared)
    after = VisionTransformer(prepared).eval()
    after.load_state_dict(decode(encode(folded, rules), rules, "x"))
    assert module.config(module.normalise(encode(folded, rules)), None).prefix_positions == prepared.prefix_positions
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(before(images), after(images), rtol=0, atol=2e-6 * float(after(images).abs().max()))
    again = module.prepare(prepared, folded)
    assert again[0] == prepared
    assert_equal(again[1], folded)
