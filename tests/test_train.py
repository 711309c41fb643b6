"""The loop: microbatches add up, norms and softmax stay exact enough, memory is counted alike, steps are functions."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.optim import OptimConfig
from vitkit.train import TrainConfig, measure, start, step_once

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
