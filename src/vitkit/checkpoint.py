"""Run checkpoints: everything a stopped run needs to go on exactly where it was. Safetensors and JSON, no pickle.

Tensors are in one file, or, where each rank has a part of them, in a folder with a file of each rank. Either is read on any
number of ranks, by a model that is sharded or not.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitkit.config import UserError, read_json, write_file, write_json
from vitkit.optim import Ema
from vitkit.parallel.shard import fill, is_sharded
from vitkit.parallel.storage import read_parts, sizes_of_parts, write_parts
from vitkit.parallel.world import ALONE, World
from vitkit.weights.safetensors_file import open_safetensors, read_tensors

__all__ = ["TrainState", "has_checkpoint", "last_step", "load_checkpoint", "save_checkpoint"]

KEEP = 2  # checkpoints: the newest, and the one before should the newest be damaged
SINGLE = "state.json"  # the facts of run folders that an earlier version wrote; it kept one checkpoint
NEEDED = {"tensors", "step", "top", "floor", "best_step", "evaluations_since_best", "ema_count"}


@dataclass
class TrainState:
    """All that changes from step to step, what a run checkpoint holds."""

    model: nn.Module  # a Vision Transformer, or what an objective built around one
    optimiser: torch.optim.Optimizer
    ema: Ema | None
    microbatch_size: int  # images per forward: the plan's, or fewer since memory ran out
    step: int = 0
    top: float | None = None  # best validation result so far, higher is better
    floor: float = 0.0  # lower end of its interval
    best_step: int = 0  # of the weights that are kept
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    evaluations_since_best: int = 0

    def current_weights(self) -> dict[str, Tensor]:
        """The weights that would be kept now: the moving average where there is one."""
        return self.ema.state() if self.ema else self.model.state_dict()


class _Saved(NamedTuple):
    step: int
    facts: Path
    tensors: Path  # a file, or a folder of parts


def _saved(folder: Path) -> list[_Saved]:
    """The checkpoints in a folder, the newest first; one whose tensors somebody removed is none."""
    found = []
    for path in folder.glob("step-*.json"):
        if (number := path.stem.removeprefix("step-")).isdecimal():
            parts = path.with_suffix("")
            found.append(_Saved(int(number), path, parts if parts.is_dir() else path.with_suffix(".safetensors")))
    if (old := folder / SINGLE).is_file() and isinstance(facts := read_json(old), dict) and facts.keys() >= NEEDED:
        found.append(_Saved(facts["step"], old, folder / facts["tensors"]))
    return sorted((saved for saved in found if saved.tensors.exists()), reverse=True)


def has_checkpoint(folder: Path) -> bool:
    """Was a checkpoint completed in ``folder``? The JSON is written last, so it marks a complete one."""
    return (folder / SINGLE).is_file() or any(folder.glob("step-*.json"))


def last_step(folder: Path) -> int | None:
    """The step of the newest checkpoint in ``folder``."""
    return next((saved.step for saved in _saved(folder)), None)


def save_checkpoint(folder: Path, state: TrainState, world: World = ALONE) -> None:
    """Write the state; the `KEEP` newest checkpoints stay, and none goes before this one is complete.

    Every rank calls this; the first one alone writes what all have.

    Raises:
        UserError: the folder cannot be written, as on a full disk; the checkpoints before this one stay whole.
    """
    new = folder / f"step-{state.step}.json"
    if world.main:
        for left in folder.glob("*.partial"):  # of a process that was killed; they may fill the disk
            _remove(left)
        for old in (
            new,
            new.with_suffix(""),
            new.with_suffix(".safetensors"),
        ):  # of this step, damaged or never finished
            _remove(old)
    if is_sharded(state.model):
        written = _write_parts(new.with_suffix(""), _tensors(state), world)
    with world.first_alone("the checkpoint"):
        if world.main:
            if not is_sharded(state.model):
                written = _write_whole(new.with_suffix(".safetensors"), _tensors(state))
            write_json(new, written | _facts(state))
            _keep_newest(folder)


def _tensors(state: TrainState) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in state.best_weights.items()}
    if state.ema:
        tensors |= {f"ema/{k}": v for k, v in state.ema.weights.items()}
    for index, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{k}": torch.as_tensor(v) for k, v in moments.items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _write_whole(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    from safetensors.torch import save

    # Clones, since safetensors refuses tensors that share memory, and each step has its own file beside the last one.
    data = save({k: v.cpu().contiguous().clone() for k, v in tensors.items()})
    write_file(path, data)
    return {"tensors": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_parts(path: Path, tensors: dict[str, Tensor], world: World) -> dict[str, Any]:
    partial = path.with_name(path.name + ".partial")
    if world.main:
        partial.mkdir(parents=True)
    world.wait("the checkpoint's folder")
    write_parts(partial, tensors)
    if not world.main:
        return {}
    files = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(partial.iterdir())}
    _remove(path)
    partial.replace(path)
    return {"tensors": path.name, "files": files}


def _facts(state: TrainState) -> dict[str, Any]:
    return {
        "optimiser": type(state.optimiser).__name__,
        "step": state.step,
        "top": state.top,
        "floor": state.floor,
        "best_step": state.best_step,
        "evaluations_since_best": state.evaluations_since_best,
        "ema_count": state.ema.count if state.ema else 0,
        "microbatch_size": state.microbatch_size,
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _keep_newest(folder: Path) -> None:
    kept = _saved(folder)[:KEEP]
    own = {path for saved in kept for path in (saved.facts, saved.tensors)}
    for pattern in (SINGLE, "step-*.json", "step-*"):  # JSON first: tensors without it are no checkpoint
        for path in folder.glob(pattern):
            if path not in own:
                _remove(path)


def load_checkpoint(folder: Path, state: TrainState, world: World = ALONE) -> None:
    """Put the newest checkpoint into a fresh state of the same model and configuration. Every rank calls this.

    Raises:
        UserError: it is damaged (the newest whole one is named), or of another model or configuration.
    """
    found = _saved(folder)
    if not found:
        raise UserError(f"{folder} holds no whole checkpoint: its tensors are gone. Remove it to begin again.")
    newest = found[0]
    problem = ""
    with world.first_alone("the check of the checkpoint"):
        if world.main:
            problem = _problem(folder, found)
    if problem := world.share(problem, "the checkpoint"):
        raise UserError(problem)
    facts: Mapping[str, Any] = read_json(newest.facts)
    tensors = _read(newest.tensors, state)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    try:
        state.model.load_state_dict(part("model/"))
    except RuntimeError as error:
        raise UserError(f"{folder}: the checkpoint is of another model: {str(error).splitlines()[0]}") from None
    state.best_weights = part("best/")
    _load_average(newest, state, part("ema/"), facts["ema_count"])
    _load_moments(newest, state, part("optimiser/"), facts)
    state.step = facts["step"]
    state.top = facts["top"]
    state.floor = facts["floor"]
    state.best_step = facts["best_step"]
    state.evaluations_since_best = facts["evaluations_since_best"]
    state.microbatch_size = min(state.microbatch_size, facts.get("microbatch_size", state.microbatch_size))


def _read(path: Path, state: TrainState) -> dict[str, Tensor]:
    """The tensors of a checkpoint, whole, or of a sharded model this rank's parts of them."""
    whole = read_tensors(path) if path.is_file() else {}
    if whole and not is_sharded(state.model):
        return whole
    sizes = {name: (tuple(t.shape), t.dtype) for name, t in whole.items()} or sizes_of_parts(path)
    targets = {name: _target(name, shape, dtype, state) for name, (shape, dtype) in sizes.items()}
    if not whole:
        read_parts(path, targets)
    for name, tensor in whole.items():
        fill(targets[name], tensor)
    return targets


