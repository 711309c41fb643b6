"""timm's models against ours: the same numbers from the same tensors, both ways, and nothing read wrongly."""

from __future__ import annotations

import copy
import dataclasses
import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.drawn import assert_close, redrawn, sharpness
from converters.parity import ROWS, Row
from peers import peer
from vitkit.config import UserError, override
from vitkit.converters import dinov2, google, open_clip, timm, torchvision
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.models.positions import resample_positions
from vitkit.models.vit import VisionTransformer, ViTConfig

FORMATS = (dinov2, google, open_clip, timm)
OWN = [row for row in ROWS if row.library == "timm" and row.format == "timm"]


def built(row: Row, **changes: Any) -> nn.Module:
    return peer("timm").create_model(row.model, img_size=row.image_size, **{**row.arguments, **changes}).eval()


@cache
def drawn(row_number: int) -> tuple[nn.Module, dict[str, Tensor]]:
    model = built(OWN[row_number])
    state = redrawn(model.state_dict())
    model.load_state_dict(state)
    return model, state


def read(row: Row, state: dict[str, Tensor], size: tuple[int, int] | None) -> ViTConfig:
    """As a folder of timm's is read: names and shapes, then what its config.json tells."""
    found = {"architecture": row.model, "model_args": {**row.arguments, "img_size": row.image_size}}
    told = timm.read_sidecars({"config.json": {**found, "pretrained_cfg": {}}}).model
    return override(timm.config(state, size), told, "config.json")


def images_for(config: ViTConfig) -> Tensor:
    return torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("number", range(len(OWN)), ids=[row.family for row in OWN])
@torch.no_grad()
def test_the_same_tensors_give_the_same_tokens_and_logits(number: int) -> None:
    row = OWN[number]
    theirs, state = drawn(number)
    assert [f.NAME for f in FORMATS if f.matches(frozenset(state))] == ["timm"]
    config = read(row, timm.normalise(state), row.image_size)
    ours = VisionTransformer(config).eval()
    ours.load_state_dict(decode(timm.normalise(state), timm.rules(config), row.model))
    images = images_for(config)
    tokens = theirs.forward_features(images)
    prefix, patches = ours.forward_features(images)
    assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), tokens)
    assert_close(ours(images), theirs(images))
    assert sharpness(ours, images) > 5


@pytest.mark.parametrize("number", range(len(OWN)), ids=[row.family for row in OWN])
@torch.no_grad()
def test_timm_loads_strictly_what_we_write_and_computes_the_same(number: int) -> None:
    row = OWN[number]
    theirs, state = drawn(number)
    config = read(row, timm.normalise(state), row.image_size)
    rules = timm.rules(config)
    ours = decode(timm.normalise(state), rules, "x")
    prepared, tensors = timm.prepare(config, ours)
    assert prepared == config
    written = encode(tensors, timm.rules(prepared))
    assert set(written) == set(state)
    assert all(torch.equal(written[name], state[name]) for name in state)  # to the last bit
    again = built(row)
    again.load_state_dict(written, strict=True)
    images = images_for(config)
    assert torch.equal(again(images), theirs(images))


@pytest.mark.parametrize("number", range(len(OWN)), ids=[row.family for row in OWN])
def test_the_configuration_is_read_off_meta_tensors(number: int) -> None:
    row = OWN[number]
    state = timm.normalise(drawn(number)[1])
    meta = {name: torch.empty(tensor.shape, device="meta") for name, tensor in state.items()}
    assert timm.config(meta, row.image_size) == timm.config(state, row.image_size)


# What timm's VisionTransformer can do and ours cannot. Beside the four at the end, the tensors show it too.
OTHERS = re.compile(
    r"aimv2_.*|beit3_.*|vit_.*_(xp|radio_v\d|18x2|intern300m.*)(_.*)?|vit_intern300m.*|vit_(dwee|pwee|dpwee|dlittle)_.*"
    r"|vit_.*_(resnet\d+d|mci)_.*|test_vit4|vit_base_patch16_rpn_224|test_vit3"
)
NOT_SHOWN = {"test_vit3"}  # its pooling reads the register too


def whole(state: dict[str, Tensor], size: tuple[int, int] | None) -> ViTConfig:
    config = timm.config(state, size)
    decode(state, timm.rules(config), "x")
    return config


