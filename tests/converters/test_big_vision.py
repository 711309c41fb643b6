"""big_vision's .npz layout: its forward in numpy, map pooling, sin-cos positions, stacked blocks and older spellings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden import golden_config
from plain import gelu, layer_norm, softmax
from vitkit.config import UserError
from vitkit.converters import big_vision, google, timm
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.models.vit import VisionTransformer, ViTConfig

Arrays = dict[str, np.ndarray[Any, np.dtype[np.float32]]]
WITHOUT_CLS: dict[str, object] = {"cls_token": False, "pool": "mean"}
CASES: dict[str, dict[str, object]] = {
    "gap": WITHOUT_CLS,
    "tok": {},
    "map": {"cls_token": False, "pool": "map"},
    "map, pre_logits": {"cls_token": False, "pool": "map", "representation_size": 24},
    "map, no head": {"cls_token": False, "pool": "map", "num_classes": 0},
    "gap, sincos, pre_logits": {**WITHOUT_CLS, "position": "sincos2d", "representation_size": 24},
    "tok, sincos": {"position": "sincos2d"},
    "map, sincos": {"cls_token": False, "pool": "map", "position": "sincos2d"},
    "gap, gray, rectangular patches": {**WITHOUT_CLS, "in_channels": 1, "patch_size": (16, 32), "image_size": (48, 96)},
}


def config_of(case: str) -> ViTConfig:
    return golden_config(prefix_positions="none", **CASES[case])


def written(rng: np.random.Generator, config: ViTConfig) -> Arrays:
    """A file as big_vision's own code would write it: shapes by VIT_SPEC 2.4, not by our rules."""
    D, M, K, d = config.embed_dim, config.mlp_dim, config.num_heads, config.embed_dim // config.num_heads

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}/scale": (D,), f"{name}/bias": (D,)}

    def attention(name: str) -> dict[str, tuple[int, ...]]:
        parts = {f"{name}/{part}/kernel": (D, K, d) for part in ("query", "key", "value")}
        biases = {f"{name}/{part}/bias": (K, d) for part in ("query", "key", "value")}
        return {**parts, **biases, f"{name}/out/kernel": (K, d, D), f"{name}/out/bias": (D,)}

    def mlp(name: str) -> dict[str, tuple[int, ...]]:
        first = {f"{name}/Dense_0/kernel": (D, M), f"{name}/Dense_0/bias": (M,)}
        return {**first, f"{name}/Dense_1/kernel": (M, D), f"{name}/Dense_1/bias": (D,)}

    shapes = {"embedding/kernel": (*config.patch_size, config.in_channels, D), "embedding/bias": (D,)}
    if config.position == "learned":
        shapes["pos_embedding"] = (1, config.grid[0] * config.grid[1], D)
    if config.cls_token:
        shapes["cls"] = (1, 1, D)
    for layer in range(config.depth):
        block = f"Transformer/encoderblock_{layer}"
        shapes |= {**norm(f"{block}/LayerNorm_0"), **attention(f"{block}/MultiHeadDotProductAttention_0")}
        shapes |= {**norm(f"{block}/LayerNorm_1"), **mlp(f"{block}/MlpBlock_0")}
    shapes |= norm("Transformer/encoder_norm")
    if config.pool == "map":
        shapes["MAPHead_0/probe"] = (1, 1, D)
        shapes |= {**attention("MAPHead_0/MultiHeadDotProductAttention_0"), **norm("MAPHead_0/LayerNorm_0")}
        shapes |= mlp("MAPHead_0/MlpBlock_0")
    if config.representation_size:
        shapes |= {
            "pre_logits/kernel": (D, config.representation_size),
            "pre_logits/bias": (config.representation_size,),
        }
    if config.num_classes:
        shapes |= {"head/kernel": (config.feature_dim, config.num_classes), "head/bias": (config.num_classes,)}
    return {
        name: (0.25 * rng.standard_normal(shape) + name.endswith("scale")).astype(np.float32)
        for name, shape in shapes.items()
    }


