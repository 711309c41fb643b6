"""Parameter groups, learning-rate schedules and the moving average of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitkit.config import UserError

__all__ = ["DECAYS", "Ema", "OptimConfig", "layer_of", "make_optimiser", "schedule"]

TOKENS = ("cls_token", "registers", "pos_embed", "pos_x", "pos_y", "map_pool.probe")  # learned vectors: never decayed
STEM_PARTS = ("stem.", "patch_embed", "cls_token", "registers", "pos_", "norm_pre")  # what comes before the first block
DECAYS = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with decoupled decay (times the learning rate), a warm-up and a schedule."""

    lr: float = 5e-4  # peak rate of the head; earlier layers get less, see layer_decay
    weight_decay: float = 0.05  # of weight matrices and kernels only
    layer_decay: float = 1.0  # each layer further from the head learns at this fraction of the next one's rate
    warmup: float = 0.1  # part of all steps over which the rate rises linearly
    decay: str = "cosine"  # cosine (to 0) | linear (to 1e-5) | constant
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0  # gradients of a larger global norm are scaled down to it
    ema: float = 0.0  # decay of the moving average of weights, the weights that are kept; 0: none


def schedule(step: int, total: int, base: float, warmup: int, decay: str = "cosine") -> float:
    """Learning rate of a step (0-based); the first step of a warm-up has rate 0.

    Source: VIT_SPEC 4.1, the formula of both official code bases.
    """
    progress = min(max((step - warmup) / max(total - warmup, 1), 0.0), 1.0)
    if decay == "cosine":
        rate = base / 2 * (1 + math.cos(math.pi * progress))
    elif decay == "linear":
        rate = 1e-5 + (base - 1e-5) * (1 - progress)
    elif decay == "constant":
        rate = base
    else:
        raise UserError(f"unknown decay {decay!r}; known: {', '.join(DECAYS)}.")
    return rate * min(1.0, step / warmup) if warmup else rate


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter: 0 for the stem, 1 .. depth for the blocks, depth + 1 for what follows them."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0 if name.startswith(STEM_PARTS) else depth + 1


def make_optimiser(model: nn.Module, config: OptimConfig, depth: int) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients; each group carries ``scale``, its part of the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = config.layer_decay ** (depth + 1 - layer_of(name, depth))
        decays = parameter.ndim > 1 and name not in TOKENS
        groups.setdefault((scale, config.weight_decay if decays else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
    )


class Ema:
    """Exponential moving average of a module's weights, warmed up so that early steps do not linger."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights of one more step."""
        self.count += 1
        decay = min(self.decay, self.count / (self.count + 9))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.weights
