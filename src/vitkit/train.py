"""The one training loop. It calls the objective and the evaluation that it is given and knows no other part.

What happens in a step is a function of the weights, the batch and (seed, step), so a resumed run goes on exactly.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from vitkit.checkpoint import TrainState
from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.models.vit import Attention, Block
from vitkit.optim import OptimConfig, clip_gradients, make_average, make_optimiser, set_rates

__all__ = [
    "Hooks",
    "Measured",
    "Objective",
    "StepReport",
    "TrainConfig",
    "best_precision",
    "measure",
    "start",
    "step_once",
    "train",
]


class Objective(Protocol):
    """What a step minimises."""

    def loss(self, module: nn.Module, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class TrainConfig:
    """Everything the loop obeys. Fixed before step 0 and stored with the run."""

    steps: int
    batch_size: int  # images per optimiser step
    microbatch_size: int  # images per forward; gradients of the parts of a batch are summed
    seed: int
    eval_every: int  # steps
    patience: int  # evaluations without a better result before stopping early; 0: never
    precision: str  # fp32 | bf16 (autocast; norms' inputs, softmax and loss stay float32)
    fused_attention: bool
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class StepReport:
    """What one step showed."""

    step: int  # 1 .. steps
    loss: float
    lr: float
    seconds: float  # of the whole step
    waited: float  # seconds of it spent waiting for data


class Hooks(Protocol):
    """What the loop tells and asks the job that runs it."""

    def on_step(self, report: StepReport) -> None: ...
    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        """(result, lower end of its 95 % interval); a higher result is better."""
        ...

    def on_checkpoint(self, state: TrainState) -> None: ...
    def stop_requested(self) -> bool: ...


def best_precision() -> tuple[str, bool]:
    """(precision, fused attention) that trains fastest on this hardware; a function of the hardware, not of a timing.

    On CPUs with bfloat16 arithmetic plain matrix products beat the fused attention (docs/results/training-speed.md).
    """
    if torch.cuda.is_available():
        return ("bf16" if torch.cuda.is_bf16_supported() else "fp32"), True
    capability = torch.backends.cpu.get_cpu_capability()
    has_bf16 = "AVX512" in capability and _cpu_flag("avx512_bf16")
    return ("bf16", False) if has_bf16 else ("fp32", True)


def _cpu_flag(flag: str) -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return any(flag in line.split() for line in file if line.startswith("flags"))
    except OSError:
        return False


def start(model: nn.Module, config: TrainConfig) -> TrainState:
    """A fresh training state; the model, or what an objective built around one, is put on the device and set up in place."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = config.fused_attention
    depth = sum(isinstance(module, Block) for module in model.modules())
    optimiser = make_optimiser(model, config.optim, depth)
    return TrainState(model, optimiser, make_average(model, config.optim))


def train(state: TrainState, config: TrainConfig, objective: Objective, batches: Iterable[Batch], hooks: Hooks) -> None:
    """Run from ``state.step`` to the end, or until the evaluation stops improving; the best weights are in ``state``.

    Raises:
        KeyboardInterrupt: the hooks asked to stop; the state was saved after a whole step.
        UserError: the loss is not a finite number.
    """
    stream = iter(batches)
    last = time.perf_counter()
    while state.step < config.steps and not _has_stopped_improving(state, config):
        batch = next(stream)
        waited = time.perf_counter() - last
        loss, lr = step_once(state, config, objective, batch)
        state.step += 1
        now = time.perf_counter()
        hooks.on_step(StepReport(state.step, loss, lr, now - last, waited))
        last = now
        if _is_time(state.step, config.eval_every, config.steps):
            _evaluate(state, hooks)
            hooks.on_checkpoint(state)
            last = time.perf_counter()
        if hooks.stop_requested():  # only between steps, so that what is saved is whole
            hooks.on_checkpoint(state)
            raise KeyboardInterrupt


def _has_stopped_improving(state: TrainState, config: TrainConfig) -> bool:
    return bool(config.patience) and state.evaluations_since_best >= config.patience