def forward(arrays: Arrays, config: ViTConfig, images: np.ndarray) -> np.ndarray:
    """What big_vision computes of images (B, H, W, C) with these arrays (VIT_SPEC 1.3), in double precision."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ a[f"{name}/kernel"] + a[f"{name}/bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, a[f"{name}/scale"], a[f"{name}/bias"], 1e-6)

    def attention(queries: np.ndarray, x: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (
            np.einsum("bnD,DKd->bKnd", y, a[f"{name}/{part}/kernel"]) + a[f"{name}/{part}/bias"][:, None]
            for y, part in ((queries, "query"), (x, "key"), (x, "value"))
        )
        weights = softmax(np.einsum("bKqd,bKnd->bKqn", q, k) / math.sqrt(q.shape[-1]))
        mixed = np.einsum("bKqn,bKnd->bqKd", weights, v)
        return np.einsum("bqKd,KdD->bqD", mixed, a[f"{name}/out/kernel"]) + a[f"{name}/out/bias"]

    def mlp(x: np.ndarray, name: str) -> np.ndarray:
        return dense(gelu(dense(x, f"{name}/Dense_0"), "tanh"), f"{name}/Dense_1")

    B, (p, q), (h, w), D = len(images), config.patch_size, config.grid, config.embed_dim
    patches = images[:, : h * p, : w * q].reshape(B, h, p, w, q, -1)
    x = np.einsum("bhpwqc,pqcD->bhwD", patches, a["embedding/kernel"]).reshape(B, h * w, D) + a["embedding/bias"]
    if "pos_embedding" in a:
        x = x + a["pos_embedding"]
    else:
        rows, columns = np.mgrid[:h, :w].reshape(2, -1, 1)
        omega = 10_000.0 ** (-np.arange(D // 4) / (D // 4 - 1))
        waves = [f(place * omega) for place in (columns, rows) for f in (np.sin, np.cos)]
        x = x + np.concatenate(waves, axis=1)
    if "cls" in a:
        x = np.concatenate([np.tile(a["cls"], (B, 1, 1)), x], axis=1)
    for layer in range(config.depth):
        block = f"Transformer/encoderblock_{layer}"
        y = norm(x, f"{block}/LayerNorm_0")
        x = x + attention(y, y, f"{block}/MultiHeadDotProductAttention_0")
        x = x + mlp(norm(x, f"{block}/LayerNorm_1"), f"{block}/MlpBlock_0")
    x = norm(x, "Transformer/encoder_norm")
    if "MAPHead_0/probe" in a:
        y = attention(np.tile(a["MAPHead_0/probe"], (B, 1, 1)), x, "MAPHead_0/MultiHeadDotProductAttention_0")
        x = (y + mlp(norm(y, "MAPHead_0/LayerNorm_0"), "MAPHead_0/MlpBlock_0"))[:, 0]
    else:
        x = x[:, 0] if "cls" in a else x.mean(axis=1)
    if "pre_logits/kernel" in a:
        x = np.tanh(dense(x, "pre_logits"))
    return dense(x, "head") if "head/kernel" in a else x


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def read(state: dict[str, Tensor], source: tuple[int, int] | None) -> VisionTransformer:
    state, _ = split_ignored(big_vision.normalise(state), big_vision.IGNORE)
    config = big_vision.config(state, source)
    model = VisionTransformer(config).eval()
    model.load_state_dict(decode(state, big_vision.rules(config), "x"))
    return model


def logits(model: VisionTransformer, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


@pytest.mark.parametrize("case", CASES)
def test_a_file_computes_what_big_vision_computes(case: str) -> None:
    rng = np.random.default_rng(0)
    config = config_of(case)
    arrays = written(rng, config)
    images = rng.uniform(-1, 1, (3, *config.image_size, config.in_channels)).astype(np.float32)
    expected = forward(arrays, config, images)
    model = read(
        tensors(arrays), config.image_size if config.position == "sincos2d" or len({*config.grid}) > 1 else None
    )
    assert model.config == config
    got = logits(model, images)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_reading_and_writing_are_inverse_to_the_last_bit(case: str) -> None:
    config = config_of(case)
    theirs = tensors(written(np.random.default_rng(1), config))
    assert [f for f in (big_vision, google, timm) if f.matches(frozenset(theirs))] == [big_vision]
    rules = big_vision.rules(config)
    back = encode(decode(big_vision.normalise(theirs), rules, "x"), rules)
    assert set(back) == set(theirs)
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def stacked(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The same file with all blocks in one module."""
    loop = "Transformer/encoderblock_"
    scan = {name: tensor for name, tensor in state.items() if not name.startswith(loop)}
    for name in state:
        if name.startswith(f"{loop}0/"):
            rest = name.removeprefix(f"{loop}0/")
            scan[f"Transformer/encoderblock/{rest}"] = torch.stack([state[f"{loop}{i}/{rest}"] for i in range(depth)])
    return scan


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/", "params/img/", "img/"])
@pytest.mark.parametrize("scan", [False, True])
def test_prefixes_and_stacked_blocks_read_alike(prefix: str, scan: bool) -> None:
    config = config_of("map")
    plain = tensors(written(np.random.default_rng(1), config))
    state = stacked(plain, config.depth) if scan else plain
    assert len(state) == len(plain) - 16 * scan
    beside = {
        "params/txt/Encoder_0/encoderblock_0/LayerNorm_0/scale": torch.zeros(2), "params/t": torch.zeros(1),
        "opt/0/mu/img/embedding/kernel": torch.zeros(1), "txt/head/bias": torch.zeros(1), "extra/time": torch.zeros(()),
    }  # fmt: skip
    beside = {name: tensor for name, tensor in beside.items() if prefix != "params/" or not name.startswith("params/")}
    state = {**{prefix + name: tensor for name, tensor in state.items()}, **beside}
    assert [f for f in (big_vision, google, timm) if f.matches(frozenset(state))] == [big_vision]
    kept, ignored = split_ignored(big_vision.normalise(state), big_vision.IGNORE)
    assert sorted(ignored) == sorted(beside)
    assert set(kept) == set(plain)
    assert all(torch.equal(kept[name], plain[name]) for name in plain)