def _target(name: str, shape: tuple[int, ...], dtype: torch.dtype, state: TrainState) -> Tensor:
    """Room for a tensor, divided among the ranks like the weight that it belongs to."""
    part, _, inner = name.partition("/")
    if part == "optimiser":
        parameters = [p for group in state.optimiser.param_groups for p in group["params"]]
        number = int(inner.split("/")[0])
        like = parameters[number] if number < len(parameters) else None
    else:
        like = state.model.state_dict().get(inner)
    if (
        like is None or tuple(like.shape) != shape
    ):  # a count of steps; what is of another model is told when it is loaded
        return torch.empty(shape, dtype=dtype)
    return torch.empty_like(like, dtype=dtype)


class _Damage(NamedTuple):
    path: Path
    why: str


def _problem(folder: Path, found: list[_Saved]) -> str:
    """What to say where the newest checkpoint is damaged; empty where it is not."""
    damage = _damage(found[0])
    return f"{damage.path} {damage.why}. {_offer(folder, found)}" if damage else ""


def _damage(saved: _Saved) -> _Damage | None:
    """What is wrong with a checkpoint's files, if anything."""
    try:
        facts = read_json(saved.facts)
    except UserError as error:
        return _Damage(saved.facts, str(error).removeprefix(f"{saved.facts} ").rstrip("."))
    if not isinstance(facts, dict) or not facts.keys() >= NEEDED:
        return _Damage(saved.facts, f"does not describe a checkpoint: {', '.join(sorted(NEEDED))} are expected in it")
    files = facts.get("files")
    whole = {saved.tensors: facts} if files is None else {saved.tensors / name: entry for name, entry in files.items()}
    return next((damage for path, entry in whole.items() if (damage := _damage_of_file(path, entry))), None)


