"""Products in 8 bits are sums of whole numbers: exact, alone and beside others, by any number of threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vitkit.engines.packed import private_int8
from vitkit.engines.packed.private_int8 import Packed, Steps, added_product, missing, pack, product, to_steps

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs 8-bit products: {missing()}")
IN, OUT = Steps(0.02, 119), Steps(0.03, 7)


def layer(outputs: int = 40, width: int = 96) -> tuple[Packed, torch.Tensor]:
    """(packed, its real weights (O, K) in float64)."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, (outputs, width), generator=draw, dtype=torch.int8)
    scales, bias = torch.rand(outputs, generator=draw) / 256, torch.randn(outputs, generator=draw)
    return pack(weight, scales, bias, IN, 17), weight.double() * scales[:, None].double()


def steps(rows: int = 17, width: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (rows, width), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (x.double() - IN.zero) * IN.scale @ weight.T + bias


@pytest.mark.parametrize("rows", [1, 5, 17, 64])
def test_products_are_those_of_whole_numbers(rows: int) -> None:
    packed, weight = layer()
    x = steps(rows)
    wanted = exact(x, weight, packed.bias)
    assert torch.allclose(product(x, packed, torch.float32).double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(product(x, packed, torch.bfloat16).double(), wanted, rtol=1e-2, atol=1e-2)
    into = torch.randn(rows, 40)
    assert torch.allclose(added_product(x, packed, into.clone()).double(), wanted + into, rtol=1e-5, atol=1e-5)
    for kind in ("none", "tanh"):
        found = product(x, packed, torch.float32, out=OUT, gelu=kind)
        real = (F.gelu(wanted, approximate=kind) / OUT.scale + OUT.zero).clamp(0, 255)
        assert found.dtype == torch.uint8
        assert (
            found.double() - real
        ).abs().max() < 0.51  # the nearest step, but for what the activation's polynomial leaves


def test_rows_have_the_digits_they_have_alone_with_any_number_of_threads() -> None:
    packed, _ = layer()
    x, before = steps(64), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += [
                product(x, packed, torch.float32),
                torch.cat([product(row[None], packed, torch.float32) for row in x]),
            ]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


def test_values_become_the_nearest_steps_and_those_beyond_the_ends() -> None:
    values = torch.linspace(-4, 4, 1001).reshape(7, 11, 13)
    found = to_steps(values, IN)
    assert found.dtype == torch.uint8
    assert found.shape == values.shape
    assert (found.double() - (values.double() / IN.scale + IN.zero).clamp(0, 255)).abs().max() < 0.5001


def test_operators_that_are_gone_or_wrong_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_prepack'")

    monkeypatch.setattr(private_int8, "pack", gone)
    assert "lacks the 8-bit operators: '_OpNamespace' 'onednn' object has no" in missing.__wrapped__()
    monkeypatch.undo()
    right = private_int8.product
    monkeypatch.setattr(private_int8, "product", lambda *a, **k: right(*a, **k) + 1)
    assert "an 8-bit product of PyTorch" in missing.__wrapped__()
    assert "is not exact" in missing.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert missing.__wrapped__() == "this PyTorch is built without oneDNN"
