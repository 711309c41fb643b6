"""A loss or gradient that is not finite: where it came from is named, and nothing is touched by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from faults import Told
from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.diagnose import NotFiniteError
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.objectives.masked_patch import MaskedPatches
from vitkit.optim import OptimConfig
from vitkit.train import TrainConfig, start, step_once, train

CONFIG = TrainConfig(
    steps=8, batch_size=8, microbatch_size=3, seed=0, eval_every=2, patience=0, precision="fp32", fused_attention=True,
    optim=OptimConfig(lr=1e-2, warmup=0.0, ema=0.9),
)  # fmt: skip
NAN, INF = float("nan"), float("inf")


def model(**changes: object) -> VisionTransformer:
    base = ViTConfig(embed_dim=32, depth=5, num_heads=2, mlp_dim=64, patch_size=4, image_size=16, num_classes=3)
    made = VisionTransformer(dataclasses.replace(base, **changes))
    made.init_weights(0)
    return made


def batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch(torch.randn(8, 3, 16, 16, generator=rng), torch.arange(8) % 3, torch.arange(40, 48))


def everything(state: Any) -> list[Tensor]:
    """Copies of weights, moments and averages."""
    moments = [m for entry in state.optimiser.state_dict()["state"].values() for m in entry.values()]
    tensors = [*state.model.state_dict().values(), *moments, *state.ema.weights.values()]
    return [tensor.clone() for tensor in tensors]


def failing(break_: Callable[[Any], Any], config: TrainConfig = CONFIG, **changes: object) -> tuple[str, Told, Any]:
    """(the message, what the loop told, the state) of a run whose step 6 is broken; the state must be as after step 5."""
    state = start(model(**changes), config)
    before: list[Tensor] = []

    def at_six(step: int) -> None:
        if step == 6:
            before.extend(everything(state))
            break_(state)

    told = Told(at_six)
    with pytest.raises(UserError) as caught:
        train(state, config, Classify(), [batch()] * config.steps, told)
    assert state.step == 5
    assert state.ema.count == 5
    assert told.saved == [2, 4]
    for old, new in zip(before, everything(state), strict=True):
        assert torch.equal(old, new)
    return str(caught.value), told, state


def spoil(module: Any, value: float = NAN) -> None:
    """One value of a module's output is broken from now on."""

    def hook(_: Any, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[1, 2, 3] = value
        return output

    module.register_forward_hook(hook)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_the_first_module_is_named_and_nothing_is_touched(again: bool, precision: str, value: float) -> None:
    config = dataclasses.replace(CONFIG, precision=precision, activation_checkpointing=again)
    said, told, _ = failing(lambda state: spoil(state.model.blocks[3].mlp.fc1, value), config)
    assert "the loss became nan at step 6 (learning rate " in said
    assert "First not finite: the output of blocks.3.mlp.fc1; the batch and all weights are finite. " in said
    assert said.endswith("This step updated nothing, and nothing was released from this run. Kept.")
    fault, kept = told.faults[0]
    assert fault.step == 6
    assert "lower lr" in fault.change
    assert torch.equal(kept.images, batch().images)


def test_a_later_microbatch_and_random_draws_are_found_too() -> None:
    """The step is computed again with the same draws: a value that only a dropped unit breaks is found where it was."""
    dropped: list[Tensor] = []

    def late(state: Any) -> None:
        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            if len(output) == 2:  # the last of 3 + 3 + 2
                dropped.append(output == 0)
                output = torch.where(output == 0, NAN, output)
            return output

        state.model.blocks[2].mlp.dropout.register_forward_hook(hook)

    said, _, _ = failing(late, dropout=0.1)
    assert "First not finite: the output of blocks.2.mlp.dropout;" in said
    assert torch.equal(*dropped)


def test_arithmetic_between_modules_is_named_by_the_input_it_made() -> None:
    def break_(state: Any) -> None:
        attn = state.model.blocks[1].attn
        attn.forward = lambda x: attn.proj(attn.qkv(x)[..., :32] * INF)

    said, _, _ = failing(break_)
    assert "First not finite: the input of blocks.1.attn.proj;" in said


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_gradient_alone_is_named_by_its_parameter(clip: float | None, kind: str) -> None:
    decay = 0.05 if kind == "adamw" else 0.0
    optim = OptimConfig(lr=1e-3, warmup=0.0, ema=0.9, clip_norm=clip, optimiser=kind, weight_decay=decay)

    def break_(state: Any) -> None:
        for name in ("blocks.1.attn.qkv.weight", "blocks.2.norm2.bias", "cls_token"):
            state.model.get_parameter(name).register_hook(lambda gradient: gradient * INF)

    said, told, _ = failing(break_, dataclasses.replace(CONFIG, optim=optim))
    assert "the gradient's norm became " in said
    assert "First not finite: the gradient of blocks.2.norm2.bias; the batch and all weights are finite." in said
    assert "lower lr" in told.faults[0][0].change


def test_gradients_whose_norm_alone_is_too_large_are_named_by_the_largest() -> None:
    def break_(state: Any) -> None:
        state.model.blocks[0].mlp.fc2.bias.register_hook(lambda gradient: gradient * 0 + 1e38)

    said, _, _ = failing(break_)
    assert "the norm of all gradients; the largest value, 3e+38, is in that of blocks.0.mlp.fc2.bias" in said


def test_an_input_that_is_not_finite_is_named_by_its_place() -> None:
    state = start(model(), CONFIG)
    bad = batch()
    bad.images[2, 0, 3, 3] = NAN
    bad.images[5] = INF
    told = Told()
    with pytest.raises(UserError) as caught:
        train(state, CONFIG, Classify(), [bad], told)
    assert (
        "First not finite: the input of the model; so is the input, image 2, 5 of the batch (places 42, 45 of the run); "
        "all weights are finite." in str(caught.value)
    )
    assert told.faults[0][0].change == "mend or remove what these were read from"
    soft = batch()._replace(labels=torch.full((8, 3), NAN), places=None)
    with pytest.raises(
        NotFiniteError,
        match=r"finite: the loss itself; so is the input, label 0, 1, 2, 3, 4 and 3 more of the batch; all",
    ):
        step_once(start(model(), CONFIG), CONFIG, Classify(), soft)


def test_a_weight_that_is_not_finite_is_named() -> None:
    state = start(model(), CONFIG)
    state.model.blocks[2].mlp.fc2.weight.data[0, 0] = NAN
    with pytest.raises(NotFiniteError) as caught:
        step_once(state, CONFIG, Classify(), batch())
    assert "the output of blocks.2.mlp.fc2; so is the weight blocks.2.mlp.fc2.weight, from before" in str(caught.value)
    assert caught.value.change == "begin from weights that are finite"


def test_what_does_not_happen_again_is_said_to_be_chance() -> None:
    def once(state: Any) -> None:
        calls: list[int] = []

        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            calls.append(1)
            return output * NAN if len(calls) == 1 else output

        state.model.blocks[0].register_forward_hook(hook)

    said, told, _ = failing(once)
    assert "Computed again all is finite: chance, or the machine is at fault; the batch and all weights" in said
    assert told.faults[0][0].change == ""


def test_weights_that_an_update_spoils_are_neither_evaluated_nor_saved() -> None:
    state = start(model(), CONFIG)

    def break_(step: int) -> None:
        if step == 4:
            state.optimiser.register_step_post_hook(lambda *_: state.model.norm.weight.data.fill_(INF))

    told = Told(break_)
    with pytest.raises(
        UserError, match=r"the weight norm\.weight is no longer finite after step 4: the update was too large"
    ):
        train(state, CONFIG, Classify(), [batch()] * CONFIG.steps, told)
    assert told.saved == [2]


def test_what_an_objective_builds_around_a_model_is_named_as_it_is() -> None:
    masked = MaskedPatches(0, (0.5,) * 3, (0.5,) * 3)
    state = start(masked.build(model(num_classes=0)), CONFIG)
    spoil(state.model.backbone.blocks[3].attn.proj)
    with pytest.raises(NotFiniteError, match=r"the output of backbone\.blocks\.3\.attn\.proj;"):
        step_once(state, CONFIG, masked, batch())