def test_older_spellings_read_alike() -> None:
    """Positions inside the encoder, the pooling head's parts at the top level, modules counted across classes."""
    config = config_of("map")
    plain = tensors(written(np.random.default_rng(1), config))
    older = {}
    for name, tensor in plain.items():
        old = name.replace("pos_embedding", "Transformer/pos_embedding").removeprefix("MAPHead_0/")
        if name.startswith("Transformer/encoderblock_"):
            for new, before in (
                ("LayerNorm_1", "LayerNorm_2"),
                ("MlpBlock_0", "MlpBlock_3"),
                ("Attention_0", "Attention_1"),
            ):
                old = old.replace(new, before)
        older[old] = tensor
    assert {"probe", "LayerNorm_0/scale", "MlpBlock_0/Dense_1/bias"} <= set(older)
    assert [f for f in (big_vision, google, timm) if f.matches(frozenset(older))] == [big_vision]
    state = big_vision.normalise(older)
    assert set(state) == set(plain)
    assert all(torch.equal(state[name], plain[name]) for name in plain)


def test_a_row_of_the_cls_token_in_an_old_table_is_recognised_and_written_into_the_token() -> None:
    rng = np.random.default_rng(3)
    config = config_of("tok")
    arrays = written(rng, config)
    row = rng.standard_normal((1, 1, 64)).astype(np.float32)
    images = rng.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    folded = {**arrays, "cls": arrays["cls"] + row}
    old = {**arrays, "Transformer/pos_embedding": np.concatenate([row, arrays["pos_embedding"]], axis=1)}
    del old["pos_embedding"]
    for source in (None, (64, 64)):
        model = read(tensors(old), source)
        assert model.config.prefix_positions == "all"
        assert np.array_equal(logits(model, images), logits(read(tensors(folded), None), images))
    config, state = big_vision.prepare(model.config, model.state_dict())
    again = encode(state, big_vision.rules(config))
    assert set(again) == set(arrays)
    assert np.array_equal(again["cls"].numpy(), folded["cls"])
    assert np.array_equal(again["pos_embedding"].numpy(), arrays["pos_embedding"])


def test_files_without_positions_need_the_image_size() -> None:
    state = tensors(written(np.random.default_rng(0), config_of("gap, sincos, pre_logits")))
    with pytest.raises(UserError, match=r"fixed sin-cos positions.*source_image_size=\(H, W\)"):
        big_vision.config(state, None)
    assert big_vision.config(state, (32, 80)).grid == (2, 5)
    grid = tensors(written(np.random.default_rng(0), config_of("gap, gray, rectangular patches")))
    del grid["pos_embedding"]
    grid["pos_embedding"] = torch.zeros(1, 6, 64)
    with pytest.raises(
        UserError, match=r"big_vision weights: 6 patch positions are not a square grid.*source_image_size"
    ):
        big_vision.config(grid, None)


