"""Compiled training steps are as near to float64 as PyTorch's autocast; what they do not take is left to PyTorch."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vitkit.engines.native import training
from vitkit.engines.native.training import step, training_missing, untrained
from vitkit.models.draws import Draws
from vitkit.models.lora import add_lora
from vitkit.models.vit import Block, VisionTransformer, ViTConfig

Forward = Callable[[Block, Tensor], Tensor]

CONFIG = ViTConfig(embed_dim=64, depth=1, num_heads=2, mlp_dim=96, gelu="erf")
DRAWS = 4
FLOOR = 1.1  # of autocast's error: two roundings of the same numbers in other places differ by chance
needed = pytest.mark.skipif(bool(training_missing()), reason=training_missing())


def made(config: ViTConfig, drop_path: float = 0.0) -> Block:
    block, rng = Block(config, drop_path), torch.Generator().manual_seed(0)
    block.attn.fused = False
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * spread)
            if name.startswith("norm") and name.endswith("weight"):
                parameter.add_(1)
    return block


def gradients(forward: Forward, block: Block, x: Tensor, dy: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output and every gradient, by name; under bf16 autocast in float32, plainly in float64."""
    block, x = copy.deepcopy(block).to(dtype), x.to(dtype, copy=True).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        y = forward(block, x)
    y.backward(dy.to(y.dtype))
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **{n: p.grad for n, p in block.named_parameters() if p.grad is not None}}


def check(block: Block, images: int, tokens: int, rows: int | None = None) -> None:
    """Over some draws each of ours is as near to float64's as autocast's; key biases, whose gradient is 0, are left out."""
    D, rng = block.norm1.normalized_shape[0], torch.Generator().manual_seed(1)
    off: dict[str, Tensor] = {}
    for _ in range(DRAWS):
        x, dy = torch.randn(2, images, tokens, D, generator=rng)
        if rows is not None:
            dy[:, rows:] = 0
        exact = gradients(Block.forward, block, x, dy, torch.float64)
        found = [gradients(forward, block, x, dy, torch.float32) for forward in (step, Block.forward)]
        assert set(found[0]) == set(exact)
        for name, right in exact.items():
            keys = slice(D, 2 * D) if name == "attn.qkv.bias" else slice(0)
            far = torch.stack([tensors[name].double() - right for tensors in found])
            far[:, keys] = 0
            off[name] = off.get(name, torch.zeros(2)) + far.flatten(1).square().sum(1) / right.norm().square()
    for name, (ours, usual) in off.items():
        assert ours.sqrt() <= FLOOR * usual.sqrt() + 1e-12, name


@needed
@pytest.mark.parametrize("gelu", ["erf", "tanh", "quick"])
@pytest.mark.parametrize(
    ("images", "tokens", "width", "heads", "hidden"),
    [(2, 197, 192, 3, 768), (7, 65, 192, 3, 768), (5, 5, 96, 3, 384), (1, 66, 384, 6, 1536), (3, 50, 80, 5, 112)],
)
def test_gradients_are_as_near_to_float64_as_autocasts(
    images: int, tokens: int, width: int, heads: int, hidden: int, gelu: str
) -> None:
    check(made(ViTConfig(embed_dim=width, num_heads=heads, mlp_dim=hidden, gelu=gelu)), images, tokens)


@needed
@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_tokens_without_a_gradient_cost_none_and_change_none(rows: int) -> None:
    check(made(CONFIG), 7, 65, rows)


@needed
@pytest.mark.parametrize("changes", [{"layer_scale": 0.5}, {"qkv_bias": False}, {"num_heads": 1}, {"registers": 4}])
def test_variants_of_blocks(changes: dict[str, object]) -> None:
    block = made(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    assert not untrained(block)
    check(block, 3, 40)


@needed
def test_one_token() -> None:
    """Softmax of one is 1 whatever it is of: queries and keys have no gradient, and what rounding makes of it is small."""
    block, rng = made(CONFIG), torch.Generator().manual_seed(1)
    x, dy = torch.randn(2, 5, 1, 64, generator=rng)
    exact = gradients(Block.forward, block, x, dy, torch.float64)
    for name, found in gradients(step, block, x, dy, torch.float32).items():
        assert (found.double() - exact[name]).norm() <= 2e-2 * exact[name].norm(), name


@needed
def test_stochastic_depth_drops_what_the_block_drops() -> None:
    block, rng = made(CONFIG, 0.4), torch.Generator().manual_seed(0)
    block.draws = Draws(3, 4, torch.arange(9))
    check(block, 9, 17)
    x = torch.randn(9, 17, 64, generator=rng)
    block.draws = None
    outs = []
    for forward in (step, Block.forward):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            outs.append(forward(block, x.clone().requires_grad_()).detach())
    assert float((outs[0] - outs[1]).abs().max()) < 0.05


@needed
def test_bits_depend_neither_on_threads_nor_on_time() -> None:
    before, found = torch.get_num_threads(), []
    block, rng = made(CONFIG), torch.Generator().manual_seed(0)
    x, dy = torch.randn(2, 50, 33, 64, generator=rng)  # several chunks, the last one smaller
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        found.append(gradients(step, block, x, dy, torch.float32))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in found[0].items())


