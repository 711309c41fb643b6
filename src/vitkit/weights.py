"""Tensors from a safetensors file into a model, every one of them, with one clear message where that cannot be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitkit.config import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["fill", "read_tensors"]


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: missing, truncated, foreign, or not of the checksum.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(
                f"{path} is not the file its config.json describes (checksum differs): truncated or replaced."
            )
        return load(data)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except (SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a whole safetensors file: {error}. Fetch or make it again.") from None


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put tensors into a model, every one of them.

    Raises:
        UserError: missing or unexpected tensors, wrong shapes, or values that are not finite.
    """
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unexpected:
        raise UserError(
            f"{where}: the weights do not fit the configuration: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})."
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, the configuration needs {tuple(own[name].shape)}."
            )
        if not tensor.isfinite().all():
            raise UserError(f"{where}: {name} holds values that are not finite; these weights are damaged.")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
