"""The reference's chains against PyTorch's optimisers where they must agree, and what is kept of them (VIT_SPEC 4.4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vitkit.chains import Adam, Sgd

SHAPES = ((5, 7), (3,), (2, 3, 4))
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def run(make: Make, steps: int = 25, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Weights after steps with random gradients and a rate that changes."""
    made = parameters(dtype)
    optimiser = make(made)
    rng = torch.Generator().manual_seed(2)
    for step in range(steps):
        for parameter in made:
            parameter.grad = torch.randn(parameter.shape, generator=rng, dtype=torch.float64).to(dtype)
        optimiser.param_groups[0]["lr"] = 0.01 * (1 + step % 3)
        optimiser.step()
    return [parameter.detach() for parameter in made]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_sgd_without_rounding_is_that_of_pytorch(momentum: float, dtype: torch.dtype, tolerance: float) -> None:
    ours = run(lambda p: Sgd([{"params": p}], lr=0.1, momentum=momentum), dtype=dtype)
    torchs = run(lambda p: torch.optim.SGD(p, lr=0.1, momentum=momentum), dtype=dtype)
    torch.testing.assert_close(ours, torchs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95), (0.0, 0.99)])
def test_adam_without_rounding_is_adamw_of_pytorch(
    decay: float, betas: tuple[float, float], dtype: torch.dtype, tolerance: float
) -> None:
    ours = run(lambda p: Adam([{"params": p, "weight_decay": decay}], lr=0.1, betas=betas), dtype=dtype)
    torchs = run(lambda p: torch.optim.AdamW(p, lr=0.1, betas=betas, weight_decay=decay), dtype=dtype)
    torch.testing.assert_close(ours, torchs, rtol=tolerance, atol=tolerance)


def test_the_factor_and_its_product_are_rounded_and_the_sum_is_not() -> None:
    """By hand: bf16(0.9) = 0.8984375; 1.0078125 * 0.8984375 = 0.905456... rounds to 0.90625; + 2^-12 is lost when kept."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = Sgd([{"params": [weight]}], lr=1.0, momentum=0.9, dtype=torch.bfloat16)
    for gradient in (1.0078125, 2.0**-12):
        weight.grad = torch.tensor([gradient])
        weight.data.zero_()
        optimiser.step()
    assert weight.item() == -(0.90625 + 2.0**-12)
    kept = optimiser.state[weight]["momentum"]
    assert (kept.dtype, kept.item()) == (torch.bfloat16, 0.90625)


def test_adam_keeps_its_first_moment_only_in_bfloat16() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.rand(2, 2)
    optimiser = Adam([{"params": [weight]}], lr=0.1, betas=(0.9, 0.999), dtype=torch.bfloat16)
    optimiser.step()
    kinds = {name: tensor.dtype for name, tensor in optimiser.state[weight].items()}
    assert kinds == {"step": torch.float32, "exp_avg": torch.bfloat16, "exp_avg_sq": torch.float32}


def test_parameters_without_a_gradient_stay_and_keep_no_state() -> None:
    for make in (
        lambda p: Sgd([{"params": p}], lr=1.0, momentum=0.9),
        lambda p: Adam([{"params": p}], lr=1.0, betas=(0.9, 0.999)),
    ):
        made = parameters()
        before = [parameter.detach().clone() for parameter in made]
        optimiser = make(made)
        made[0].grad = torch.ones_like(made[0])
        optimiser.step()
        assert not torch.equal(made[0], before[0])
        assert all(torch.equal(now, then) for now, then in zip(made[1:], before[1:], strict=True))
        assert list(optimiser.state) == [made[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_accumulators_come_back_in_their_own_type_and_apart_from_what_was_given(dtype: torch.dtype) -> None:
    """PyTorch casts them to the parameter's type; in float16 that would also lose values."""
    for make, name in (
        (lambda p: Sgd([{"params": p}], lr=1e-3, momentum=0.9, dtype=torch.bfloat16), "momentum"),
        (lambda p: Adam([{"params": p}], lr=1e-3, betas=(0.9, 0.999), dtype=torch.bfloat16), "exp_avg"),
    ):
        weight, other = (nn.Parameter(torch.ones(4, dtype=dtype)) for _ in range(2))
        weight.grad = torch.tensor([1e-6, 0.3, -7.0, 1e4], dtype=dtype)
        optimiser, fresh = make([weight]), make([other])
        optimiser.step()
        kept = optimiser.state[weight][name].clone()
        fresh.load_state_dict(optimiser.state_dict())
        assert fresh.state[other][name].dtype == torch.bfloat16
        assert torch.equal(fresh.state[other][name], kept)
        other.grad = torch.ones_like(other)
        fresh.step()
        assert torch.equal(optimiser.state[weight][name], kept)
