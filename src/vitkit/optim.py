"""What is optimised how: parameter groups, the optimiser and its rate at a step, clipping, averages of the weights.

The formula of the rate is in `schedules`, the optimisers that PyTorch does not have are in `chains`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitkit.chains import Adam, Sgd
from vitkit.config import UserError, did_you_mean
from vitkit.schedules import DECAYS, LINEAR_END, TIMESCALE, schedule

__all__ = [
    "DECAYS",
    "Adam",
    "Ema",
    "OptimConfig",
    "Sgd",
    "clip_gradients",
    "layer_of",
    "make_average",
    "make_optimiser",
    "schedule",
    "set_rates",
]

TOKENS = ("cls_token", "registers", "pos_embed", "pos_x", "pos_y", "map_pool.probe")  # learned vectors, no kernels
RELATIVE = ".attn.relative"  # such vectors in every block
STEM_PARTS = ("stem.", "patch_embed", "cls_token", "registers", "pos_", "norm_pre")  # what comes before the first block
CHOICES: dict[str, tuple[str, ...]] = {
    "decay": DECAYS,
    "optimiser": ("adamw", "adam", "sgd"),
    "moment": ("fp32", "bf16"),
    "weight_decay_by": ("rate", "absolute"),
    "weight_decay_of": ("kernels", "all"),
}
FRACTIONS = ("warmup", "cooldown", "beta1", "beta2", "ema", "polyak")  # in [0, 1)
AMOUNTS = ("lr", "weight_decay", "linear_end", "clip_norm")  # from 0
COUNTS = {"warmup_steps": 0, "cooldown_steps": 0, "timescale": 1}  # whole numbers from that on


@dataclass(frozen=True)
class OptimConfig:
    """An optimiser, its schedule, clipping and the average of the weights; as it stands, AdamW with a cosine.

    Raises:
        UserError: a value, or two together, that make no sense.
    """

    lr: float = 5e-4  # peak rate of the head; earlier layers get less, see layer_decay
    weight_decay: float = 0.05  # decoupled, of what weight_decay_of names, times what weight_decay_by names
    layer_decay: float = 1.0  # each layer further from the head learns at this fraction of the next one's rate
    warmup: float = 0.1  # part of all steps over which the rate rises linearly
    decay: str = "cosine"  # cosine (to 0) | linear (to linear_end) | constant | rsqrt
    beta1: float = 0.9  # of the first moment; SGD's momentum
    beta2: float = 0.999
    clip_norm: float | None = 1.0  # gradients of a larger global norm are scaled down to it; 0 or None: never
    ema: float = 0.0  # decay of the warmed-up moving average of weights, the weights that are kept; 0: none
    optimiser: str = "adamw"  # adamw | adam (AdamW without weight decay) | sgd (no Nesterov)
    moment: str = "fp32"  # how the first moment or momentum is kept: fp32 | bf16
    weight_decay_by: str = "rate"  # rate (lr and schedule, as AdamW) | absolute (the schedule alone, as big_vision)
    weight_decay_of: str = "kernels"  # kernels (weight matrices and kernels) | all
    warmup_steps: int = 0  # above 0: in place of warmup
    linear_end: float = LINEAR_END  # last rate of a linear decay
    timescale: int = TIMESCALE  # steps, of rsqrt
    cooldown: float = 0.0  # part of all steps, at the end, over which the rate falls linearly to 0
    cooldown_steps: int = 0  # above 0: the same in steps
    polyak: float = 0.0  # as ema, but the same factor from the first step on (the paper's 0.9999)

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                guess = did_you_mean(str(value).lower(), known)
                raise UserError(f"{name} is {value!r}; known: {', '.join(known)}.{guess}")
        for name in FRACTIONS:
            self._check(name, 0 <= self._number(name) < 1, "in [0, 1)")
        for name in AMOUNTS:
            if name != "clip_norm" or self.clip_norm is not None:
                self._check(name, self._number(name) >= 0, "a number from 0 up")
        for name, least in COUNTS.items():
            self._check(name, self._number(name, int) >= least, f"a whole number from {least} up")
        self._check("layer_decay", 0 < self._number("layer_decay") <= 1, "in (0, 1]")
        self._check_pairs()

    def _number(self, name: str, kind: type[float] | type[int] = float) -> float:
        """The field's value, or one that no field accepts where it is not a finite number of that kind."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            return -1
        return value if abs(value) <= sys.float_info.max else -1  # neither infinite nor NaN

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UserError(f"{name} must be {expected}, got {getattr(self, name)!r}.")

    def _check_pairs(self) -> None:
        """Values that are right alone and wrong together."""
        if self.optimiser == "adam" and self.weight_decay:
            raise UserError(
                f"weight_decay is {self.weight_decay!r} with optimiser 'adam', which has none: take 'adamw' (decoupled "
                "decay, the reference's) or set weight_decay to 0."
            )
        if self.weight_decay and self.weight_decay_by == "absolute" and not self.lr:
            raise UserError("weight_decay_by is 'absolute' with lr 0: nothing would be learned, only decayed. Set lr.")
        if self.decay == "linear" and self.linear_end > self.lr:
            raise UserError(
                f"linear_end is {self.linear_end!r}, above lr {self.lr!r}, so the rate would rise: raise lr, lower "
                "linear_end, or choose another decay."
            )
        if self.ema and self.polyak:
            raise UserError(
                f"ema is {self.ema!r} and polyak {self.polyak!r}: one average is kept; set one of them to 0."
            )
        if self.cooldown and self.cooldown_steps:
            raise UserError(f"cooldown is {self.cooldown!r} and cooldown_steps {self.cooldown_steps!r}: set one to 0.")
        if not self.warmup_steps and self.warmup + self.cooldown > 1:
            raise UserError(
                f"warmup {self.warmup!r} and cooldown {self.cooldown!r} are more than all steps together; lower one."
            )

    def rate(self, step: int, total: int) -> float:
        """Learning rate of a step (0-based) of ``total``.

        Raises:
            UserError: a warm-up and cool-down in steps that do not fit into the run.
        """
        warmup = self.warmup_steps or round(self.warmup * total)
        cooldown = self.cooldown_steps or round(self.cooldown * total)
        # A run of one step, to try things out, passes: the reference lets it too.
        in_steps = self.warmup_steps or self.cooldown_steps
        if in_steps and total > 1 and (warmup >= total or warmup + cooldown > total):
            raise UserError(
                f"a warm-up of {warmup} and a cool-down of {cooldown} steps do not fit into {total} steps: "
                "lower warmup_steps or cooldown_steps, or give the run more steps."
            )
        return schedule(
            step,
            total,
            self.lr,
            warmup,
            self.decay,
            linear_end=self.linear_end,
            timescale=self.timescale,
            cooldown=cooldown,
        )

    @property
    def is_pytorch(self) -> bool:
        """Are these the numerics of PyTorch's own AdamW? The others are the reference's, see `chains`."""
        return self.optimiser != "sgd" and self.moment == "fp32"


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter: 0 for the stem, 1 .. depth for the blocks, depth + 1 for what follows them."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0 if name.startswith(STEM_PARTS) else depth + 1