def _damage_of_file(path: Path, written: Mapping[str, Any]) -> _Damage | None:
    """What is wrong with a file of which the length and checksum were kept when it was written."""
    try:
        size = path.stat().st_size
        if size < written.get("bytes", size):
            return _Damage(path, f"is cut short: {size} of its {written['bytes']} bytes are there")
        open_safetensors(path)
        if "sha256" in written and _sha256(path) != written["sha256"]:
            return _Damage(path, "is damaged: its bytes are not those that were written (the checksum differs)")
    except OSError as error:
        return _Damage(path, f"cannot be read: {error.strerror}")
    except UserError as error:
        return _Damage(path, str(error).removeprefix(f"{path} ").rstrip("."))
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _offer(folder: Path, found: list[_Saved]) -> str:
    """How to go on where the newest checkpoint is damaged."""
    damaged: list[str] = []
    for saved in found:
        damage = _damage(saved)
        if not damage:
            return (
                f"The previous checkpoint, of step {saved.step}, is whole: remove {' and '.join(damaged)} and resume again "
                "to go on from there."
            )
        damaged.append(shlex.quote(str(damage.path if damage.path.parent == folder else saved.facts)))
    return f"No other checkpoint is whole: remove {shlex.quote(str(folder))} and resume again to begin from the first step."


def _load_average(saved: _Saved, state: TrainState, average: dict[str, Tensor], count: int) -> None:
    own = state.ema.weights if state.ema else {}
    if own.keys() != average.keys():
        held, asked = ("an average" if names else "no average" for names in (average, own))
        raise UserError(f"{saved.tensors} holds {held} of the weights, and the run's plan asks for {asked}.")
    for name, tensor in average.items():
        own[name].copy_(tensor)
    if state.ema:
        state.ema.count = count


def _load_moments(saved: _Saved, state: TrainState, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = tensor
    own = type(state.optimiser).__name__
    wanted = {"momentum"} if own == "Sgd" else {"step", "exp_avg", "exp_avg_sq"}
    parameters = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
    if facts.get("optimiser", own) != own or any(entry.keys() != wanted for entry in moments.values()):
        kept = ", ".join(next(iter(moments.values())))
        raise UserError(
            f"{saved.tensors} was written by another kind of optimiser, {facts.get('optimiser', f'which keeps {kept}')}; "
            f"the run's plan asks for {own}. Resume with the plan.json that the run began with."
        )
    for number, entry in moments.items():
        shapes = {tuple(tensor.shape) for key, tensor in entry.items() if key != "step"}
        if number >= len(parameters) or shapes != {tuple(parameters[number].shape)}:
            raise UserError(
                f"{saved.tensors} is of a run that trains other parameters: resume with the run's own plan.json."
            )
    state.optimiser.load_state_dict({"state": moments, "param_groups": state.optimiser.state_dict()["param_groups"]})