def test_every_architecture_of_timms_plain_vit_is_read_exactly_or_refused_by_name() -> None:
    library = peer("timm")
    modules = ("vision_transformer", "deit", "vision_transformer_hybrid")
    names = [name for module in modules for name in library.list_models(module=module)]
    read_exactly, refused = 0, 0
    for name in names:
        small: dict[str, Any] = {} if "dwee" in name or "dlittle" in name or "dpwee" in name else {"depth": 2}
        hybrid = library.models.is_model_in_modules(name, ["vision_transformer_hybrid"])
        small |= {"embed_dim": 96, "num_heads": 2} if hybrid and "mci" not in name else {}
        model = library.create_model(name, **small, device="meta")
        state = {k: torch.empty(v.shape, device="meta") for k, v in model.state_dict().items()}
        size = tuple(model.patch_embed.img_size)
        sidecars = {"config.json": {"architecture": name, "pretrained_cfg": {}}}
        if OTHERS.fullmatch(name):
            with pytest.raises(UserError, match=f"architecture '{name}' is not a plain Vision Transformer"):
                timm.read_sidecars(sidecars)
            if name == "vit_base_patch16_rpn_224":  # recognised by its exact size
                state = dict(library.create_model(name, device="meta").state_dict())
            if name not in NOT_SHOWN and timm.matches(frozenset(state)):
                with pytest.raises(UserError):
                    whole(state, size)
            refused += 1
            continue
        told = timm.read_sidecars(sidecars).model
        config = override(timm.config(state, size), told | ({"num_heads": 2} if hybrid else {}), name)
        with torch.device("meta"):
            ours = encode(VisionTransformer(config).state_dict(), timm.rules(config))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}, name
        block = model.blocks[0]
        acts = {"GELU": "erf", "QuickGELU": "quick", "GELUTanh": "tanh", "SiLU": config.gelu}
        pools = {"token": "cls", "avg": "mean", "map": "map"}
        assert (config.num_heads, config.norm_eps) == (block.attn.num_heads, block.norm1.eps), name
        assert acts[type(block.mlp.act).__name__] == config.gelu, name
        assert (block.mlp.fc1.out_features == 2 * block.mlp.fc2.in_features) == (config.mlp == "swiglu")
        assert pools[model.global_pool] == config.pool, name
        assert isinstance(model.fc_norm, nn.Identity) != config.norm_after_pool, name
        assert model.no_embed_class == (config.prefix_positions == "none") or not config.prefix_tokens, name
        read_exactly += 1
    assert read_exactly >= 140
    assert refused >= 30


@pytest.mark.parametrize("size", ["tiny_patch16_384", "base_patch16_224", "large_patch14_336", "gigantic_patch14_448"])
def test_perception_encoders_have_the_names_of_a_plain_model_and_are_refused(size: str) -> None:
    model = peer("timm").create_model(f"vit_pe_core_{size}", device="meta")
    with pytest.raises(UserError, match=r"a Perception Encoder's \(vit_pe_core_\*\), which has rotary positions too"):
        timm.config(timm.normalise(model.state_dict()), None)


def test_no_other_architecture_of_timm_is_read_as_a_plain_one() -> None:
    """All but one family: the tensors of vit_*_rope_ape_224 are DeiT III's by name and shape, and a folder tells them apart."""
    library = peer("timm")
    matched = 0
    for module in ("eva", "beit", "vision_transformer_relpos", "vision_transformer_sam"):
        for name in library.list_models(module=module):
            if re.search(r"large|huge|gigantic|enormous|_7b|pe_core|sapiens", name):
                continue  # the names of smaller sizes; the test above; of a depth that cannot be changed
            state = library.create_model(name, device="meta", depth=2).state_dict()
            if timm.matches(frozenset(state)):
                matched += 1
                if "_rope_ape_" not in name:
                    with pytest.raises(UserError):
                        whole(timm.normalise(state), None)
                with pytest.raises(UserError, match=f"{name}' is not a plain Vision Transformer"):
                    timm.read_sidecars({"config.json": {"architecture": name, "pretrained_cfg": {}}})
    assert matched >= 50


def tiny(**changes: object) -> ViTConfig:
    base = ViTConfig(
        embed_dim=64, depth=2, num_heads=1, mlp_dim=24, patch_size=(4, 4), image_size=(12, 12), num_classes=5,
        position_rule="bicubic_antialias", gelu="erf",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def written(config: ViTConfig) -> dict[str, Tensor]:
    return encode(redrawn(VisionTransformer(config).state_dict()), timm.rules(config))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "module.backbone.", "_orig_mod.", "visual.trunk.", "encoder.module."]
)
def test_wrappers_are_taken_off(prefix: str) -> None:
    state = written(tiny())
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    assert [f.NAME for f in FORMATS if f.matches(frozenset(wrapped))] == ["timm"]
    assert equal(timm.normalise(wrapped), state)


