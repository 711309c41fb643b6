"""The linear probe's fit against scikit-learn's, where the penalty is weak and the features are far from spherical."""

from __future__ import annotations

import pytest
import torch

from vitkit.evals.linear import EXACT, NEAR, _fit


def test_the_kept_head_is_at_the_optimum_and_the_sweep_s_is_near_it() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = torch.Generator().manual_seed(0)
    n, D, O, penalty = 300, 40, 5, 1e-3
    mixed = torch.diag(torch.logspace(-1.5, 1.5, D)) @ torch.randn(D, D, generator=rng)
    x = (torch.randn(n, D, generator=rng) @ mixed).double()
    x = (x - x.mean(0)) / x.std(0)
    labels, fresh = torch.randint(0, O, (n,), generator=rng), torch.randn(1000, D, generator=rng).double()
    other = sklearn.LogisticRegression(C=O / (penalty * n), max_iter=500, tol=1e-10, solver="newton-cg")
    expected = torch.from_numpy(other.fit(x.numpy(), labels.numpy()).predict(fresh.numpy()))

    def agreement(until: object) -> float:
        weight, bias = _fit(x, labels, O, penalty, until)  # type: ignore[arg-type]
        return float(((fresh @ weight.T + bias).argmax(1) == expected).double().mean())

    assert agreement(EXACT) >= 0.999
    assert agreement(NEAR) < agreement(EXACT)
