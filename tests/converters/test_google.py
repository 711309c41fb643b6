"""The official .npz layout: hybrids, prefixes, old spellings, and what is written for models that have other parts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from golden import golden_config
from vitkit.config import UserError
from vitkit.converters import big_vision, google
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.models.vit import VisionTransformer, ViTConfig

HYBRIDS: dict[str, dict[str, object]] = {
    "root only": {"stem": (), "patch_size": (8, 8)},
    "two stages": {"stem": (1, 2), "patch_size": (1, 1)},
    "four stages, gray, pre_logits": {
        "stem": (1, 1, 1, 2), "patch_size": (1, 1), "in_channels": 1, "representation_size": 12, "image_size": (96, 96),
    },
    "mean pooling, no head": {"stem": (1,), "patch_size": (2, 2), "cls_token": False, "pool": "mean", "num_classes": 0},
}  # fmt: skip
OLDER = {  # Linen's numbering -> that of the released files
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}


def random_model(config: ViTConfig) -> VisionTransformer:
    model = VisionTransformer(config).eval()
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=rng) + (parameter.ndim == 1)
    return model


def stored(config: ViTConfig, pre_linen: bool = False, prefix: str = "") -> dict[str, Tensor]:
    """A file of that configuration."""
    linen = encode(random_model(config).state_dict(), google.rules(config))
    renamed = {}
    for name, tensor in linen.items():
        parts = [OLDER.get(part, part) if pre_linen else part for part in name.split("/")]
        renamed[prefix + "/".join(parts)] = tensor
    return renamed


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("case", HYBRIDS)
def test_hybrids_read_and_write_to_the_last_bit_and_tell_their_configuration(case: str) -> None:
    config = golden_config(**HYBRIDS[case])
    theirs = stored(config)
    names = frozenset(theirs)
    assert google.matches(names)
    assert not big_vision.matches(names)
    assert google.config(theirs, None) == config
    rules = google.rules(config)
    ours = random_model(config).state_dict()
    assert_equal(decode(theirs, rules, "x"), dict(ours))
    assert_equal(encode(decode(theirs, rules, "x"), rules), theirs)


def test_the_names_and_axes_of_a_hybrid_s_tensors() -> None:
    config = golden_config(stem=(1, 2), patch_size=(1, 1))
    theirs = stored(config)
    assert theirs["conv_root/kernel"].shape == (7, 7, 3, 64)
    assert theirs["block2/unit1/conv2/kernel"].shape == (3, 3, 128, 128)
    assert theirs["block2/unit1/conv_proj/kernel"].shape == (1, 1, 256, 512)
    assert "block2/unit2/conv_proj/kernel" not in theirs
    assert theirs["embedding/kernel"].shape == (1, 1, 512, 64)
    ours = random_model(config).state_dict()
    assert ours["stem.stages.1.0.conv2.weight"][5, 7, 1, 2] == theirs["block2/unit1/conv2/kernel"][1, 2, 7, 5]
    assert torch.equal(ours["stem.stages.1.1.gn3.weight"], theirs["block2/unit2/gn3/scale"])


def test_group_norms_of_old_files_become_vectors() -> None:
    config = golden_config(stem=(1, 2), patch_size=(1, 1))
    new = stored(config)
    old = stored(config, pre_linen=True, prefix="opt/target/")
    norms = [name for name in old if "/gn" in name]
    assert len(norms) == 2 * (1 + 3 * 3 + 2)
    for name in norms:
        old[name] = old[name].reshape(1, 1, 1, -1)
    assert_equal(google.normalise(old), new)


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/", "params/img/", "img/"])
@pytest.mark.parametrize("pre_linen", [False, True])
def test_numbering_is_told_by_names_and_never_by_prefix(prefix: str, pre_linen: bool) -> None:
    config = golden_config(representation_size=12)
    theirs = stored(config, pre_linen, prefix)
    assert google.matches(frozenset(theirs))
    assert not big_vision.matches(frozenset(theirs))
    assert_equal(google.normalise(theirs), stored(config))


def test_optimiser_state_and_other_parts_are_left_out_by_the_names_they_have() -> None:
    config = golden_config()
    beside = {
        "opt/state/step": torch.tensor(3),
        "opt/state/param_states/embedding/kernel/momentum": torch.zeros(2),
        "opt/state/param_states/Transformer/encoderblock_0/LayerNorm_2/scale/momentum": torch.zeros(2),
        "extra/accum_train_time": torch.zeros(()),
    }
    state = {**stored(config, pre_linen=True, prefix="opt/target/"), **beside}
    assert google.matches(frozenset(state))
    kept, ignored = split_ignored(google.normalise(state), google.IGNORE)
    assert sorted(ignored) == sorted(beside)  # as in the file, so that a reader need not open them
    assert_equal(kept, stored(config))
    # what lies under the prefix and is no part of the model is not left out but named
    state["opt/target/Transformer/encoderblock_0/Adapter_0/scale"] = torch.zeros(1)
    kept, _ = split_ignored(google.normalise(state), google.IGNORE)
    with pytest.raises(UserError, match=r"Unexpected \(1\): Transformer/encoderblock_0/Adapter_0/scale\."):
        decode(kept, google.rules(config), "x")


def test_two_models_or_two_spellings_in_one_file_are_refused() -> None:
    config = golden_config()
    both = {**stored(config, prefix="params/"), **stored(config, prefix="opt/target/")}
    with pytest.raises(UserError, match=r"2 image models \(params/embedding/kernel, opt/target/embedding/kernel\)"):
        google.normalise(both)
    twice = {**stored(config, prefix="params/"), "cls": torch.zeros(1, 1, 64)}
    with pytest.raises(UserError, match=r"params/cls and cls are two spellings of the same tensor"):
        google.normalise(twice)


def test_a_block_that_is_missing_is_not_closed_up() -> None:
    config = golden_config(depth=3)
    theirs = {name: t for name, t in stored(config, pre_linen=True).items() if "encoderblock_1/" not in name}
    state = google.normalise(theirs)
    with pytest.raises(UserError, match=r"Missing \(16\): Transformer/encoderblock_1/"):
        decode(state, google.rules(dataclasses.replace(google.config(state, None), depth=3)), "x")
    with pytest.raises(UserError, match=r"Missing .*encoderblock_1/.* Unexpected .*encoderblock_2/"):
        decode(state, google.rules(google.config(state, None)), "x")


def test_another_number_of_heads_in_one_block_is_refused() -> None:
    config = golden_config()
    theirs = stored(config)
    for part in ("query", "key", "value"):
        name = f"Transformer/encoderblock_1/MultiHeadDotProductAttention_0/{part}"
        theirs[f"{name}/kernel"] = theirs[f"{name}/kernel"].reshape(64, 2, 32)  # of the same size as 4 heads
    with pytest.raises(UserError, match=r"shape that does not fit the others: .*query/kernel \(64, 2, 32\)"):
        decode(theirs, google.rules(google.config(theirs, None)), "x")


@pytest.mark.parametrize("name", ["H/14", "R50+L/32", "R26+S/32", "R+Ti/16", "R50+B/16"])
@pytest.mark.parametrize("size", [224, 384])
def test_large_sizes_are_recognised_from_shapes_alone(name: str, size: int) -> None:
    size -= size % 14 if name == "H/14" else 0
    config = ViTConfig.named(name, image_size=(size, size), num_classes=21_843, representation_size=24)
    with torch.device("meta"):
        model = VisionTransformer(config)
    theirs = encode(model.state_dict(), google.rules(config))
    old = {f"opt/target/{n}": t.reshape(1, 1, 1, -1) if "/gn" in f"/{n}" else t for n, t in theirs.items()}
    assert google.matches(frozenset(old))
    state = google.normalise(old)
    assert all(tensor.is_meta for tensor in state.values())
    assert google.config(state, None) == config
    ours = decode(state, google.rules(config), "x")
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert all(tensor.is_meta for tensor in ours.values())


def logits(model: VisionTransformer) -> Tensor:
    images = torch.randn(2, 3, *model.config.image_size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(images)


PREPARED: dict[str, dict[str, object]] = {
    "as it is": {},
    "cls without a position": {"prefix_positions": "none"},
    "no prefix at all": {"cls_token": False, "pool": "mean", "prefix_positions": "none"},
    "cls alone has a position": {"prefix_positions": "cls"},
    "no biases": {"qkv_bias": False, "patch_bias": False, "head_bias": False},
    "sin-cos positions": {"position": "sincos2d"},
    "sin-cos positions without cls": {"position": "sincos2d", "cls_token": False, "pool": "mean"},
    "positions of two axes": {"position": "learned2d", "image_size": (64, 64)},
    "no positions": {"position": "none"},
}


@pytest.mark.parametrize("case", PREPARED)
def test_what_is_written_for_other_models_computes_the_same(case: str) -> None:
    model = random_model(golden_config(**PREPARED[case]))
    config, state = google.prepare(model.config, model.state_dict())
    written = encode(state, google.rules(config))
    read = google.config(written, None)
    assert read == config  # so that nothing has to be said beside the file
    again = VisionTransformer(read).eval()
    again.load_state_dict(decode(written, google.rules(read), "x"))
    torch.testing.assert_close(logits(again), logits(model), atol=1e-6, rtol=1e-6)
    if "biases" not in case:
        assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"registers": 2}, "no place for registers"),
        ({"layer_scale": 0.1}, "no place for .*layer_scale1"),
        ({"pre_norm": True}, "no place for norm_pre"),
        ({"pool": "map"}, "no place for map_pool"),
        ({"distilled": True, "registers": 1}, "no place for .*registers"),
        ({"mlp": "swiglu", "mlp_dim": 64}, "no place for an MLP of kind 'swiglu'"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(changes: dict[str, object], found: str) -> None:
    model = random_model(golden_config(**changes))
    config, state = google.prepare(model.config, model.state_dict())
    with pytest.raises(UserError, match=found):
        encode(state, google.rules(config))


def test_files_are_written_with_the_numbering_of_the_released_ones() -> None:
    config = golden_config(representation_size=12)
    written = google.released(stored(config))
    assert_equal(written, stored(config, pre_linen=True))
    assert "Transformer/encoderblock_0/LayerNorm_0/scale" in written
    assert_equal(google.normalise(written), stored(config))