@needed
def test_only_what_is_trained_has_a_gradient() -> None:
    block = made(CONFIG)
    block.mlp.requires_grad_(False)
    found = gradients(step, block, *torch.randn(2, 2, 9, 64), torch.float32)
    assert not any(name.startswith("mlp") for name in found)
    assert "attn.qkv.weight" in found


@needed
def test_low_rank_updates_are_trained() -> None:
    model = VisionTransformer(ViTConfig(embed_dim=64, depth=1, num_heads=2, mlp_dim=96, num_classes=3))
    model.init_weights(0)
    add_lora(model, 0)
    block = model.blocks[0]
    assert not untrained(block)
    x, dy = torch.randn(2, 2, 9, 64, generator=torch.Generator().manual_seed(0))
    ours, usual = (gradients(forward, block, x, dy, torch.float32) for forward in (step, Block.forward))
    assert set(ours) == set(usual)
    name = "attn.qkv.parametrizations.weight.0.b"
    assert (ours[name] - usual[name]).norm() < 2e-2 * usual[name].norm()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"attention_dropout": 0.1}, "dropout"),
        ({"position": "relative"}, "relative positions"),
        ({"mlp": "swiglu"}, "SwiGLU"),
        ({"embed_dim": 72, "num_heads": 3}, "embed_dim is 72, not a multiple of 16"),
        ({"num_heads": 8}, "the width of heads is 8, not a multiple of 16"),
        ({"mlp_dim": 90}, "mlp_dim is 90, not a multiple of 16"),
    ],
)
def test_what_is_left_to_pytorch_is_said(changes: dict[str, object], reason: str) -> None:
    assert untrained(Block(dataclasses.replace(CONFIG, **changes), 0.0)) == reason  # type: ignore[arg-type]


def test_parts_of_another_kind_are_left_to_pytorch() -> None:
    block = made(CONFIG)
    block.mlp.fc1 = nn.Sequential(block.mlp.fc1)  # type: ignore[assignment]
    assert untrained(block) == "mlp.fc1 is Sequential"
    assert untrained(made(CONFIG).double()) == "its weights are not float32 on the processor"


def test_without_training_or_autocast_the_bits_are_pytorchs() -> None:
    block, x = made(CONFIG), torch.randn(2, 9, 64)
    assert torch.equal(step(block, x), Block.forward(block, x))
    with torch.autocast("cpu", torch.bfloat16):
        block.eval()
        assert torch.equal(step(block, x), Block.forward(block, x))
        block.train()
        with torch.no_grad():
            assert torch.equal(step(block, x), Block.forward(block, x))
        seen = []
        block.mlp.fc1.register_forward_hook(lambda *_: seen.append(1))
        assert torch.equal(step(block, x), Block.forward(block, x))
        assert len(seen) == 2


def test_a_machine_that_lacks_something_says_what(monkeypatch: pytest.MonkeyPatch) -> None:
    known = (training.training_missing, training._library)
    try:
        for name, value, reason in (
            ("VITKIT_NATIVE", "0", "VITKIT_NATIVE=0"),
            ("PATH", "", "no compiled blocks: no C compiler is found (cc, gcc, clang or what $CC says)"),
        ):
            with monkeypatch.context() as patch:
                for one in known:
                    one.cache_clear()
                patch.setattr(
                    torch.cpu, "get_capabilities", lambda: dict.fromkeys(("avx512_f", "avx512_bw", "avx512_bf16"), True)
                )
                patch.delenv("VITKIT_NATIVE", raising=False)
                patch.delenv("CC", raising=False)
                patch.setenv(name, value)
                assert training_missing() == reason
                assert untrained(made(CONFIG)) == reason
        for one in known:
            one.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
        monkeypatch.delenv("VITKIT_NATIVE", raising=False)
        assert training_missing() == "this processor has no avx512_f, avx512_bw, avx512_bf16 instructions"
    finally:
        for one in known:
            one.cache_clear()
