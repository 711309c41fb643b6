"""What passes through a model's parts, seen by hooks: never a flag in the model, and whatever kernel computes attention.

with record(model, "blocks.*.attn.qkv", outputs=True) as seen:
    model(images)
seen["blocks.3.attn.qkv"]  # (B, N, 3 D)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from vitkit.config import UserError

__all__ = ["evaluating", "record"]


@contextmanager
def record(model: nn.Module, *patterns: str, outputs: bool = False) -> Iterator[dict[str, Tensor]]:
    """Keep the input, or with ``outputs`` the output, of every module whose name fits a pattern, of the last forward.

    The tensors are the model's own: nothing is copied, and what is not asked for is not kept. They live as long as the
    dictionary. A ``*`` in a pattern stands for any text.

    Raises:
        UserError: no module of the model has such a name.
    """
    names = {name: module for name, module in model.named_modules() if any(fnmatchcase(name, p) for p in patterns)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"this model has no part {pattern!r} to record.")
    seen: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output if outputs else inputs[0]

        return hook

    handles = [module.register_forward_hook(keeper(name)) for name, module in names.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, where nothing is drawn at random; afterwards every part is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