def test_two_models_in_one_file_are_not_guessed_at() -> None:
    state = written(tiny())
    both = {f"{prefix}{name}": tensor for name, tensor in state.items() for prefix in ("encoder.", "backbone.")}
    assert not any(f.matches(frozenset(both)) for f in FORMATS)


def test_the_projection_head_of_dino_and_the_decoder_of_mae_are_ignored_and_named() -> None:
    state = written(tiny(num_classes=0))
    head = {f"head.{name}": torch.ones(2) for name in ("mlp.0.weight", "mlp.0.bias", "last_layer.weight_g")}
    decoder = {
        n: torch.ones(2) for n in ("mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_blocks.0.x")
    }
    dino = {f"backbone.{name}": tensor for name, tensor in state.items()} | head
    for file, extra in ((dino, head), (state | decoder, decoder)):
        assert [f.NAME for f in FORMATS if f.matches(frozenset(file))] == ["timm"]
        kept, ignored = split_ignored(timm.normalise(file), timm.IGNORE)
        assert set(ignored) == set(extra)
        assert equal(kept, state)


def test_the_text_tower_beside_a_timm_tower_is_ignored_and_its_projection_read_as_timm_does() -> None:
    state = written(tiny())
    file = {f"visual.trunk.{name}": tensor for name, tensor in state.items() if not name.startswith("head.")}
    file["visual.head.proj.weight"] = state["head.weight"]
    text = {"text.token_embedding.weight": torch.ones(2), "logit_scale": torch.ones(()), "logit_bias": torch.ones(())}
    assert [f.NAME for f in FORMATS if f.matches(frozenset(file | text))] == ["timm"]
    kept, ignored = split_ignored(timm.normalise(file | text), timm.IGNORE)
    assert set(ignored) == set(text)
    assert equal(kept, state | {"head.bias": torch.zeros(5)})


def test_a_tensor_outside_the_wrapper_never_passes_for_one_inside() -> None:
    state = {f"backbone.{name}": tensor for name, tensor in written(tiny(num_classes=0)).items()}
    state["head.weight"] = torch.ones(3, 64)  # a classifier of other code
    kept, ignored = split_ignored(timm.normalise(state), timm.IGNORE)
    assert not ignored
    config = timm.config(kept, None)
    assert config.num_classes == 0
    with pytest.raises(UserError, match=r"Unexpected \(1\): \(outside\) head\.weight"):
        decode(kept, timm.rules(config), "x")


def test_old_spellings_are_read() -> None:
    state = written(tiny(layer_scale=1e-5))
    old = {
        re.sub(r"ls([12])\.gamma", r"gamma_\1", name): tensor for name, tensor in state.items()
    }  # DeiT III's own files
    old["patch_embed.proj.weight"] = old["patch_embed.proj.weight"].flatten(1)  # a dense layer over patches
    assert "blocks.1.gamma_2" in old
    assert equal(timm.normalise(old), state)


FOREIGN = {
    "blocks.1.attn.q_norm.weight": "normalised queries and keys",
    "blocks.0.attn.q_bias": "BEiT's or EVA's attention",
    "blocks.0.attn.relative_position_bias_table": "BEiT's or EVA's attention",
    "blocks.0.attn.rel_pos_h": "BEiT's or EVA's attention",
    "blocks.0.attn.norm.weight": "norms inside the branches",
    "blocks.0.mlp.norm.weight": "norms inside the branches",
    "blocks.0.attn.lambda_q1": "differential attention",
    "rope.periods": "rotary positions",
    "patch_embed.norm.weight": "another patch embedding",
    "patch_embed.backbone.conv1.0.weight": "another patch embedding",
    "blocks.0.mlp.fc1_g.weight": "another gated MLP",
    "blocks.0.in_proj.weight": "parallel branches",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_another_architecture_has_is_named(name: str) -> None:
    state = written(tiny()) | {name: torch.ones(2)}
    assert timm.matches(frozenset(state))
    with pytest.raises(UserError, match=rf"{re.escape(name)} have {FOREIGN[name]}: not a plain Vision Transformer"):
        timm.config(timm.normalise(state), None)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("pos_embed", r"without pos_embed have other positions"),
        ("norm\\..*", r"need either norm or fc_norm.*final_norm=False"),
        (r"blocks\..*norm.\.bias", r"without blocks\.0\.norm1\.bias are not"),
        (r"blocks\..*mlp\.fc1\..*", r"without blocks\.0\.mlp\.fc1\.weight are not"),
        (r"head_dist\..*", r"dist_token and without head_dist"),
    ],
)
def test_what_a_plain_model_always_has_must_be_there(gone: str, message: str) -> None:
    state = written(tiny(registers=1, distilled=True))
    left = {name: tensor for name, tensor in state.items() if not re.fullmatch(gone, name)}
    with pytest.raises(UserError, match=message):
        timm.config(left, None)


