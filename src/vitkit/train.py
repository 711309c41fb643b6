"""The one training loop. It calls the objective and the evaluation that it is given and knows no other part.

What happens in a step is a function of the weights, the batch and (seed, step), so a resumed run goes on exactly. Several
ranks take a part of each batch and do the same step together (`parallel`).
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitkit.checkpoint import TrainState
from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.diagnose import LOWER_RATE, NotFiniteError, bad_weight, explain
from vitkit.engines.native.training import step, training_missing, untrained
from vitkit.models.draws import Draws
from vitkit.models.vit import Attention, Block
from vitkit.optim import OptimConfig, clip_gradients, make_average, make_optimiser, set_rates
from vitkit.parallel.shard import full_weights, is_sharded, shard, sum_gradients, syncs
from vitkit.parallel.world import ALONE, World

__all__ = [
    "Hooks",
    "Measured",
    "Objective",
    "StepReport",
    "TrainConfig",
    "best_blocks",
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
    microbatch_size: int  # images per forward on each rank; gradients of the parts of a batch are summed
    seed: int
    eval_every: int  # steps
    patience: int  # evaluations without a better result before stopping early; 0: never
    precision: str  # fp32 | bf16 (autocast; norms' inputs, softmax and loss stay float32)
    fused_attention: bool
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint_every: float = 300.0  # seconds between checkpoints, beside those of evaluations; changes no result
    activation_checkpointing: bool = False  # keep each block's input only and compute the rest again going backward
    compiled_blocks: bool = (
        False  # blocks in C where it covers them (bf16 on a CPU); the same mathematics, other last digits
    )


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
    def on_note(self, text: str) -> None:
        """What the user should know and need not act on."""
        ...

    def on_not_finite(self, fault: NotFiniteError, batch: Batch) -> str:
        """Keep the batch of the step that failed; say where it is and how to go on."""
        ...

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


def best_blocks(precision: str) -> bool:
    """Does compiled code train blocks here in this precision? It is then the fastest (docs/results/training-speed.md)."""
    return precision == "bf16" and not torch.cuda.is_available() and not training_missing()


def _cpu_flag(flag: str) -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return any(flag in line.split() for line in file if line.startswith("flags"))
    except OSError:
        return False


def start(model: nn.Module, config: TrainConfig, world: World = ALONE, *, sharded: bool = False) -> TrainState:
    """A fresh training state; the model, or what an objective built around one, is put on the device and set up in place.

    ``sharded``: each rank keeps a part of every tensor (FSDP2); otherwise every rank keeps all.
    """
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = config.fused_attention
    for block in _blocks(model):
        _set_forward(block, config, recompute=config.activation_checkpointing)
    depth = len(_blocks(model))
    if sharded and world.size > 1:
        shard(model, _blocks(model), world)
    optimiser = make_optimiser(model, config.optim, depth)
    return TrainState(model, optimiser, make_average(model, config.optim), config.microbatch_size)


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _set_forward(block: Block, config: TrainConfig, *, recompute: bool) -> None:
    """Choose how a block is computed. Names and values stay. ``recompute``: nothing is kept of it but its input."""
    compiled = config.compiled_blocks and not untrained(block)
    forward = step if compiled else type(block).forward
    if recompute:  # random draws are repeated
        block.forward = partial(checkpoint, forward, block, use_reentrant=False)  # type: ignore[method-assign]
    elif compiled:
        block.forward = partial(forward, block)  # type: ignore[method-assign]
    else:
        vars(block).pop("forward", None)


def train(
    state: TrainState,
    config: TrainConfig,
    objective: Objective,
    batches: Iterable[Batch],
    hooks: Hooks,
    world: World = ALONE,
) -> None:
    """Run from ``state.step`` to the end, or until the evaluation stops improving; the best weights are in ``state``.

    ``batches`` are this rank's parts of the global ones.

    Raises:
        KeyboardInterrupt: the hooks asked to stop; the state was saved after a whole step.
        UserError: the loss, a gradient or a weight is not a finite number, or one image at a time needs too much memory.
    """
    if config.compiled_blocks and (reason := next(filter(None, map(untrained, _blocks(state.model))), "")):
        hooks.on_note(f"this run was planned with compiled blocks; PyTorch's operators compute them here: {reason}.")
    stream = iter(batches)
    last = saved = time.perf_counter()
    while state.step < config.steps and not _has_stopped_improving(state, config):
        batch = next(stream)
        waited = time.perf_counter() - last
        try:
            world.arrive(f"step {state.step + 1}")
            loss, lr = _noted_step(state, config, objective, batch, hooks, world)
            state.step += 1
            now = time.perf_counter()
            hooks.on_step(StepReport(state.step, loss, lr, now - last, waited))
            last = now
            evaluates = _is_time(state.step, config.eval_every, config.steps)
            if evaluates or world.any(hooks.stop_requested() or now - saved > config.checkpoint_every):
                _check_weights(state, world)
                if evaluates:
                    _evaluate(state, hooks)
                stops = world.any(hooks.stop_requested())  # only between steps, so that what is saved is whole
                hooks.on_checkpoint(state)
                last = saved = time.perf_counter()
                if stops:
                    raise KeyboardInterrupt
        except NotFiniteError as fault:
            raise UserError(f"{fault} {hooks.on_not_finite(fault, batch)}") from None


def _has_stopped_improving(state: TrainState, config: TrainConfig) -> bool:
    return bool(config.patience) and state.evaluations_since_best >= config.patience


def _is_time(step: int, every: int, total: int) -> bool:
    return step % every == 0 or step == total


def step_once(
    state: TrainState, config: TrainConfig, objective: Objective, batch: Batch, world: World = ALONE
) -> tuple[float, float]:
    """One optimiser step: (loss of the global batch, learning rate). ``state.step`` is left for the caller to advance.

    Out of memory, the step is done again with half as many images at a time; ``state.microbatch_size`` says how many.

    Raises:
        NotFiniteError: the loss or the gradient is not finite; neither weights nor moments nor averages were touched.
        UserError: not even one image at a time fits into memory.
    """
    state.model.train()
    lr = set_rates(state.optimiser, config.optim, state.step, config.steps)
    own = _backward_that_fits(state, config, objective, batch, world)
    (loss,) = world.sum([own])
    norm = clip_gradients(state.model.parameters(), config.optim) if math.isfinite(loss) else math.nan
    if not math.isfinite(norm):
        losses = _losses(state, config, objective, batch, world)
        fault = explain(state.model, batch, losses, loss=own, norm=norm, step=state.step + 1, lr=lr)
        if math.isfinite(own) and not math.isfinite(
            loss
        ):  # it has computed again only for the others to find their fault
            fault = NotFiniteError(f"the loss of another rank became {loss} at step {fault.step}.", fault.step, "")
        raise fault
    state.optimiser.step()
    if state.ema:
        state.ema.update(state.model)
    return loss, lr


def _noted_step(
    state: TrainState, config: TrainConfig, objective: Objective, batch: Batch, hooks: Hooks, world: World
) -> tuple[float, float]:
    size = state.microbatch_size
    done = step_once(state, config, objective, batch, world)
    if state.microbatch_size != size:
        hooks.on_note(
            f"out of memory at step {state.step + 1} with {min(size, len(batch.labels))} images at a time; from here on "
            f"{state.microbatch_size} at a time, with the same {config.batch_size} images per step."
        )
    return done


def _backward_that_fits(
    state: TrainState, config: TrainConfig, objective: Objective, batch: Batch, world: World
) -> float:
    """`_backward`, on all ranks again with half as many images at a time wherever memory runs out on one."""
    while True:
        loss = None
        try:
            loss = _backward(state, config, objective, batch, world)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if is_sharded(state.model):  # the other ranks wait in the middle of the pass for this one's part
                raise UserError(
                    f"rank {world.rank} ran out of memory at step {state.step + 1} with {state.microbatch_size} images at "
                    "a time. Halve microbatch_size in the run's plan.json and --resume; the results stay the same."
                ) from None
        world.arrive(f"the end of step {state.step + 1}'s passes")
        if not world.any(loss is None):
            assert loss is not None
            sum_gradients(state.model, world)
            return loss
        # Here, after the except block, the error is gone, and with it the frames that kept the activations alive.
        size = min(state.microbatch_size, max(len(batch.labels), -(-config.batch_size // world.size)))
        state.model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise UserError(
                f"step {state.step + 1} ran out of memory with one image at a time. Free memory that other programs hold "
                "and --resume, or train a smaller model or at a smaller image size."
            )
        state.microbatch_size = -(-size // 2)


def _is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it, cuBLAS and the CPU's allocator only words."""
    words = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def _backward(state: TrainState, config: TrainConfig, objective: Objective, batch: Batch, world: World) -> float:
    """Accumulate the gradient of this rank's share of the batch's mean loss over its microbatches; return the share."""
    for parameter in state.model.parameters():
        parameter.grad = None
    total = 0.0
    for loss in _losses(state, config, objective, batch, world):
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _losses(
    state: TrainState, config: TrainConfig, objective: Objective, batch: Batch, world: World
) -> Iterator[Tensor]:
    """What each microbatch adds to the mean loss of the global batch; equal random draws whenever the step is computed."""
    own = (world.rank,) if world.rank else ()  # dropout's masks differ between ranks
    torch.manual_seed(hash((config.seed, state.step, *own)) & 0x7FFFFFFF)
    device = next(state.model.parameters()).device
    count = len(batch.labels)
    whole = count if world.size == 1 else config.batch_size
    for start_ in range(0, count, state.microbatch_size):
        part = batch.part(start_, start_ + state.microbatch_size, device)
        for block in _blocks(state.model):
            block.draws = None if part.places is None else Draws(config.seed, state.step, part.places)
        syncs(state.model, last=start_ + state.microbatch_size >= count)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = objective.loss(state.model, part)
        yield loss * (len(part.labels) / whole)


