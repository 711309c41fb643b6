"""Run checkpoints: the two newest stay, a damaged one is told with the way out, and nothing good is lost to a full disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitkit import checkpoint
from vitkit.checkpoint import has_checkpoint, last_step, load_checkpoint, save_checkpoint
from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.optim import OptimConfig
from vitkit.train import TrainConfig, start, step_once

CONFIG = TrainConfig(
    steps=8, batch_size=4, microbatch_size=4, seed=0, eval_every=2, patience=0, precision="fp32", fused_attention=True,
    optim=OptimConfig(lr=1e-2, warmup=0.0, ema=0.9),
)  # fmt: skip


def model() -> VisionTransformer:
    made = VisionTransformer(ViTConfig(32, 1, 2, 64, 4, 16, num_classes=3))
    made.init_weights(0)
    return made


def fresh(**optim: Any) -> Any:
    return start(model(), dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, **optim)))


def stepped(state: Any, to: int) -> Any:
    batch = Batch(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3)
    while state.step < to:
        step_once(state, CONFIG, Classify(), batch)
        state.step += 1
    return state


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 2 and 4 (and once 1)."""
    state = fresh()
    for step in (1, 2, 4):
        save_checkpoint(tmp_path, stepped(state, step))
    return tmp_path


def test_the_two_newest_are_kept_each_with_its_facts(folder: Path) -> None:
    assert names(folder) == ["step-2.json", "step-2.safetensors", "step-4.json", "step-4.safetensors"]
    assert last_step(folder) == 4
    facts = json.loads((folder / "step-4.json").read_text())
    assert facts["bytes"] == (folder / "step-4.safetensors").stat().st_size
    state = fresh()
    load_checkpoint(folder, state)
    whole = stepped(fresh(), 6)
    for mine, theirs in zip(stepped(state, 6).ema.weights.values(), whole.ema.weights.values(), strict=True):
        assert torch.equal(mine, theirs)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("harm", "name", "why"),
    [
        (cut, "step-4.safetensors", r"is cut short: \d+ of its \d+ bytes are there\. "),
        (lambda path: os.truncate(path, 0), "step-4.safetensors", r"is cut short: 0 of its \d+ bytes are there\. "),
        (
            flip,
            "step-4.safetensors",
            r"is damaged: its bytes are not those that were written \(the checksum differs\)\. ",
        ),
        (
            lengthen,
            "step-4.safetensors",
            r"is not a whole safetensors file: its header describes \d+ bytes, the file has",
        ),
        (cut, "step-4.json", r"cannot be read as JSON: .*"),
        (lambda path: path.write_text("{}"), "step-4.json", r"does not describe a checkpoint: best_step, .*"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered(
    harm: Any, name: str, why: str, folder: Path
) -> None:
    harm(folder / name)
    state = fresh()
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder, state)
    found = re.fullmatch(
        rf"{re.escape(str(folder / name))} {why}.*The previous checkpoint, of step 2, is whole: remove (\S+) and resume again "
        r"to go on from there\.",
        str(caught.value),
    )
    assert found
    assert found[1] == str(folder / name)
    assert state.step == 0
    Path(found[1]).unlink()  # as told
    load_checkpoint(folder, state)
    assert state.step == 2
    save_checkpoint(folder, stepped(state, 3))
    assert names(folder) == ["step-2.json", "step-2.safetensors", "step-3.json", "step-3.safetensors"]


def test_where_none_is_whole_it_is_said_and_never_begun_again_silently(folder: Path) -> None:
    cut(folder / "step-2.safetensors")
    cut(folder / "step-4.safetensors")
    with pytest.raises(
        UserError, match=r"step-4\.safetensors is cut short.* No other checkpoint is whole: remove .* begin"
    ):
        load_checkpoint(folder, fresh())
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert has_checkpoint(folder)
    with pytest.raises(UserError, match="holds no whole checkpoint: its tensors are gone"):
        load_checkpoint(folder, fresh())


def test_a_process_killed_between_the_two_files_leaves_the_one_before(folder: Path, monkeypatch: Any) -> None:
    state = fresh()
    load_checkpoint(folder, state)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(folder, stepped(state, 6))
    (folder / "step-7.safetensors.partial").write_bytes(b"part")  # killed while it wrote
    (folder / "step-8.json.partial").write_bytes(b"{")
    again = fresh()
    load_checkpoint(folder, again)
    assert again.step == 4
    save_checkpoint(folder, stepped(again, 5))
    assert names(folder) == ["step-4.json", "step-4.safetensors", "step-5.json", "step-5.safetensors"]


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing(folder: Path, monkeypatch: Any) -> None:
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot write .*step-6\.safetensors: No space left on device"):
            save_checkpoint(folder, stepped(fresh(), 6))
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    state = fresh()
    load_checkpoint(folder, state)
    assert state.step == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full_keeps_the_last_checkpoint_and_goes_on_when_freed(small_disk: Path) -> None:
    state = stepped(fresh(), 1)
    save_checkpoint(small_disk, state)
    size = (small_disk / "step-1.safetensors").stat().st_size
    (small_disk / "ballast").write_bytes(bytes(2**20 - 5 * size // 4))
    with pytest.raises(UserError, match=r"step-2\.safetensors: No space left on device"):
        save_checkpoint(small_disk, stepped(state, 2))
    assert names(small_disk) == ["ballast", "step-1.json", "step-1.safetensors"]
    (small_disk / "ballast").unlink()
    again = fresh()
    load_checkpoint(small_disk, again)
    save_checkpoint(small_disk, stepped(again, 2))
    assert last_step(small_disk) == 2


def test_run_folders_of_earlier_versions_go_on(folder: Path) -> None:
    """They have one ``state.json``, without length, checksum or microbatch."""
    facts = json.loads((folder / "step-4.json").read_text())
    for name in ("bytes", "sha256", "optimiser", "microbatch_size"):
        del facts[name]
    for name in ("step-4.json", "step-2.json", "step-2.safetensors"):
        (folder / name).unlink()
    (folder / "state.json").write_text(json.dumps(facts))
    assert has_checkpoint(folder)
    state = fresh()
    load_checkpoint(folder, state)
    assert (state.step, state.microbatch_size, state.ema.count) == (4, 4, 4)
    save_checkpoint(folder, stepped(state, 5))
    assert names(folder) == ["state.json", "step-4.safetensors", "step-5.json", "step-5.safetensors"]
    cut(folder / "step-5.safetensors")
    with pytest.raises(UserError, match="The previous checkpoint, of step 4, is whole"):
        load_checkpoint(folder, fresh())
    (folder / "step-5.safetensors").unlink()
    state = fresh()
    load_checkpoint(folder, state)
    for step in (6, 8):
        save_checkpoint(folder, stepped(state, step))
    assert names(folder) == ["step-6.json", "step-6.safetensors", "step-8.json", "step-8.safetensors"]
    (folder / "state.json").write_text(json.dumps({**facts, "tensors": "gone.safetensors"}))
    assert last_step(folder) == 8


def test_a_smaller_microbatch_goes_on_and_a_larger_one_does_not_come_back(folder: Path) -> None:
    state = fresh()
    load_checkpoint(folder, state)
    state.microbatch_size = 2
    save_checkpoint(folder, stepped(state, 5))
    for planned, found in ((4, 2), (1, 1)):
        again = start(model(), dataclasses.replace(CONFIG, microbatch_size=planned))
        load_checkpoint(folder, again)
        assert again.microbatch_size == found


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (
            {"optimiser": "sgd", "weight_decay": 0.0},
            r"written by another kind of optimiser, AdamW; the run's plan asks for Sgd\. Resume with the plan\.json",
        ),
        ({"moment": "bf16"}, r"another kind of optimiser, AdamW; the run's plan asks for Adam\. "),
        ({"ema": 0.0}, r"holds an average of the weights, and the run's plan asks for no average"),
        ({"layer_decay": 0.5}, r"is of a run that trains other parameters"),
    ],
)
def test_another_plan_is_refused(optim: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder, fresh(**optim))


def test_another_optimiser_is_known_by_what_it_keeps_where_its_name_was_not_written(folder: Path) -> None:
    facts = json.loads((folder / "step-4.json").read_text())
    del facts["optimiser"]
    (folder / "step-4.json").write_text(json.dumps(facts))
    message = "another kind of optimiser, which keeps exp_avg, exp_avg_sq, step; the run's plan asks for Sgd"
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder, fresh(optimiser="sgd", weight_decay=0.0))