def _is_time(step: int, every: int, total: int) -> bool:
    return step % every == 0 or step == total


def step_once(state: TrainState, config: TrainConfig, objective: Objective, batch: Batch) -> tuple[float, float]:
    """One optimiser step: (loss, learning rate). ``state.step`` is left for the caller to advance."""
    torch.manual_seed(hash((config.seed, state.step)) & 0x7FFFFFFF)
    state.model.train()
    lr = set_rates(state.optimiser, config.optim, state.step, config.steps)
    loss = _backward(state.model, config, objective, batch)
    if not math.isfinite(loss):
        raise UserError(
            f"the loss became {loss} at step {state.step + 1} (learning rate {lr:.2g}). The rate is too high for these "
            "weights: lower it with --set lr=..., or check the weights. Nothing was released from this run."
        )
    clip_gradients(state.model.parameters(), config.optim)
    state.optimiser.step()
    if state.ema:
        state.ema.update(state.model)
    return loss, lr


def _backward(model: nn.Module, config: TrainConfig, objective: Objective, batch: Batch) -> float:
    """Accumulate the gradient of the batch's mean loss over its microbatches; return the loss."""
    for parameter in model.parameters():
        parameter.grad = None
    device = next(model.parameters()).device
    total = 0.0
    for start_ in range(0, len(batch.labels), config.microbatch_size):
        part = batch.part(start_, start_ + config.microbatch_size, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = objective.loss(model, part)
        loss = loss * (len(part.labels) / len(batch.labels))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _evaluate(state: TrainState, hooks: Hooks) -> None:
    """Keep the newest weights whose result is inside the interval of the best result so far.

    On few validation images the best of many evaluations is mostly luck; the end of the schedule is where the weights
    have settled, and only a significant fall makes an earlier state the better one.
    """
    weights = state.current_weights()
    value, floor = hooks.evaluate(weights, state.step)
    if state.top is None or value > state.top:
        state.top, state.floor = value, floor
    state.evaluations_since_best += 1
    if value >= state.floor:
        state.best_step, state.evaluations_since_best = state.step, 0
        state.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}


@dataclass(frozen=True)
class Measured:
    """One training step, measured before the run."""

    activation_bytes: int  # kept for the backward pass, per image
    fixed_bytes: int  # weights, gradients, moments and averages
    microbatch_size: int  # largest that fits
    seconds: float  # of a whole step at that size


def measure(model: nn.Module, config: TrainConfig, objective: Objective, batch: Batch, memory_bytes: int) -> Measured:
    """Measure a step on a copy of the model: what it keeps in memory, and how long it takes.

    Memory is counted, not sampled, so equal runs on equal machines choose alike.

    Raises:
        UserError: not even one image fits into ``memory_bytes``.
    """
    state = start(copy.deepcopy(model), config)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in state.model.parameters()}
    few = batch.part(0, min(2, len(batch.labels)), batch.images.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step_once(state, config, objective, few)
    activations = sum(size for pointer, size in kept.items() if pointer not in own) // len(few.labels)
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    trained = sum(p.numel() * p.element_size() for p in state.model.parameters() if p.requires_grad)
    fixed = weights * (3 if state.ema else 2) + 3 * trained
    micro = config.batch_size
    while micro > 1 and fixed + 2 * activations * micro > memory_bytes:  # twice: gradients and temporaries
        micro = -(-micro // 2)
    if fixed + 2 * activations * micro > memory_bytes:
        raise UserError(
            f"training needs about {(fixed + 2 * activations) / 2**30:.1f} GiB for one image at a time, "
            f"{memory_bytes / 2**30:.1f} GiB are at hand. Use a smaller model, a smaller --image-size, or --train head."
        )
    few = batch.part(0, micro, batch.images.device)
    step_once(state, config, objective, few)  # warm up at the size that is timed
    begin = time.perf_counter()
    step_once(state, config, objective, few)
    seconds = (time.perf_counter() - begin) * config.batch_size / len(few.labels)
    return Measured(activations, fixed, micro, seconds)
