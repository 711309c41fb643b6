"""The loop: microbatches add up, norms and softmax stay exact enough, memory is counted alike, steps are functions."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from faults import Told, in_backward, out_of_memory
from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.engines.native.training import training_missing
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.optim import OptimConfig
from vitkit.train import TrainConfig, measure, start, step_once, train

CONFIG = TrainConfig(
    steps=10, batch_size=8, microbatch_size=8, seed=0, eval_every=5, patience=0, precision="fp32", fused_attention=True,
    optim=OptimConfig(lr=1e-2, warmup=0.0),
)  # fmt: skip


def model(**changes: object) -> VisionTransformer:
    base = ViTConfig(embed_dim=32, depth=2, num_heads=2, mlp_dim=64, patch_size=4, image_size=16, num_classes=3)
    made = VisionTransformer(dataclasses.replace(base, **changes))
    made.init_weights(0)
    return made


def batch(count: int = 8) -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch(torch.randn(count, 3, 16, 16, generator=rng), torch.arange(count) % 3)


def losses(config: TrainConfig, steps: int = 4, **changes: object) -> list[float]:
    state = start(model(**changes), config)
    found = []
    for _ in range(steps):
        found.append(step_once(state, config, Classify(), batch())[0])
        state.step += 1
    return found


def test_the_loss_falls() -> None:
    found = losses(CONFIG, 8)
    assert found[0] == pytest.approx(1.0986, abs=1e-3)  # ln 3: the head starts at zero
    assert found[-1] < 0.5 * found[0]


def test_microbatches_add_up_to_the_batch() -> None:
    parts = losses(dataclasses.replace(CONFIG, microbatch_size=3))  # 3 + 3 + 2
    assert parts == pytest.approx(losses(CONFIG), abs=1e-4)


def test_plain_products_and_fused_attention_agree() -> None:
    assert losses(dataclasses.replace(CONFIG, fused_attention=False)) == pytest.approx(losses(CONFIG), abs=1e-4)


def test_bfloat16_follows_float32() -> None:
    """Norms read the float32 residual stream and softmax is float32, so the first losses agree closely."""
    half = losses(dataclasses.replace(CONFIG, precision="bf16", fused_attention=False))
    assert half == pytest.approx(losses(CONFIG), abs=0.02)
    seen = {}
    made = model()
    for name, module in made.named_modules():
        if name.endswith(("norm1", "norm2")) or name == "norm":
            module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, i[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        made(batch().images)
    assert set(seen.values()) == {torch.float32}


COMPILED = dataclasses.replace(CONFIG, precision="bf16", fused_attention=False, compiled_blocks=True)
needs_compiled = pytest.mark.skipif(bool(training_missing()), reason=training_missing())


@needs_compiled
def test_compiled_blocks_follow_float32_and_compute_the_same_again() -> None:
    found = losses(COMPILED, drop_path=0.2)
    assert found == pytest.approx(losses(CONFIG, drop_path=0.2), abs=0.02)
    assert found == losses(COMPILED, drop_path=0.2)
    assert found != losses(dataclasses.replace(COMPILED, compiled_blocks=False), drop_path=0.2)
    again = dataclasses.replace(COMPILED, activation_checkpointing=True)
    assert losses(again, drop_path=0.2) == found
    assert losses(dataclasses.replace(COMPILED, microbatch_size=3)) == pytest.approx(losses(COMPILED), abs=0.02)


@needs_compiled
def test_a_copy_of_a_model_with_compiled_blocks_is_trained_for_itself() -> None:
    state = start(model(), COMPILED)
    other = copy.deepcopy(state.model)
    assert all(one.forward.args[0] is one for one in other.blocks)
    assert all(one.forward.args[0] is one for one in state.model.blocks)
    kept = measure(model(), dataclasses.replace(COMPILED, activation_checkpointing=True), Classify(), batch(), 2**33)
    assert kept.activation_bytes < measure(model(), COMPILED, Classify(), batch(), 2**33).activation_bytes


def test_in_float32_compiled_blocks_change_no_bit() -> None:
    assert losses(dataclasses.replace(CONFIG, compiled_blocks=True)) == losses(CONFIG)


def test_where_compiled_blocks_cannot_be_had_the_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.train.untrained", lambda block: "VITKIT_NATIVE=0")
    few = dataclasses.replace(COMPILED, steps=2)
    told, plain = Told(), Told()
    train(start(model(), few), few, Classify(), [batch()] * 2, told)
    few = dataclasses.replace(few, compiled_blocks=False)
    train(start(model(), few), few, Classify(), [batch()] * 2, plain)
    assert told.losses == plain.losses
    assert plain.notes == []
    assert told.notes == [
        "this run was planned with compiled blocks; PyTorch's operators compute them here: VITKIT_NATIVE=0."
    ]


def test_a_step_is_a_function_of_weights_batch_seed_and_step() -> None:
    noisy = {"dropout": 0.3, "drop_path": 0.3}
    first = losses(CONFIG, **noisy)
    torch.rand(17)  # the global generator's past does not matter
    assert losses(CONFIG, **noisy) == first
    assert losses(dataclasses.replace(CONFIG, seed=1), **noisy) != first


def test_the_measured_microbatch_fits_the_memory_and_leaves_the_model_alone() -> None:
    made = model()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    plenty = measure(made, CONFIG, Classify(), batch(), memory_bytes=2**33)
    assert plenty.microbatch_size == 8
    again = measure(made, CONFIG, Classify(), batch(), memory_bytes=2**33)
    assert (again.activation_bytes, again.fixed_bytes) == (plenty.activation_bytes, plenty.fixed_bytes)
    tight = measure(made, CONFIG, Classify(), batch(), plenty.fixed_bytes + 2 * plenty.activation_bytes * 3)
    assert tight.microbatch_size in (2, 3)
    with pytest.raises(UserError, match="GiB are at hand"):
        measure(made, CONFIG, Classify(), batch(), plenty.fixed_bytes)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    state = start(model(), CONFIG)
    bad = Batch(torch.full((8, 3, 16, 16), float("nan")), torch.zeros(8, dtype=torch.long))
    with pytest.raises(UserError, match="the loss became nan at step 1"):
        step_once(state, CONFIG, Classify(), bad)


def test_smoothing_is_that_of_the_formula() -> None:
    state = start(model(), CONFIG)
    state.model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    logits = state.model(batch().images)
    target = torch.nn.functional.one_hot(batch().labels, 3) * 0.7 + 0.1
    by_hand = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(Classify(0.3).loss(state.model, batch()), by_hand)


# Memory that runs out


def trained(
    config: TrainConfig, before_step: Callable[[Any, int], None] = lambda state, step: None, **changes: object
) -> tuple[Told, dict[str, Tensor], int]:
    """(what the loop told, the final average of the weights, the final microbatch size)."""
    state = start(model(**changes), config)
    told = Told(lambda step: before_step(state, step))
    train(state, config, Classify(), [batch()] * config.steps, told)
    return told, state.current_weights(), state.microbatch_size


WITH_AVERAGE = dataclasses.replace(CONFIG, optim=OptimConfig(lr=1e-2, warmup=0.0, ema=0.9))


@pytest.mark.parametrize("most", [7, 4, 1])
def test_a_step_that_runs_out_of_memory_is_done_again_in_smaller_parts(most: int) -> None:
    def shrink(state: Any, step: int) -> None:
        if step == 5:
            in_backward(state.model.blocks[0].attn, most)

    plain, weights, _ = trained(WITH_AVERAGE)
    told, after, size = trained(WITH_AVERAGE, shrink)
    assert size == {7: 4, 4: 4, 1: 1}[most]
    assert told.losses == pytest.approx(plain.losses, abs=1e-5)
    # Outputs, not weights: Adam makes steps of the rounding error that is the gradient of the keys' bias, which changes nothing.
    outputs = []
    for average in (weights, after):
        made = model()
        made.load_state_dict(average)
        outputs.append(made.eval()(batch().images))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    assert told.notes == [
        f"out of memory at step 5 with 8 images at a time; from here on {size} at a time, with the same 8 images per step."
    ]


def test_the_step_that_is_done_again_draws_the_same_random_numbers() -> None:
    """As if the smaller size had been chosen before the step, to the last bit."""
    noisy = {"dropout": 0.3, "drop_path": 0.3}

    def fail(state: Any, step: int) -> None:
        if step == 5:
            in_backward(state.model.blocks[1].mlp, 4)

    def choose(state: Any, step: int) -> None:
        if step == 5:
            state.microbatch_size = 4

    failed, one, _ = trained(WITH_AVERAGE, fail, **noisy)
    chosen, two, _ = trained(WITH_AVERAGE, choose, **noisy)
    assert failed.losses == chosen.losses
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_what_the_failed_try_held_is_free_before_the_next() -> None:
    state = start(model(), CONFIG)
    alive: list[int] = []
    kept: list[weakref.ref[Tensor]] = []

    def watch(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        if len(output) < 8 and not alive:
            alive.append(sum(tensor() is not None for tensor in kept))
        kept.append(weakref.ref(output))

    for block in state.model.blocks:
        block.mlp.fc1.register_forward_hook(watch)
    in_backward(state.model.blocks[0].attn, 4)
    step_once(state, CONFIG, Classify(), batch())
    assert len(kept) == 6  # 2 blocks of the failed try, and of each half
    assert alive == [0]
    assert state.microbatch_size == 4


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to ..."
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_allocator_is_understood(error: Exception) -> None:
    def fail(_: Any) -> None:
        raise error

    state = start(model(), CONFIG)
    in_backward(state.model.blocks[0], 4, fail)
    step_once(state, CONFIG, Classify(), batch())
    assert state.microbatch_size == 4


def test_other_errors_pass_and_one_image_that_does_not_fit_is_one_message() -> None:
    state = start(model(), CONFIG)

    def fail(_: Any) -> None:
        raise RuntimeError("shapes differ")

    handle = in_backward(state.model.blocks[0], 0, fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        step_once(state, CONFIG, Classify(), batch())
    handle.remove()
    in_backward(state.model.blocks[0], 0, out_of_memory)
    with pytest.raises(UserError, match=r"step 1 ran out of memory with one image at a time\. Free memory that other"):
        step_once(state, CONFIG, Classify(), batch())


def test_a_real_allocation_that_fails_on_the_cpu_is_survived() -> None:
    state = start(model(), CONFIG)

    def fail(_: Any) -> None:
        torch.empty(2**55)

    in_backward(state.model.blocks[0], 4, fail)
    step_once(state, CONFIG, Classify(), batch())
    assert state.microbatch_size == 4


# Checkpoints by time


def test_checkpoints_are_also_written_by_time_and_change_nothing() -> None:
    seldom = dataclasses.replace(CONFIG, steps=6, eval_every=3)
    often = dataclasses.replace(seldom, checkpoint_every=0.0)
    (plain, one, _), (told, two, _) = trained(seldom), trained(often)
    assert plain.saved == [3, 6]
    assert told.saved == [1, 2, 3, 4, 5, 6]
    assert plain.losses == told.losses
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


# Activations that are computed again


AGAIN = dataclasses.replace(CONFIG, activation_checkpointing=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_changes_no_gradient(precision: str) -> None:
    noisy = {"dropout": 0.3, "attention_dropout": 0.2, "drop_path": 0.3, "depth": 3}
    gradients = []
    for config in (CONFIG, AGAIN):
        config = dataclasses.replace(config, precision=precision)
        state = start(model(**noisy), config)
        state.model.head.weight.data.normal_(
            generator=torch.Generator().manual_seed(0)
        )  # a zero head passes nothing back
        step_once(state, dataclasses.replace(config, optim=OptimConfig(clip_norm=None)), Classify(), batch())
        gradients.append({name: p.grad.clone() for name, p in state.model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6)
    assert losses(AGAIN, **noisy) == losses(CONFIG, **noisy)


def test_a_block_is_computed_twice_and_a_copy_computes_its_own() -> None:
    state = start(model(), AGAIN)
    calls = []
    state.model.blocks[1].mlp.fc1.register_forward_hook(lambda *_: calls.append(1))
    step_once(state, AGAIN, Classify(), batch())
    assert len(calls) == 2
    twin = copy.deepcopy(state.model)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
        assert twin(batch().images).abs().max() > 0
    assert len(calls) == 3  # the copy has a copy of the hook
    assert list(twin.state_dict()) == list(model().state_dict())


def test_measured_memory_is_all_inputs_and_the_inside_of_one_block() -> None:
    big = {"depth": 6, "embed_dim": 64, "mlp_dim": 256}
    plain = measure(model(**big), CONFIG, Classify(), batch(), memory_bytes=2**33)
    again = measure(model(**big), AGAIN, Classify(), batch(), memory_bytes=2**33)
    one = measure(model(**{**big, "depth": 1}), CONFIG, Classify(), batch(), memory_bytes=2**33)
    tokens = 17 * 64 * 4  # bytes of one image's input to a block
    assert again.fixed_bytes == plain.fixed_bytes
    assert again.activation_bytes == pytest.approx(one.activation_bytes + 5 * tokens, rel=0.01)
    assert again.activation_bytes < 0.35 * plain.activation_bytes


def test_a_measured_step_that_runs_out_of_memory_lowers_the_measured_size() -> None:
    made = model()
    in_backward(made.blocks[0], 5)
    assert measure(made, CONFIG, Classify(), batch(), memory_bytes=2**33).microbatch_size == 4
