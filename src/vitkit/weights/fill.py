"""Tensors into a model, every one of them, with one clear message where that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vitkit.config import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["fill"]


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put tensors into a model, every one of them, as float32.

    A model made under ``torch.device("meta")`` has no memory of its own: it takes over the float32 tensors as they are. Any
    other model gets copies.

    Raises:
        UserError: missing or unexpected tensors, wrong shapes or dtypes, or values that are not finite.
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
        if tensor.dtype not in _floats():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{where}: {name} holds {kind} values; weights are numbers of 16, 32 or 64 bit with a point."
            )
    assign = any(tensor.is_meta for tensor in own.values())
    values, seen = {}, set[int]()
    for name, tensor in state.items():
        value = tensor.detach().float()
        if not _is_finite(value):
            raise UserError(f"{where}: {name} holds values that are not finite; these weights are damaged.")
        if assign:  # parameters that share memory would train as one, and could not be saved
            value = value.contiguous()
            if value.untyped_storage().nbytes() != value.nbytes or value.data_ptr() in seen:
                value = value.clone()
            seen.add(value.data_ptr())
        values[name] = value
    model.load_state_dict(values, assign=assign)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    assert not left, f"a buffer that no file stores must be made with real values also on the meta device: {left}"


def _floats() -> frozenset[object]:
    import torch

    return frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))


def _is_finite(values: Tensor) -> bool:
    """A finite sum has finite terms, and costs a tenth of looking at each; finite terms may still have none."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