def test_missing_and_left_over_tensors_are_named() -> None:
    state = written(tiny(registers=4, image_size=(16, 16), prefix_positions="none", layer_scale=1e-5))
    config = timm.config(state, None)
    for gone in ("blocks.1.ls2.gamma", "patch_embed.proj.bias", "blocks.0.attn.proj.weight"):
        left = {name: tensor for name, tensor in state.items() if name != gone}
        with pytest.raises(UserError, match=rf"Missing \(1\): {gone}\."):
            decode(left, timm.rules(timm.config(left, None)), "x")
    with pytest.raises(UserError, match=r"Unexpected \(1\): blocks\.0\.attn\.extra"):
        decode(state | {"blocks.0.attn.extra": torch.ones(1)}, timm.rules(config), "x")


def test_positions_with_and_without_rows_for_the_prefix_are_told_apart() -> None:
    for changes, image_size in (
        ({}, (12, 12)), ({"registers": 4}, (16, 16)), ({"cls_token": False, "pool": "mean", "registers": 4}, (20, 20)),
        ({"registers": 1, "distilled": True}, (12, 12)),
    ):  # fmt: skip
        for prefix in ("all", "none"):
            config = tiny(**changes, image_size=image_size, prefix_positions=prefix)
            state = written(config)
            assert timm.config(state, None).prefix_positions == prefix
            assert timm.config(state, None).image_size == image_size
            assert timm.config(state, image_size).prefix_positions == prefix
    doubtful = written(tiny(registers=4, prefix_positions="none"))  # 9 rows: 3x3, or 2x2 and 5
    with pytest.raises(
        UserError, match=r"9 positions are a square grid with and without the 5 prefix tokens.*source_image_size"
    ):
        timm.config(doubtful, None)
    assert timm.config(doubtful, (12, 12)).prefix_positions == "none"
    assert timm.config(doubtful, (8, 8)).prefix_positions == "all"


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "sincos2d"},
        {"position": "learned2d"},
        {"position": "none"},
        {"registers": 3, "prefix_positions": "cls"},
        {"registers": 1, "distilled": True, "prefix_positions": "cls"},
        {"registers": 1, "distilled": True, "prefix_positions": "none"},
        {"head_bias": False},
        {"registers": 1, "distilled": True, "head_bias": False},
        {"patch_bias": False},
        {"prefix_positions": "cls"},
    ],
    ids=str,
)
@torch.no_grad()
def test_what_timm_writes_otherwise_is_folded_into_the_tensors_exactly(changes: dict[str, object]) -> None:
    config = tiny(**changes)
    model = VisionTransformer(config).eval()
    model.load_state_dict(redrawn(model.state_dict()))
    prepared, tensors = timm.prepare(config, model.state_dict())
    read_back = timm.config(encode(tensors, timm.rules(prepared)), config.image_size)
    assert read_back == prepared
    folded = VisionTransformer(prepared).eval()
    folded.load_state_dict(tensors)
    images = images_for(config)
    assert torch.equal(folded(images), model(images))


def test_what_timm_has_no_names_for_is_not_written() -> None:
    for config, message in (
        (tiny(position="sincos2d"), "needs pos_embed"),
        (tiny(registers=2, distilled=True), "no place for registers"),
        (tiny(pool="map", mlp="swiglu"), r"no place for map_pool\.mlp"),
        (tiny(pre_norm=True), None),  # has a place for the bias that timm's model has not: the folder refuses it
    ):
        state = VisionTransformer(config).state_dict()
        if message is not None:
            with pytest.raises(UserError, match=message):
                encode(state, timm.rules(config))
        else:
            assert "patch_embed.proj.bias" in encode(state, timm.rules(config))


def test_positions_are_resampled_as_timm_does() -> None:
    resample = peer("timm.layers").resample_abs_pos_embed
    rule = timm.config(written(tiny()), None).position_rule
    table = torch.randn(1, 5 + 49, 16, generator=torch.Generator().manual_seed(0))
    for prefix in (0, 1, 5):
        for new in ((7, 7), (4, 11), (14, 9), (24, 24)):
            ours = resample_positions(table[:, : prefix + 49], (7, 7), new, prefix, rule)
            theirs = resample(table[:, : prefix + 49], list(new), [7, 7], num_prefix_tokens=prefix)
            assert torch.equal(ours, theirs)