def test_stacked_blocks_of_an_impossible_shape_and_mixed_files_are_refused() -> None:
    config = config_of("gap")
    plain = tensors(written(np.random.default_rng(1), config))
    scan = stacked(plain, config.depth)
    name = "Transformer/encoderblock/LayerNorm_0/scale"
    for shape in ((), (64,), (0, 64), (10**9, 0)):
        with pytest.raises(UserError, match=r"does not hold the tensors of 1 to 1000 blocks"):
            big_vision.normalise({**scan, name: torch.empty(shape, device="meta")})
    with pytest.raises(UserError, match=r"encoderblock_0/.* both by itself and stacked"):
        big_vision.normalise({**plain, **scan})
    shorter = {**scan, name: scan[name][:1]}
    state = big_vision.normalise(shorter)
    with pytest.raises(UserError, match=r"Missing \(1\): Transformer/encoderblock_1/LayerNorm_0/scale"):
        decode(state, big_vision.rules(big_vision.config(state, None)), "x")


def test_another_number_of_heads_in_the_pooling_is_refused() -> None:
    theirs = tensors(written(np.random.default_rng(1), config_of("map")))
    name = "MAPHead_0/MultiHeadDotProductAttention_0/out/kernel"
    theirs[name] = theirs[name].reshape(2, 32, 64)
    with pytest.raises(UserError, match=rf"shape that does not fit the others: {name} \(2, 32, 64\)"):
        decode(theirs, big_vision.rules(big_vision.config(theirs, None)), "x")


def test_large_stacked_files_are_recognised_from_shapes_alone() -> None:
    config = ViTConfig(
        embed_dim=1152, depth=27, num_heads=16, mlp_dim=4304, patch_size=(14, 14), image_size=(378, 378), num_classes=0,
        cls_token=False, pool="map", prefix_positions="none",
    )  # fmt: skip
    with torch.device("meta"):
        model = VisionTransformer(config)
    plain = encode(model.state_dict(), big_vision.rules(config))
    state = {f"params/img/{name}": tensor for name, tensor in stacked(plain, 27).items()}
    assert big_vision.matches(frozenset(state))
    read_back = big_vision.normalise(state)
    assert all(tensor.is_meta for tensor in read_back.values())
    assert big_vision.config(read_back, None) == config
    ours = decode(read_back, big_vision.rules(config), "x")
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in model.state_dict().items()}


PREPARED: dict[str, dict[str, object]] = {
    "cls with a position": {},
    "no prefix": WITHOUT_CLS,
    "map over cls": {"pool": "map"},
    "no biases": {"qkv_bias": False, "patch_bias": False, "head_bias": False},
    "sin-cos positions": {"position": "sincos2d"},
    "positions of two axes": {"position": "learned2d"},
    "no positions": {"position": "none"},
}


@pytest.mark.parametrize("case", PREPARED)
def test_what_is_written_for_other_models_computes_the_same(case: str) -> None:
    rng = torch.Generator().manual_seed(0)
    model = VisionTransformer(golden_config(**PREPARED[case])).eval()
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=rng) + (parameter.ndim == 1)
    config, state = big_vision.prepare(model.config, model.state_dict())
    file = encode(state, big_vision.rules(config))
    assert ("pos_embedding" in file) == (case != "sin-cos positions")
    again = read(file, (64, 64))
    assert again.config == config
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(logits(again, images), logits(model, images), atol=1e-6, rtol=1e-6)
    if case != "no biases":
        assert np.array_equal(logits(again, images), logits(model, images))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"registers": 2}, "no place for registers"),
        ({"layer_scale": 0.1}, "no place for .*layer_scale1"),
        ({"stem": (), "patch_size": (8, 8)}, "no place for stem"),
        ({"mlp": "swiglu", "mlp_dim": 64}, "no place for an MLP of kind 'swiglu'"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(changes: dict[str, object], found: str) -> None:
    model = VisionTransformer(golden_config(**changes))
    model.init_weights(0)
    config, state = big_vision.prepare(model.config, model.state_dict())
    with pytest.raises(UserError, match=found):
        encode(state, big_vision.rules(config))
