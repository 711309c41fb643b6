"""SGD with momentum and Adam in the reference's arithmetic, for accumulators that PyTorch's optimisers do not offer.

A bfloat16 accumulator m is decayed by a factor that is itself rounded to bfloat16, and so is the product; the gradient's
term is added in the gradient's precision. That sum makes the update, and is rounded only to be kept.
Source: VIT_SPEC 4.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Adam", "Sgd"]

EPS = 1e-8  # added to the square root, not under it


class Sgd(torch.optim.Optimizer):
    """v = momentum * v + g; p -= lr * (v + weight_decay * p). No dampening, no Nesterov; the decay is decoupled."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype | None = None
    ) -> None:
        """``dtype`` is the accumulator's; None takes the parameter's."""
        self.dtype = dtype
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None  # PyTorch's interface; its Distributed Checkpoint passes None by name
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter, dtype=self.dtype)
                update = _decayed(state["momentum"], group["momentum"], parameter.grad).add_(parameter.grad)
                state["momentum"].copy_(update)
                _apply(parameter, update, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; the accumulator keeps its own type."""
        super().load_state_dict(state_dict)
        _restore(self, state_dict, "momentum")


class Adam(torch.optim.Optimizer):
    """Adam with bias correction; p -= lr * (adam + weight_decay * p), the decay decoupled as in AdamW."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        dtype: torch.dtype | None = None,
    ) -> None:
        """``dtype`` is the first moment's; None takes the parameter's, as the second moment always does."""
        self.dtype = dtype
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None  # PyTorch's interface; its Distributed Checkpoint passes None by name
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in (p for p in group["params"] if p.grad is not None):
                gradient, state = parameter.grad, self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter, dtype=self.dtype)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                steps = int(state["step"])
                mean = _decayed(state["exp_avg"], beta1, gradient).add_(gradient, alpha=1 - beta1)
                state["exp_avg"].copy_(mean)
                state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                spread = (state["exp_avg_sq"] / (1 - beta2**steps)).sqrt_().add_(EPS)
                _apply(parameter, mean.div_(1 - beta1**steps).div_(spread), group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; the first moment keeps its own type."""
        super().load_state_dict(state_dict)
        _restore(self, state_dict, "exp_avg")


def _decayed(accumulator: Tensor, factor: float, gradient: Tensor) -> Tensor:
    """factor * accumulator, both rounded to the accumulator's type, as a new tensor of the gradient's type."""
    rounded = torch.tensor(factor, dtype=accumulator.dtype).item()
    return accumulator.mul(rounded).to(gradient.dtype)


def _apply(parameter: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    if group["weight_decay"]:
        update = update.add_(parameter, alpha=group["weight_decay"])
    parameter.add_(update, alpha=-group["lr"])


def _restore(optimiser: Sgd | Adam, state_dict: dict[str, Any], name: str) -> None:
    """`Optimizer.load_state_dict` casts an accumulator to its parameter's type: put back what was given, as we keep it."""
    saved = [index for group in state_dict["param_groups"] for index in group["params"]]
    own = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for index, parameter in zip(saved, own, strict=True):
        if name in (state := state_dict["state"].get(index, {})):
            dtype = optimiser.dtype or parameter.dtype
            optimiser.state[parameter][name] = state[name].to(parameter.device, dtype, copy=True)