@torch.no_grad()
def test_at_another_size_the_logits_are_those_of_timm_at_that_size() -> None:
    for name, arguments in (
        ("vit_small_patch14_reg4_dinov2", {"num_classes": 5}),
        ("deit_tiny_distilled_patch16_224", {}),
    ):
        library = peer("timm")
        small = {"embed_dim": 64, "depth": 2, "num_heads": 4, **arguments}
        model = library.create_model(name, img_size=(112, 112), **small).eval()
        state = redrawn(model.state_dict())
        model.load_state_dict(state)
        config = dataclasses.replace(timm.config(state, (112, 112)), num_heads=4)
        for size in ((84, 140), (224, 112)):
            other = dataclasses.replace(config, image_size=size)
            tensors = decode(state, timm.rules(config), name)
            table = resample_positions(
                tensors["pos_embed"], config.grid, other.grid, config.position_prefix, config.position_rule
            )
            ours = VisionTransformer(other).eval()
            ours.load_state_dict(tensors | {"pos_embed": table})
            resized = copy.deepcopy(model)
            resized.set_input_size(size)
            assert_close(ours(images_for(other)), resized(images_for(other)))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("DeiT", {"gelu": "tanh"}),
        ("DeiT", {"norm_eps": 1e-5}),
        ("DeiT", {"num_heads": 2}),
        ("CLIP image tower (LAION)", {"norm_eps": 1e-6}),
        ("CLIP image tower (LAION)", {"gelu": "quick"}),
        ("R+ViT-Ti/16", {"stem_numerics": "official"}),
    ],
    ids=str,
)
@torch.no_grad()
def test_the_bound_sees_every_setting_that_names_do_not_tell(family: str, change: dict[str, Any]) -> None:
    number = [row.family for row in OWN].index(family)
    theirs, state = drawn(number)
    config = dataclasses.replace(read(OWN[number], state, OWN[number].image_size), **change)
    wrong = VisionTransformer(config).eval()
    wrong.load_state_dict(decode(state, timm.rules(config), "x"))
    with pytest.raises(AssertionError):
        assert_close(wrong(images_for(config)), theirs(images_for(config)))


@pytest.mark.parametrize(
    "prefix",
    ["net.", "vit.", "trunk.", "teacher.backbone.", "module.base_encoder.", "model.network.", "_orig_mod.module."],
)
def test_names_that_training_code_wraps_are_read(prefix: str) -> None:
    state = written(tiny())
    file = {prefix + name: tensor for name, tensor in state.items()}
    assert [f.NAME for f in FORMATS if f.matches(frozenset(file))] == ["timm"]
    assert equal(timm.normalise(file), state)


def test_of_moco_v3_the_encoder_without_its_projector_is_read() -> None:
    state = written(tiny(num_classes=0))
    file = {f"module.base_encoder.{name}": tensor for name, tensor in state.items()}
    beside = {f"module.momentum_encoder.{name}": tensor for name, tensor in state.items()}
    beside |= {f"module.{name}": torch.ones(2) for name in ("base_encoder.head.0.weight", "predictor.1.running_mean")}
    assert [f.NAME for f in FORMATS if f.matches(frozenset(file | beside))] == ["timm"]
    kept, ignored = split_ignored(timm.normalise(file | beside), timm.IGNORE)
    assert len(ignored) == len(beside)
    assert equal(kept, state)


@pytest.mark.parametrize(
    ("size", "heads"),
    [((1280, 32), 16), ((1152, 27), 16), ((1408, 40), 16), ((1664, 48), 16), ((1536, 40), 24), ((768, 12), 12)],
)
@pytest.mark.parametrize("module", [timm, dinov2, open_clip, torchvision])
def test_heads_of_published_sizes_are_assumed_by_every_layout(module: Any, size: tuple[int, int], heads: int) -> None:
    config = tiny(embed_dim=size[0], depth=size[1], mlp_dim=8, num_heads=1, registers=int(module is dinov2))
    if module is open_clip:
        config = dataclasses.replace(config, pre_norm=True, patch_bias=False, head_bias=False)
    if module is dinov2:
        config = dataclasses.replace(config, num_classes=0, prefix_positions="cls")
    with torch.device("meta"):
        state = encode(VisionTransformer(config).state_dict(), module.rules(config))
    assert module.config(state, None).num_heads == heads
    if module is timm:
        pooled = dataclasses.replace(config, cls_token=False, pool="map")
        with torch.device("meta"):
            state = encode(VisionTransformer(pooled).state_dict(), timm.rules(pooled))
        assert timm.config(state, None).num_heads == (16 if size == (1536, 40) else heads)
