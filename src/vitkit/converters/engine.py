"""Applies a table of rules between a published layout and ours, in either direction; every tensor is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from vitkit.config import UserError
from vitkit.models.vit import ViTConfig

__all__ = ["Format", "Rule", "decode", "encode", "same"]


class Rule(NamedTuple):
    """One of our tensors and the one or several of theirs that it is made of."""

    ours: str
    theirs: tuple[str, ...]
    to_ours: Callable[[list[Tensor]], Tensor]
    to_theirs: Callable[[Tensor], list[Tensor]]


class Format(Protocol):
    """What a module ``converters/<format>.py`` offers."""

    NAME: str

    def matches(self, names: frozenset[str]) -> bool: ...
    def normalise(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def config(self, state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig: ...
    def rules(self, config: ViTConfig) -> tuple[Rule, ...]: ...


def same(ours: str, theirs: str) -> Rule:
    """The tensor is stored alike under another name."""
    return Rule(ours, (theirs,), lambda parts: parts[0], lambda tensor: [tensor])


def decode(state: Mapping[str, Tensor], rules: Sequence[Rule], where: str) -> dict[str, Tensor]:
    """Their tensors to ours.

    Raises:
        UserError: a tensor the rules need is missing or of another size, or one is left over.
    """
    wanted = {name for rule in rules for name in rule.theirs}
    missing, unexpected = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or unexpected:
        raise UserError(f"{where}: the tensors do not fit a Vision Transformer. {_names(missing, unexpected)}")
    ours = {}
    for rule in rules:
        parts = [state[name] for name in rule.theirs]
        try:
            ours[rule.ours] = rule.to_ours(parts).contiguous()
        except RuntimeError:
            shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in zip(rule.theirs, parts, strict=True))
            raise UserError(f"{where}: tensors of a shape that does not fit the others: {shapes}.") from None
    return ours


def encode(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Our tensors to theirs; the inverse of `decode`.

    Raises:
        UserError: the format has no place for one of our tensors, or needs one that the model does not have.
    """
    wanted = {rule.ours for rule in rules}
    if left := sorted(set(state) - wanted):
        raise UserError(f"the format has no place for {', '.join(left[:5])}; it cannot express this model.")
    if missing := sorted(wanted - set(state)):
        raise UserError(f"the format needs {', '.join(missing[:5])}, which this model does not have.")
    return {
        name: tensor.contiguous()
        for rule in rules
        for name, tensor in zip(rule.theirs, rule.to_theirs(state[rule.ours]), strict=True)
    }


def _names(missing: Sequence[str], unexpected: Sequence[str], most: int = 5) -> str:
    parts = []
    for what, names in (("Missing", missing), ("Unexpected", unexpected)):
        if names:
            more = f" and {len(names) - most} more" if len(names) > most else ""
            parts.append(f"{what} ({len(names)}): {', '.join(names[:most])}{more}.")
    return " ".join(parts)