def _check_weights(state: TrainState, world: World) -> None:
    """Weights that are not finite are neither evaluated nor saved."""
    weight = bad_weight(state.model)
    if world.any(bool(weight)):
        named = f"the weight {weight}" if weight else "a weight of another rank"
        raise NotFiniteError(
            f"{named} is no longer finite after step {state.step}: the update was too large. Nothing was saved of this step "
            "or released from this run.",
            state.step,
            LOWER_RATE,
        )


def _evaluate(state: TrainState, hooks: Hooks) -> None:
    """Keep the newest weights whose result is inside the interval of the best result so far.

    On few validation images the best of many evaluations is mostly luck; the end of the schedule is where the weights
    have settled, and only a significant fall makes an earlier state the better one.
    """
    weights = state.current_weights()
    value, floor = hooks.evaluate(full_weights(weights), state.step)
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


def measure(
    model: nn.Module, config: TrainConfig, objective: Objective, batch: Batch, memory_bytes: int, shares: int = 1
) -> Measured:
    """Measure a step on a copy of the model: what it keeps in memory, and how long it takes.

    Memory is counted, not sampled, so equal runs on equal machines choose alike. ``shares``: how many ranks divide weights,
    gradients, moments and averages among them; the copy that is measured is whole.

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
    computed_again = _blocks(state.model)[:1] if config.activation_checkpointing else []
    for block in computed_again:  # the backward pass holds one block's activations at a time beside all blocks' inputs
        _set_forward(block, config, recompute=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step_once(state, config, objective, few)
    for block in computed_again:
        _set_forward(block, config, recompute=True)
    activations = sum(size for pointer, size in kept.items() if pointer not in own) // len(few.labels)
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    trained = sum(p.numel() * p.element_size() for p in state.model.parameters() if p.requires_grad)
    fixed = (weights * (3 if state.ema else 2) + 3 * trained) // shares
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
    return Measured(activations, fixed, min(micro, state.microbatch_size), seconds)
