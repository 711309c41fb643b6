"""A model on several ranks: what they compute together is what one computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ranks import on_ranks

TRAINING = """
from torch import nn
import torch.nn.functional as F
from vitkit.models.vit import ViTConfig, VisionTransformer
from vitkit.parallel.shard import fill, full_weights, is_sharded, shard, sum_gradients, syncs
from vitkit.parallel.storage import read_parts, write_parts
config = ViTConfig(embed_dim=32, depth=2, num_heads=2, mlp_dim=48, patch_size=4, image_size=16, num_classes=3)
def fresh():
    model = VisionTransformer(config)
    model.init_weights(0)
    with torch.no_grad():
        model.head.weight.copy_(torch.linspace(-0.1, 0.1, 96).view(3, 32))
    return model
generator = torch.Generator().manual_seed(1)
images, labels = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 3
def gradients(model, world):
    own = list(world.part(8))
    cut = len(own) // 2
    for number, places in enumerate((own[:cut], own[cut:])):
        syncs(model, last=number == 1)
        loss = F.cross_entropy(model(images[places]), labels[places]) * len(places) / 8
        loss.backward()
    sum_gradients(model, world)
"""


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_gradients_of_two_ranks_are_those_of_one(kind: str, tmp_path: Path) -> None:
    done = on_ranks(
        2,
        TRAINING
        + f"""
with session(60, print) as world:
    model, alone = fresh(), fresh()
    if {kind!r} == "fsdp2":
        shard(model, model.blocks, world)
    assert is_sharded(model) == ({kind!r} == "fsdp2")
    gradients(model, world)
    F.cross_entropy(alone(images), labels).backward()
    whole = full_weights({{name: p.grad for name, p in model.named_parameters()}})
    keep(world, max((whole[name] - p.grad).abs().max().item() for name, p in alone.named_parameters()))
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert json.loads((tmp_path / f"rank-{rank}.json").read_text()) < 1e-6


@pytest.mark.parametrize("changes", [{"position": "relative"}, {"position_at": "layers"}])
def test_positions_inside_the_blocks_have_the_gradient_of_one_process_when_sharded(
    changes: dict[str, str], tmp_path: Path
) -> None:
    done = on_ranks(
        2,
        TRAINING
        + f"""
import dataclasses
config = dataclasses.replace(config, **{changes!r})
with session(60, print) as world:
    model, alone = fresh(), fresh()
    for each in (model, alone):  # a head of which the last norm does not take the gradient away
        each.head.weight.data.normal_(generator=torch.Generator().manual_seed(2))
    shard(model, model.blocks, world)
    gradients(model, world)
    F.cross_entropy(alone(images), labels).backward()
    whole = full_weights({{name: p.grad for name, p in model.named_parameters()}})
    places = [p.grad.abs().max().item() for name, p in alone.named_parameters() if "relative" in name or "pos_" in name]
    assert places and min(places) > 1e-3, places
    apart = {{name: (whole[name] - p.grad).abs().max() / p.grad.abs().max() for name, p in alone.named_parameters()}}
    keep(world, max(apart[name].item() for name, p in alone.named_parameters() if p.grad.abs().max() > 1e-6))
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert json.loads((tmp_path / f"rank-{rank}.json").read_text()) < 2e-5


OBJECTIVES = """
import dataclasses
from vitkit.data.loader import Batch
from vitkit.objectives.distill import Distill
from vitkit.objectives.masked_patch import MaskedPatches
def build(kind):
    if kind == "masked":
        objective = MaskedPatches(0, (0.5,) * 3, (0.5,) * 3)
        torch.manual_seed(0)
        return objective.build(fresh()), objective
    two = dataclasses.replace(config, distilled=True, registers=1)
    model = VisionTransformer(two)
    model.init_weights(0)
    return model, Distill(fresh(), "soft")
"""


@pytest.mark.parametrize("kind", ["masked", "distilled"])
def test_every_objective_has_the_loss_and_gradient_of_one_process_when_sharded(kind: str, tmp_path: Path) -> None:
    done = on_ranks(
        2,
        TRAINING
        + OBJECTIVES
        + f"""
def step(model, objective, places, count):
    batch = Batch(images[places], labels[places], torch.tensor(places))
    loss = objective.loss(model, batch) * len(places) / count
    loss.backward()
    return loss.item()
with session(60, print) as world:
    (model, objective), (alone, _) = build({kind!r}), build({kind!r})
    shard(model, [m for m in model.modules() if type(m).__name__ == "Block"], world)
    (loss,) = world.sum([step(model, objective, list(world.part(8)), 8)])
    expected = step(alone, objective, list(range(8)), 8)
    whole = full_weights({{name: p.grad for name, p in model.named_parameters() if p.grad is not None}})
    wanted = {{name: p.grad for name, p in alone.named_parameters() if p.grad is not None}}
    assert whole.keys() == wanted.keys()
    keep(world, [loss - expected, max((whole[name] - wanted[name]).abs().max().item() for name in wanted)])
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert max(map(abs, json.loads((tmp_path / f"rank-{rank}.json").read_text()))) < 1e-6


def test_parts_that_two_ranks_wrote_are_read_by_one_and_by_three(tmp_path: Path) -> None:
    written = on_ranks(
        2,
        TRAINING
        + """
with session(60, print) as world:
    model = fresh()
    shard(model, model.blocks, world)
    (OUT / "parts").mkdir(exist_ok=True)
    write_parts(OUT / "parts", model.state_dict() | {"count": torch.tensor(7)})
""",
        tmp_path,
    )
    assert written.returncode == 0, written.stderr
    assert {path.suffix for path in (tmp_path / "parts").iterdir()} == {".safetensors"}
    for ranks in (1, 3):
        read = on_ranks(
            ranks,
            TRAINING
            + """
with session(60, print) as world:
    model = VisionTransformer(config)
    if world.size > 1:
        shard(model, model.blocks, world)
    count = torch.tensor(0)
    read_parts(OUT / "parts", model.state_dict() | {"count": count})
    whole = full_weights(model.state_dict())
    other = VisionTransformer(config)
    if world.size > 1:
        shard(other, other.blocks, world)
    for name, tensor in other.state_dict().items():
        fill(tensor, whole[name])
    again = full_weights(other.state_dict())
    wanted = fresh().state_dict()
    keep(world, [int(count), all(torch.equal(whole[n], wanted[n]) and torch.equal(again[n], wanted[n]) for n in wanted)])
""",
            tmp_path,
        )
        assert read.returncode == 0, read.stderr
        assert all(json.loads((tmp_path / f"rank-{rank}.json").read_text()) == [7, True] for rank in range(ranks))


def test_parts_that_are_cut_short_or_of_another_model_are_told(tmp_path: Path) -> None:
    import torch

    from vitkit.config import UserError
    from vitkit.parallel.storage import read_parts, write_parts

    folder = tmp_path / "parts"
    folder.mkdir()
    write_parts(folder, {"a": torch.arange(1000.0)})
    with pytest.raises(UserError, match=r"parts cannot be read: .*b"):
        read_parts(folder, {"b": torch.zeros(1000)})
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="parts cannot be read"):
        read_parts(folder, {"a": torch.zeros(1000)})
