"""Which formats there are, and which of them a file's tensor names belong to."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from types import ModuleType

from vitkit import converters
from vitkit.config import UserError

__all__ = ["format_named", "format_of", "formats"]

# Tensor names that tell other architectures, so that the refusal can name them. First match wins.
OTHERS = (
    (
        "a Swin Transformer",
        ("layers.0.blocks.0.attn.relative_position_bias_table", "features.1.0.attn.relative_position_bias_table"),
    ),
    ("BEiT", ("blocks.0.attn.relative_position_bias_table", "blocks.0.gamma_1")),
    (
        "a ConvNeXt",
        (
            *("stages.0.blocks.0.conv_dw.weight", "stages.0.0.dwconv.weight", "stages.0.blocks.0.gamma"),
            "features.1.0.layer_scale",
        ),
    ),
    ("an EfficientNet", ("conv_stem.weight", "features.1.0.block.0.0.weight")),
    ("a MobileNet", ("features.1.block.0.0.weight", "features.1.conv.0.0.weight")),
    ("a ResNet", ("layer1.0.conv1.weight", "layer1.0.bn1.weight", "resnet.embedder.embedder.convolution.weight")),
    ("an MLP-Mixer", ("MixerBlock_0/token_mixing/Dense_0/kernel", "blocks.0.mlp_tokens.fc1.weight")),
    ("a text or language model", ("model.embed_tokens.weight", "bert.embeddings.word_embeddings.weight", "wte.weight")),
)


@cache
def formats() -> tuple[ModuleType, ...]:
    """Every module of `vitkit.converters` that is a format, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(converters.__path__))
    modules = (importlib.import_module(f"vitkit.converters.{name}") for name in names if name != "formats")
    return tuple(module for module in modules if hasattr(module, "matches"))


def format_named(name: str) -> ModuleType | None:
    """The format of that NAME, if there is one."""
    return next((module for module in formats() if name == module.NAME), None)


def format_of(names: Iterable[str], where: str, declared: str | None = None) -> ModuleType:
    """The one format with these tensor names; ``declared`` is the kind of model that a config.json beside them names.

    Raises:
        UserError: none or several know them; an architecture of another kind is called by its name.
    """
    known = frozenset(names)
    found = [module for module in formats() if module.matches(known)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(sorted(known)[:4])
    if found:
        raise UserError(
            f"{where}: its tensors fit more than one layout ({', '.join(module.NAME for module in found)}): {listed}, ... "
            "The file mixes several models; export the one that is meant."
        )
    if {"patch_embed.weight", "blocks.0.norm1.weight"} <= known:
        raise UserError(
            f"{where}: these are the tensors of a vitkit bundle. Name its folder, which holds config.json too."
        )
    other = _other(known)
    kind = (
        f"these are the weights of {other}, not of a Vision Transformer"
        if other
        else "no known layout has tensors of these names"
    )
    if declared:
        kind += f"; config.json says it is {'an' if declared[0] in 'aeiou' else 'a'} {declared} model"
    raise UserError(f"{where}: {kind} ({listed}, ...). Known: {', '.join(module.NAME for module in formats())}.")


def _other(names: frozenset[str]) -> str | None:
    prefixes = ("", "module.", "backbone.", "model.")
    for architecture, told in OTHERS:
        if any(f"{prefix}{name}" in names for prefix in prefixes for name in told):
            return architecture
    return None