def make_optimiser(model: nn.Module, config: OptimConfig, depth: int) -> torch.optim.Optimizer:
    """The optimiser over the parameters that require gradients; names are those of a model, or ``backbone.`` and these.

    Each group carries ``scale``, its part of the learning rate, and the ``weight_decay`` that is taken times its rate.

    Raises:
        UserError: a ``layer_decay`` that leaves the first layers no rate that an absolute weight decay could refer to.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for full, parameter in model.named_parameters():
        name = full.removeprefix("backbone.")  # of what an objective built around the model
        if not parameter.requires_grad:
            continue
        scale = config.layer_decay ** (depth + 1 - layer_of(name, depth))
        learned = name in TOKENS or name.endswith(RELATIVE)
        decays = config.weight_decay_of == "all" or (parameter.ndim > 1 and not learned)
        groups.setdefault((scale, _times_rate(config, scale) if decays else 0.0), []).append(parameter)
    named = [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()]
    if config.is_pytorch:
        # One pass over each tensor instead of ten; it differs from the others in the last digit.
        return torch.optim.AdamW(named, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
    dtype = torch.bfloat16 if config.moment == "bf16" else None
    if config.optimiser == "sgd":
        return Sgd(named, lr=config.lr, momentum=config.beta1, dtype=dtype)
    return Adam(named, lr=config.lr, betas=(config.beta1, config.beta2), dtype=dtype)


def _times_rate(config: OptimConfig, scale: float) -> float:
    """The weight decay of a layer as what its rate is multiplied with.

    An absolute decay is taken times the schedule alone, neither times lr nor times the layer's scale: both are divided
    away here, so that one kind of optimiser does either. Source: VIT_SPEC 4.4.
    """
    if config.weight_decay_by == "rate" or not config.weight_decay:
        return config.weight_decay
    peak = config.lr * scale
    decay = config.weight_decay / peak if peak else math.inf
    if math.isinf(decay):
        raise UserError(
            f"layer_decay {config.layer_decay!r} leaves the first layers no learning rate: raise it, or take "
            "weight_decay_by 'rate'."
        )
    return decay


def set_rates(optimiser: torch.optim.Optimizer, config: OptimConfig, step: int, total: int) -> float:
    """Give every group its learning rate of a step (0-based) of ``total``; the head's is returned.

    Raises:
        UserError: a warm-up and cool-down in steps that do not fit into the run.
    """
    rate = config.rate(step, total)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
    return rate


def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimConfig) -> float:
    """Scale all gradients down together where their global norm is above ``clip_norm``; return the norm they had.

    Where the norm is not finite they are left as they are. PyTorch adds 1e-6 to the norm, the reference nothing; each clips
    its own optimiser's gradients.
    """
    own = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in own if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = getattr(norm, "full_tensor", lambda: norm)()  # of gradients that ranks share
    length = float(norm)
    if not config.clip_norm or not math.isfinite(length):
        return length
    # A factor of 1 changes no bit, and passing over all gradients for it takes time.
    if config.is_pytorch:
        if float(config.clip_norm / (norm + 1e-6)) < 1:
            torch.nn.utils.clip_grads_with_norm_(own, config.clip_norm, norm)
        return length
    factor = (config.clip_norm / norm).clamp(max=1.0)  # a norm of 0 makes it infinite before
    if float(factor) < 1:
        for gradient in gradients:
            gradient.mul_(factor.to(gradient.device))
    return length


class Ema:
    """Exponential moving average of a module's weights, warmed up so that early steps do not linger, or Polyak's."""

    def __init__(self, module: nn.Module, decay: float, warms_up: bool = True) -> None:
        """Start from the module's weights; ``warms_up`` False takes ``decay`` from the first step on."""
        self.decay = decay
        self.warms_up = warms_up
        self.count = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights of one more step."""
        self.count += 1
        decay = min(self.decay, self.count / (self.count + 9)) if self.warms_up else self.decay
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.weights


def make_average(module: nn.Module, config: OptimConfig) -> Ema | None:
    """The average of weights that the configuration asks for, if any."""
    if config.polyak:
        return Ema(module, config.polyak, warms_up=False)
    return Ema(module, config.ema) if config.ema else None
