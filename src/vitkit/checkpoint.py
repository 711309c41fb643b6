"""Run checkpoints: everything a stopped run needs to go on exactly where it was. Safetensors and JSON, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.config import UserError, read_json, write_file, write_json
from vitkit.optim import Ema
from vitkit.weights.safetensors_file import read_tensors

__all__ = ["TrainState", "has_checkpoint", "load_checkpoint", "save_checkpoint"]

FACTS = "state.json"


@dataclass
class TrainState:
    """All that changes from step to step, what a run checkpoint holds."""

    model: nn.Module  # a Vision Transformer, or what an objective built around one
    optimiser: torch.optim.Optimizer
    ema: Ema | None
    step: int = 0
    top: float | None = None  # best validation result so far, higher is better
    floor: float = 0.0  # lower end of its interval
    best_step: int = 0  # of the weights that are kept
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    evaluations_since_best: int = 0

    def current_weights(self) -> dict[str, Tensor]:
        """The weights that would be kept now: the moving average where there is one."""
        return self.ema.state() if self.ema else self.model.state_dict()


def has_checkpoint(folder: Path) -> bool:
    """Is there a whole checkpoint in ``folder``? The JSON is written last, so it marks a complete one."""
    return (folder / FACTS).is_file()


def save_checkpoint(folder: Path, state: TrainState) -> None:
    """Write the state; the previous checkpoint stays whole until this one is.

    Raises:
        UserError: the folder cannot be written.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in state.best_weights.items()}
    if state.ema:
        tensors |= {f"ema/{k}": v for k, v in state.ema.weights.items()}
    for index, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{k}": torch.as_tensor(v) for k, v in moments.items()}
    # Clones, since safetensors refuses tensors that share memory, and each step has its own file beside the last one.
    name = f"step-{state.step}.safetensors"
    write_file(folder / name, save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))
    facts = {
        "tensors": name,
        "step": state.step,
        "top": state.top,
        "floor": state.floor,
        "best_step": state.best_step,
        "evaluations_since_best": state.evaluations_since_best,
        "ema_count": state.ema.count if state.ema else 0,
    }
    write_json(folder / FACTS, facts)
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(folder: Path, state: TrainState) -> None:
    """Put a checkpoint into a fresh state of the same model and configuration.

    Raises:
        UserError: a truncated file, or one of another model.
    """
    facts: Mapping[str, Any] = read_json(folder / FACTS)
    tensors = read_tensors(folder / facts["tensors"])

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    try:
        state.model.load_state_dict(part("model/"))
    except RuntimeError as error:
        raise UserError(f"{folder}: the checkpoint is of another model: {str(error).splitlines()[0]}") from None
    state.best_weights = part("best/")
    if state.ema:
        state.ema.weights = part("ema/")
        state.ema.count = facts["ema_count"]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimiser/").items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = tensor
    state.optimiser.load_state_dict({"state": moments, "param_groups": state.optimiser.state_dict()["param_groups"]})
    state.step = facts["step"]
    state.top = facts["top"]
    state.floor = facts["floor"]
    state.best_step = facts["best_step"]
    state.evaluations_since_best = facts["evaluations_since_best"]
