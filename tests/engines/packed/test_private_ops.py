"""Packed products say what the public operators say, and where they do not, the public operators compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vitkit.engines.packed import private_ops
from vitkit.engines.packed.private_ops import Product, products_missing

TYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What was found out about this machine is forgotten before and after."""
    products_missing.cache_clear()
    yield monkeypatch
    products_missing.cache_clear()


def case(dtype: torch.dtype, rows: int = 197) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = ((1, rows, 192), (72, 192), (72,), (1, rows, 72))
    x, weight, bias, other = (torch.randn(shape, generator=rng) for shape in shapes)
    return [x.to(dtype), (weight / 14).to(dtype), bias.to(dtype), other.to(dtype)]


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("rows", [1, 50, 197])
@pytest.mark.parametrize("dtype", TYPES)
def test_products_agree_with_public_operators(
    dtype: torch.dtype, rows: int, public: bool, fresh: pytest.MonkeyPatch
) -> None:
    if public:
        fresh.setattr(private_ops, "products_missing", lambda dtype: "not here")
    x, weight, bias, other = case(dtype, rows)
    product = Product(weight, bias, dtype, rows=rows)
    assert product.packed != public
    plain = F.linear(x.double(), weight.double(), bias.double())
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for found, expected in (
        (product(x), plain),
        (product(x, "gelu_erf"), F.gelu(plain)),
        (product(x, "gelu_tanh"), F.gelu(plain, approximate="tanh")),
        (product(x, "silu"), F.silu(plain)),
        (product.plus(x, other), plain + other.double()),
        (product.times(x, other), plain * other.double()),
        (Product(weight, None, dtype, rows=rows)(x), plain - bias.double()),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, **near)


def test_operators_that_are_not_there_are_said(fresh: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    fresh.setattr(private_ops, "_pack", gone)
    assert "_reorder_linear_weight" in products_missing(torch.float32)
    assert torch.__version__ in products_missing(torch.float32)
    assert not Product(torch.ones(2, 3), None, torch.float32, rows=4).packed


def test_operators_that_say_something_else_are_not_used(fresh: pytest.MonkeyPatch) -> None:
    pack = private_ops._pack
    fresh.setattr(private_ops, "_pack", lambda weight, rows: pack(weight * 1.001, rows))
    assert "do not agree" in products_missing(torch.float32)


def test_a_pytorch_without_onednn_computes_by_public_operators(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products_missing(torch.float32) == "this PyTorch is built without oneDNN"