def test_a_checkpoint_of_another_model_is_refused(folder: Path) -> None:
    other = VisionTransformer(ViTConfig(32, 2, 2, 64, 4, 16, num_classes=3))
    with pytest.raises(UserError, match="the checkpoint is of another model"):
        load_checkpoint(folder, start(other, CONFIG))
    save_file({"x": torch.zeros(1)}, folder / "step-9.safetensors")
    (folder / "step-x.json").write_text("{}")  # not ours
    assert last_step(folder) == 4


@pytest.fixture
def parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of step 6 in `folder` is as ranks write it that have parts of the model."""
    monkeypatch.setattr(checkpoint, "is_sharded", lambda _: True)
    state = fresh()
    load_checkpoint(folder, state)
    save_checkpoint(folder, stepped(state, 6))
    monkeypatch.undo()
    return folder


def test_parts_are_read_by_a_whole_model_and_goes_on_alike(parts: Path) -> None:
    assert names(parts) == ["step-4.json", "step-4.safetensors", "step-6", "step-6.json"]
    state = fresh()
    load_checkpoint(parts, state)
    wanted = stepped(fresh(), 6)
    assert state.step == 6
    for name, tensor in stepped(wanted, 8).current_weights().items():
        assert torch.equal(tensor, stepped(state, 8).current_weights()[name])


def test_a_damaged_part_is_named_and_following_the_advice_goes_on(parts: Path) -> None:
    (shard,) = (parts / "step-6").iterdir()
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(
        UserError, match=r"is cut short: .*The previous checkpoint, of step 4, is whole: remove "
    ) as caught:
        load_checkpoint(parts, fresh())
    advised = Path(re.search(r"remove (\S+) and resume again", str(caught.value))[1])  # type: ignore[index]
    advised.unlink()
    state = fresh()
    load_checkpoint(parts, state)
    assert state.step == 4
    save_checkpoint(parts, stepped(state, 6))  # beside the folder that is no checkpoint any more
    again = fresh()
    load_checkpoint(parts, again)
    assert again.step == 6
    assert names(parts) == ["step-4.json", "step-4.safetensors", "step-6.json", "step-6.safetensors"]
