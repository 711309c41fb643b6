"""Applies a table of rules between a published layout and ours, in either direction; every tensor is accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig

__all__ = [
    "Folder",
    "Format",
    "Rule",
    "Told",
    "decode",
    "encode",
    "same",
    "split_ignored",
]


class Rule(NamedTuple):
    """One of our tensors and the one or several of theirs that it is made of.

    One of theirs that several rules name is their parts, one below the other in the order of the rules.
    """

    ours: str
    theirs: tuple[str, ...]
    to_ours: Callable[[list[Tensor]], Tensor]
    to_theirs: Callable[[Tensor], list[Tensor]]


class Told(NamedTuple):
    """What the JSON files beside the weights tell that names and shapes do not."""

    model: dict[str, Any]  # fields of ViTConfig
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None


class Format(Protocol):
    """What a module ``converters/<format>.py`` offers. All but the tensors' values can be asked of meta tensors.

    A module whose library keeps JSON files beside the weights also offers what `Folder` lists. One whose published files have
    other names than the normalised ones offers ``released(state)``, the state with the names to write.
    """

    NAME: str  # unique; what people call it
    FILE: str  # the weights' usual name, with the format's extension: .npz, .safetensors or .pth
    IGNORE: tuple[str, ...]  # patterns of whole names (normalised) of tensors that are no part of the image model

    def matches(self, names: frozenset[str]) -> bool:
        """Does a file with these tensor names have this layout? True of exactly one format."""
        ...

    def normalise(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One spelling of the names: without wrappers and prefixes, newer or older numbering made one."""
        ...

    def config(self, state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
        """What the format's own code computes with these tensors (normalised, without the ignored ones)."""
        ...

    def untold(self, config: ViTConfig) -> frozenset[str]:
        """Fields that `config` assumed in a model of this kind, since names and shapes do not tell."""
        ...

    def rules(self, config: ViTConfig) -> tuple[Rule, ...]:
        """The table of a configuration, in normalised names."""
        ...

    def prepare(self, config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
        """Before writing: the same function with the tensors that the format has, where that is exact; else unchanged."""
        ...


class Folder(Protocol):
    """JSON files that a format's library reads beside the weights, both ways."""

    SIDECARS: tuple[str, ...]  # file names

    def read_sidecars(self, files: Mapping[str, Any]) -> Told:
        """What the parsed files tell; absent files are left out of ``files``."""
        ...

    def write_sidecars(
        self, config: ViTConfig, preprocess: Preprocess | None, classes: Sequence[str] | None
    ) -> dict[str, Any]:
        """File name to JSON value, so that the other library's own loader builds the same model.

        Raises:
            UserError: the library has no such model, naming the field that it cannot express.
        """
        ...


def split_ignored(state: Mapping[str, Tensor], patterns: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors of the image model, names of those left out) of a normalised state."""
    ignored = [name for name in state if any(re.fullmatch(pattern, name) for pattern in patterns)]
    left_out = set(ignored)
    return {name: tensor for name, tensor in state.items() if name not in left_out}, ignored


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
    theirs: dict[str, list[Tensor]] = {}
    for rule in rules:
        for name, tensor in zip(rule.theirs, rule.to_theirs(state[rule.ours]), strict=True):
            theirs.setdefault(name, []).append(tensor)
    return {name: (torch.cat(parts) if parts[1:] else parts[0]).contiguous() for name, parts in theirs.items()}


def _names(missing: Sequence[str], unexpected: Sequence[str], most: int = 5) -> str:
    parts = []
    for what, names in (("Missing", missing), ("Unexpected", unexpected)):
        if names:
            more = f" and {len(names) - most} more" if len(names) > most else ""
            parts.append(f"{what} ({len(names)}): {', '.join(names[:most])}{more}.")
    return " ".join(parts)
